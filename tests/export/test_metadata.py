"""What a file says about itself survives its text."""

import pytest

from mmvheat.errors import UserError
from mmvheat.export import Metadata


def test_it_comes_back_from_its_text():
    metadata = Metadata(
        task='segmentation',
        outputs=('logits',),
        classes=('wall', 'día'),
        palette=((0, 0, 0), (255, 1, 2)),
        mean=(123.675, 116.28, 103.53),
        size=(512, 384),
        batch='dynamic',
        resize={'size': (512, None), 'keep_ratio': True},
        source={'file': 'a.pth', 'sha256': '0' * 64},
    )
    assert Metadata.from_json(metadata.to_json(), 'a.onnx') == metadata


@pytest.mark.parametrize('text', [None, '', 'no', '[1]', '{}', '{"task": "detection"}'])
def test_a_file_of_others_is_told(text: str | None):
    with pytest.raises(UserError, match=r'a\.onnx has no metadata of tools/export\.py'):
        Metadata.from_json(text, 'a.onnx')
