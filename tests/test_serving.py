"""The server of docs/serving.md: the code on the page, run."""

import io
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from tiny_onnx import write_tiny_onnx

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def client(tmp_path_factory: pytest.TempPathFactory):
    """The page's server with a model that tells colours."""
    folder = tmp_path_factory.mktemp('server')
    (code,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/serving.md').read_text(), re.DOTALL)
    assert code.count('\n') <= 70
    (folder / 'server.py').write_text(code)
    shutil.copy(ROOT / 'tools/predict.py', folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv('MODEL', write_tiny_onnx(folder / 'model.onnx', 'classification'))
        import server

        yield TestClient(server.app)
    for name in ('server', 'predict'):
        del sys.modules[name]


def png(height: int, width: int, colour: tuple[int, int, int] = (0, 200, 0)) -> bytes:
    content = io.BytesIO()
    Image.new('RGB', (width, height), colour).save(content, 'png')
    return content.getvalue()


def test_it_predicts(client):
    answer = client.post('/predict?top_k=1', files={'image': ('a.png', png(6, 8))})
    assert answer.status_code == 200
    assert answer.json() == {
        'size': [6, 8],
        'task': 'classification',
        'found': [{'label': 1, 'class': 'green', 'score': pytest.approx(1)}],
    }
    assert client.get('/').json()['classes'] == ['red', 'green', 'blue']


def chunks():
    yield b'--b\r\n'


@pytest.mark.parametrize(
    'status, words, request_',
    [
        (422, 'a.txt cannot be read as an image', dict(files={'image': ('a.txt', b'text')})),
        (422, 'at most 40,000,000', dict(files={'image': ('a.png', png(7000, 6000))})),
        (413, 'more than 10,485,760', dict(files={'image': ('a.png', bytes(11 * 2**20))})),
        (411, 'Content-Length is missing', dict(content=chunks())),
        (422, 'image', dict(data={'name': 'a.png'})),
        (422, 'score_thr', dict(files={'image': ('a.png', png(2, 2))}, params={'score_thr': 2})),
    ],
    ids=['text', 'pixels', 'bytes', 'length', 'no image', 'threshold'],
)
def test_a_mistake_is_answered_in_words(client, status, words, request_):
    answer = client.post('/predict', **request_)
    assert answer.status_code == status
    assert words in answer.text


def test_a_size_that_the_model_does_not_take_is_answered_in_words(client, monkeypatch):
    def run(inputs: np.ndarray):
        raise RuntimeError('no such size')

    import server

    monkeypatch.setattr(server, 'model', type(server.model)(server.model.metadata, run))
    answer = client.post('/predict', files={'image': ('a.png', png(6, 8))})
    assert answer.status_code == 422 and 'cannot run an input' in answer.json()['error']
