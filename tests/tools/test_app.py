"""tools/app.py: what the page answers, to whom, and what it refuses in words."""

import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from http.client import HTTPConnection
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from heat_page.answers import Answers, Heat
from heat_page.models import ShownModel, example_images, load_models
from heat_page.uploads import LONGEST_SIDE, MAX_BYTES, read_photo
from in_process import load_script
from PIL import Image
from tiny_models import CLASSES, make_tiny_model

from mmvheat.cli.command import run_command
from mmvheat.errors import UserError
from mmvheat.visualization import block_diffusivity, map_cell, operator_input, point_heat

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / 'configs'
# Each model has a stage with more than one block.
DEPTHS = {'classification': (1, 1, 1, 3), 'detection': (2, 1, 1, 1), 'segmentation': (1, 2, 1, 1)}


@pytest.fixture(scope='module')
def pairs(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> list[tuple[str, str]]:
    """A config and a checkpoint for each library."""
    folder = tmp_path_factory.mktemp('models')
    torch.manual_seed(0)
    made = []
    for library, classes in CLASSES.items():
        config, checkpoint = folder / f'tiny_{library}.py', folder / f'{library}.pth'
        arch = dict(depths=DEPTHS[library], dims=8)
        config.write_text(
            f'_base_ = {str(CONFIGS / f"{library}.py")!r}\n'
            f'model = dict(backbone=dict(arch={arch}))\n'
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('TINY_DATA', str(tiny_data))
            make_tiny_model(config, classes, checkpoint)
        made.append((str(config), str(checkpoint)))
    return made


@pytest.fixture(scope='module')
def models(pairs: list[tuple[str, str]], tiny_data: Path) -> list[ShownModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TINY_DATA', str(tiny_data))
        return load_models(pairs, 'cpu', Path.cwd())


@pytest.fixture
def answers(models: list[ShownModel]) -> Answers:
    return Answers(models)


@pytest.fixture(scope='module')
def photo(tiny_data: Path) -> str:
    return str(tiny_data / 'scenes' / 'val' / '001.png')


def name(library: str) -> str:
    return f'tiny_{library}'


def png_head(width: int, height: int) -> bytes:
    """The start of a PNG file that says how large it is, with no pixel in it."""
    head = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    whole = struct.pack('>I', 13) + head + struct.pack('>I', zlib.crc32(head))
    return b'\x89PNG\r\n\x1a\n' + whole + struct.pack('>I', 99) + b'IDAT'


# Uploads.


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'P', '1', 'I;16'])
def test_a_photo_is_what_the_libraries_read(mode: str, tmp_path: Path, photo: str) -> None:
    path = str(tmp_path / 'image.png')
    image = Image.open(photo)
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(path)
    found, expected = read_photo(path), cv2.imread(path)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize('kind', ['jpeg', 'webp', 'bmp', 'gif', 'tiff'])
def test_kinds_of_photos(kind: str, tmp_path: Path) -> None:
    path = tmp_path / 'named.wrongly'
    ramp = Image.linear_gradient('L').resize((64, 48))
    image = Image.merge('RGB', (ramp, ramp.point(lambda value: 255 - value), ramp))
    image.save(path, kind, quality=100)
    np.testing.assert_allclose(read_photo(str(path)), np.asarray(image)[..., ::-1], atol=8)


def test_a_photo_is_upright_and_not_too_large(tmp_path: Path) -> None:
    path = tmp_path / 'turned.jpg'
    image = Image.new('RGB', (2048, 512))
    image.paste('red', (0, 0, 1024, 512))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: its left is above
    image.save(path, exif=exif)
    found = read_photo(str(path))
    assert found.shape == (LONGEST_SIDE, LONGEST_SIDE // 4, 3)
    assert found[:450, :, 2].min() > 240 > 15 > found[-450:].max()


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'no image', 'is no image that can be read: give one of PNG, JPEG'),
        (b'', 'is no image that can be read'),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'is no image that can be read'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'is no image that can be read'),
        (png_head(64, 64), 'is damaged and cannot be read'),
        # A limit that is looked at after decoding would call these damaged.
        (png_head(4097, 4096), '4097 x 4096 = 16,781,312 pixels, the limit is 16,777,216'),
        (png_head(2**30, 2**30), 'has more than 16,777,216 pixels'),
        (None, 'is not here any more'),
    ],
    ids=['text', 'empty', 'svg', 'eps', 'cut', 'huge', 'bomb', 'gone'],
)  # fmt: skip
def test_refused_uploads(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / 'image.png'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        read_photo(str(path))
    assert str(refused.value).startswith('image.png ')


@pytest.mark.parametrize('size', [(7, 64), (64, 7), (8 * 1024, 32)])
def test_tiny_photos_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / 'thin.png'
    Image.new('RGB', size).save(path)
    with pytest.raises(UserError, match='at least 8 on each side'):
        read_photo(str(path))


# Models.


def test_demo_pairs_are_the_last_checkpoints(tmp_path: Path) -> None:
    demo_pairs = load_script('tools/app.py').demo_pairs
    with pytest.raises(UserError, match='no checkpoints of the demo in .*: train them with `make'):
        demo_pairs(tmp_path)
    for part, numbers in {'cls': (900, 1000), 'seg': (300,), 'det': ()}.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / f'{part}.py').touch()
        for number in numbers:
            (tmp_path / part / f'iter_{number}.pth').touch()
    (tmp_path / 'det' / 'iter_1.pth.part').touch()
    expected = [('cls/cls.py', 'cls/iter_1000.pth'), ('seg/seg.py', 'seg/iter_300.pth')]
    assert demo_pairs(tmp_path) == [tuple(str(tmp_path / one) for one in two) for two in expected]


def test_examples_are_of_the_validation_data(models: list[ShownModel], tiny_data: Path) -> None:
    classes, *scenes = (model.examples for model in models)
    assert [path.parent.name for path in classes] == ['a', 'b', 'c']
    expected = sorted((tiny_data / 'scenes' / 'val').iterdir())
    assert [list(paths) for paths in scenes] == [expected, expected]
    here = dict(data_root='scenes', data_prefix=dict(img_path='val'))
    assert example_images(here, tiny_data) == tuple(expected)
    for dataset in ({}, dict(data_root='nowhere'), dict(datasets=[here])):
        assert example_images(dataset, tiny_data) == ()


def test_models_of_one_name_get_numbers(pairs: list[tuple[str, str]], tiny_data: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TINY_DATA', str(tiny_data))
        twice = load_models([pairs[0], pairs[0]], 'cpu', Path.cwd())
    assert [model.title for model in twice] == [
        'classifier: tiny_classification',
        'classifier: tiny_classification (2)',
    ]


# Answers.


@pytest.mark.parametrize('library', CLASSES)
@pytest.mark.parametrize('stage', [0, 1, 2, 3])
def test_heat_is_that_of_the_block(library: str, stage: int, answers: Answers, photo: str) -> None:
    """It is what the array functions give for the pixel's cell, with t and k multiplied."""
    model = answers.model(name(library))
    block, pixel = DEPTHS[library][stage] - 1, (37, 63)
    heat = answers.spread(model.name, photo, pixel, stage, block, 2.0, 0.75)
    inputs = model.loaded.prepare(cv2.imread(photo)).inputs
    k = block_diffusivity(model.backbone, stage, block, (64, 64))
    cell = 37 // 2 ** (2 + stage), k.size(1) - 1
    weights = operator_input(model.backbone, inputs, stage, block)[0][cell].abs()
    np.testing.assert_allclose(
        heat.temperature, point_heat(k, cell, [1.5], weights=weights)[0], atol=1e-6
    )
    assert heat.cell == cell and heat.temperature.sum() == pytest.approx(1, abs=1e-4)
    assert f'{k.size(0)} × {k.size(1)} cells of {4 * 2**stage} × {4 * 2**stage}' in heat.words
    assert f'keeps {heat.temperature[cell]:.1%}' in heat.words
    assert answers.depths(model.name) == list(DEPTHS[library])


def test_heat_spreads_with_time(answers: Answers, photo: str) -> None:
    def kept(**given: float) -> float:
        heat = answers.spread(name('detection'), photo, (20, 30), 0, 1, **given)
        return heat.temperature[heat.cell]

    times = [kept(time=time) for time in (0, 0.5, 1, 4, 16)]
    assert times[0] == pytest.approx(1, abs=1e-5) and times == sorted(times, reverse=True)
    assert kept(time=4, factor=0.25) == pytest.approx(times[2], rel=1e-5)
    assert kept(time=4, factor=0) == pytest.approx(1, abs=1e-5)


def test_words_count_the_cells_that_hold_half_of_the_heat(answers: Answers, photo: str) -> None:
    heats = [answers.spread(name('segmentation'), photo, (9, 9), 0, 0, t) for t in (0, 16)]
    assert heats[0].words.endswith('The warmest cell holds half of it.')
    (count,) = re.findall(r'The warmest (\d+) cells hold half', heats[1].words)
    warmest = np.sort(heats[1].temperature, axis=None)[::-1]
    assert warmest[: int(count)].sum() >= 0.5 > warmest[: int(count) - 1].sum()


def test_pictures_show_the_pixel_and_its_cell(answers: Answers, photo: str) -> None:
    """Enlarged to be seen; each cell of the map in one colour, the hot one in the lightest."""
    pixel, zoom = (37, 50), answers.zoom(name('detection'), photo)
    assert zoom == 6 and answers.size(name('detection'), photo) == (64, 64)
    heat = answers.spread(name('detection'), photo, pixel, stage=1)
    for picture in (heat.image, heat.picture):
        assert picture.shape == (384, 384, 3) and picture.dtype == np.uint8
    true = cv2.imread(photo)[..., ::-1].repeat(zoom, 0).repeat(zoom, 1)
    changed = np.argwhere((heat.image != true).any(-1))
    centre = np.array(pixel) * zoom + zoom // 2
    assert 100 < len(changed) and np.abs(changed - centre).max() < 12
    np.testing.assert_array_equal(changed.min(0) + changed.max(0), 2 * centre)
    cells = heat.picture.reshape(8, 48, 8, 48, 3).swapaxes(1, 2)
    colours = np.median(cells.reshape(8, 8, -1, 3), 2)
    same = (cells == colours[:, :, None, None]).all(-1)
    assert same.sum() >= 384 * 384 - len(changed)
    lightest = np.unravel_index(colours.sum(-1).argmax(), (8, 8))
    assert lightest == heat.cell == map_cell(pixel, (64, 64), (8, 8))


def test_padding_is_no_part_of_the_pictures(answers: Answers, tmp_path: Path) -> None:
    """The detector pads to 64 x 64; its map is of the padded image."""
    path = str(tmp_path / 'wide.png')
    Image.effect_noise((128, 60), 90).save(path)
    heat = answers.spread(name('detection'), path, (29, 63))
    assert answers.size(name('detection'), path) == (30, 64)
    assert heat.temperature.shape == (8, 16) and heat.cell == (7, 15)
    assert heat.picture.shape == heat.image.shape == (390, 832, 3)
    with pytest.raises(UserError, match='pixel 30 0 .* outside of the image of 30 x 64'):
        answers.spread(name('detection'), path, (30, 0))


@pytest.mark.parametrize('library', CLASSES)
def test_finds_what_the_model_predicts(library: str, answers: Answers, photo: str) -> None:
    model = answers.model(name(library))
    found = answers.find(model.name, photo)
    image = cv2.imread(photo)
    expected = model.predictor.describe(model.predictor.predict(image))
    assert found.rows == expected and all(len(row) == len(found.columns) for row in expected)
    assert {row[0] for row in found.rows} <= set(CLASSES[library])
    if library != 'detection':
        assert found.rows
    assert found.picture.shape == (384, 384, 3)


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        (dict(name='resnet'), 'there is no model resnet: there are tiny_classification, tiny_det'),
        (dict(path=None), 'there is no image: choose an example or upload one'),
        (dict(path='nowhere.png'), 'nowhere.png is not here any more'),
        (dict(pixel=(64, 0)), 'pixel 64 0 (row, column) is outside of the image of 64 x 64'),
        (dict(pixel=(0, -1)), 'pixel 0 -1 (row, column) is outside'),
        (dict(stage=4), 'the backbone has no stage 4: it has stage 0 to 3'),
        (dict(stage=0, block=2), 'stage 0 has no block 2: it has block 0 to 1'),
        (dict(time=-1.0), 'a time is a number from 0'),
        (dict(factor=float('inf')), 'a time is a number from 0'),
    ],
)
def test_mistakes_of_a_request(changed: dict, said: str, answers: Answers, photo: str) -> None:
    given = dict(name=name('detection'), path=photo, pixel=(1, 2), stage=0, block=0)
    with pytest.raises(UserError, match=re.escape(said)):
        answers.spread(**{**given, **changed})


def _requests(photo: str) -> list[tuple]:
    """Twenty requests: of each model heat from several pixels, and what is found."""
    finds = [(name(library), photo) for library in CLASSES]
    pixels = [((7 * i) % 64, (11 * i) % 64) for i in range(20 - len(finds))]
    heats = [
        (finds[i % 3][0], photo, pixel, i % 4, 0, 0.5 * i, 1.5) for i, pixel in enumerate(pixels)
    ]
    return [*finds[:2], *heats, finds[2]]


def test_twenty_threads_get_what_one_gets(models: list[ShownModel], photo: str) -> None:
    def ask(answers: Answers, request: tuple) -> object:
        answer = answers.find(*request) if len(request) == 2 else answers.spread(*request)
        return answer.temperature if isinstance(answer, Heat) else answer.rows

    requests = _requests(photo)
    alone = [ask(Answers(models), request) for request in requests]
    together = Answers(models)
    with ThreadPoolExecutor(len(requests)) as threads:
        found = list(threads.map(lambda request: ask(together, request), requests))
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_do_not_mix_images(models: list[ShownModel], tmp_path: Path) -> None:
    """Of one block: each gets the heat of its own image."""
    paths = [str(tmp_path / f'{i}.png') for i in range(40)]
    for path in paths:
        Image.effect_noise((64, 64), 90).save(path)
    given = name('segmentation'), (31, 31), 2, 0

    def ask(answers: Answers, path: str) -> np.ndarray:
        return answers.spread(given[0], path, *given[1:]).temperature

    alone = [ask(Answers(models), path) for path in paths]
    together = Answers(models)
    with ThreadPoolExecutor(len(paths)) as threads:
        found = list(threads.map(lambda path: ask(together, path), paths))
    np.testing.assert_array_equal(found, alone)
    assert len({heat.tobytes() for heat in found}) == len(paths)


# The command line.


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('', 'there are no checkpoints of the demo in'),
        ('--config a.py', 'each --config needs a --checkpoint: got 1 and 0'),
        ('--config a.py --checkpoint b.pth --checkpoint c.pth', 'got 1 and 2'),
        ('--config nowhere.py --checkpoint nowhere.pth', 'nowhere.pth does not exist'),
        ('--port 70000', "'70000' is not a port in 1..65535"),
        ('--device tpu --config a.py --checkpoint b.pth', '--device tpu cannot be used'),
    ],
)
def test_mistakes_of_a_command(arguments: str, said: str, tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip('gradio')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('GRADIO_TEMP_DIR', 'restored after the test')
    script = load_script('tools/app.py')
    script.DEMO = tmp_path / 'nothing'
    try:
        status = run_command(lambda: script.main(arguments.split()))
    except SystemExit as stop:
        status = stop.code
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith('error: '))
    assert status == 2 and said in line and not list(tmp_path.iterdir())


def test_without_gradio_one_line_names_the_extra(monkeypatch, capsys) -> None:
    monkeypatch.setenv('GRADIO_TEMP_DIR', 'restored after the test')
    monkeypatch.setitem(sys.modules, 'gradio', None)
    arguments = ['--config', 'a.py', '--checkpoint', 'b.pth']
    assert run_command(lambda: load_script('tools/app.py').main(arguments)) == 2
    assert 'install the extra `app` of mmvheat' in capsys.readouterr().err


# The server.


@pytest.fixture(scope='module')
def url(models: list[ShownModel]) -> Iterator[str]:
    pytest.importorskip('gradio')
    with (
        tempfile.TemporaryDirectory(prefix='mmvheat-test-') as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv('GRADIO_TEMP_DIR', folder)
        from heat_page.layout import Page

        page = Page(Answers(models))
        yield page.serve('127.0.0.1', None)
        page.blocks.close(verbose=False)


@pytest.fixture(scope='module')
def client(url: str, tmp_path_factory: pytest.TempPathFactory):
    from gradio_client import Client

    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp('downloads'))


def _refusal(url: str, path: object) -> str:
    """Claim to have uploaded a file, and return the error that the page would show."""
    import httpx

    file = dict(path=str(path), meta=dict(_type='gradio.FileData'))
    call = f'{url}gradio_api/call/find'
    event = httpx.post(call, json=dict(data=[name('detection'), file])).json()['event_id']
    answer = httpx.get(f'{call}/{event}', timeout=60).text
    assert answer.startswith('event: error'), answer
    return answer


def test_twenty_requests_at_once(client, answers: Answers, photo: str) -> None:
    """All are answered, as if each were alone."""
    from gradio_client import handle_file

    jobs = []
    for request in _requests(photo):
        model, path, *rest = request
        if rest:
            pixel, *sliders = rest
            given = (model, handle_file(path), *pixel, *sliders)
            jobs.append(client.submit(*given, api_name='/heat'))
        else:
            jobs.append(client.submit(model, handle_file(path), api_name='/find'))
    for request, job in zip(_requests(photo), jobs, strict=True):
        found = job.result(timeout=120)
        if len(request) > 2:
            heat = answers.spread(*request)
            assert found[3] == heat.words
            for path, picture in zip(found[:2], (heat.image, heat.picture), strict=True):
                np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
        else:
            cells = re.findall('<td>(.*?)</td>', found[1])
            expected = answers.find(*request).rows
            assert [unescape(cell) for cell in cells] == [cell for row in expected for cell in row]


@pytest.mark.parametrize('where', ['beside', 'above', 'example'])
def test_a_file_that_was_not_uploaded_is_refused(
    where: str, url: str, models: list[ShownModel], photo: str, tmp_path: Path
) -> None:
    """Also a good image, and one that the page itself may show."""
    secret = tmp_path / 'secret.png'
    secret.write_bytes(Path(photo).read_bytes())
    paths = dict(beside=secret, above=_above(secret), example=models[0].examples[0])
    assert 'it was not uploaded by a user' in _refusal(url, paths[where])


def test_files_of_the_server_are_not_served(url: str, tmp_path: Path) -> None:
    secret = tmp_path / 'secret.png'
    secret.write_text('secret')
    above = _above(secret)
    hidden = above.replace('..', '%2e%2e')
    for path in (secret, above, hidden, 'pyproject.toml', ROOT / 'pyproject.toml', '/etc/passwd'):
        # Clients of a higher level would tidy the path.
        connection = HTTPConnection(url.split('/')[2])
        connection.request('GET', f'/gradio_api/file={path}')
        answer = connection.getresponse()
        assert answer.status == 403 and b'File not allowed' in answer.read(), path
        connection.close()


def _above(path: Path) -> str:
    """Write a path as one that starts in the folder of the uploads."""
    uploads = Path(os.environ['GRADIO_TEMP_DIR'])
    return '/'.join([str(uploads), *['..'] * (len(uploads.parts) - 1), *path.parts[1:]])


def test_an_upload_stays_in_its_folder(url: str) -> None:
    import httpx

    uploads = Path(os.environ['GRADIO_TEMP_DIR'])
    files = {'files': ('../../../out/of/here.png', b'content')}
    (path,) = httpx.post(f'{url}gradio_api/upload', files=files).json()
    assert Path(path).resolve().is_relative_to(uploads.resolve()) and '..' not in path
    answer = httpx.post(f'{url}gradio_api/upload', files={'files': ('a', bytes(MAX_BYTES + 1))})
    assert answer.status_code == 413 and 'maximum allowed size' in answer.text


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'no image', 'is no image that can be read'),
        (png_head(8000, 8000), 'has 8000 x 8000 = 64,000,000 pixels'),
    ],
)
def test_a_bad_upload_is_refused(content: bytes, said: str, client, tmp_path: Path) -> None:
    from gradio_client import handle_file

    path = tmp_path / '<b>bad.png'
    path.write_bytes(content)
    with pytest.raises(Exception, match=re.escape(said)) as refused:
        client.predict(name('detection'), handle_file(str(path)), api_name='/find')
    assert '<b>' not in str(refused.value)


def test_sliders_have_ends(client, answers: Answers, photo: str) -> None:
    """Those of the models with the most stages and blocks."""
    from gradio_client import handle_file

    *_, words = client.predict(
        name('classification'), handle_file(photo), 1, 1, 3, 2, 16, 8, api_name='/heat'
    )
    assert words == answers.spread(name('classification'), photo, (1, 1), 3, 2, 16, 8).words
    given = name('detection'), handle_file(photo), 1, 1
    for sliders in ((0, 0, 17, 1), (0, 0, 1, -1), (4, 0, 1, 1), (0, 3, 1, 1)):
        with pytest.raises(Exception, match='is greater than maximum|is less than minimum'):
            client.predict(*given, *sliders, api_name='/heat')


def test_a_port_that_is_taken(url: str, models: list[ShownModel]) -> None:
    from heat_page.layout import Page

    port = int(url.rstrip('/').rpartition(':')[2])
    with pytest.raises(UserError, match=f'127.0.0.1:{port} cannot be served on'):
        Page(Answers(models)).serve('127.0.0.1', port)


@pytest.mark.slow
@pytest.mark.parametrize('ending', [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_this_machine_alone_and_cleans_up(
    ending: signal.Signals, pairs: list[tuple[str, str]], tiny_data: Path, tmp_path: Path
) -> None:
    httpx = pytest.importorskip('httpx')
    pytest.importorskip('gradio')
    here, temporary = tmp_path / 'here', tmp_path / 'temporary'
    here.mkdir(), temporary.mkdir()
    env = dict(os.environ, TINY_DATA=str(tiny_data), TMPDIR=str(temporary), PYTHONPATH=str(ROOT))
    env.pop('GRADIO_TEMP_DIR', None)
    config, checkpoint = pairs[0]
    command = [sys.executable, ROOT / 'tools' / 'app.py', '--device', 'cpu']
    command += ['--config', config, '--checkpoint', checkpoint]
    process = subprocess.Popen(
        command,
        cwd=here,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background inherit that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        lines = iter(process.stdout.readline, '')
        url = next(line.split()[1] for line in lines if line.startswith('page: '))
        assert url.startswith('http://127.0.0.1:')
        assert 'Heat in a vHeat' in httpx.get(url).text
        port = int(url.rstrip('/').rpartition(':')[2])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(('127.0.0.2', port), timeout=5)
        process.send_signal(ending)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and 'Traceback' not in error
    assert not list(here.iterdir()) and not list(temporary.iterdir())


# A real browser.


def _watch(page, heard: list[str]) -> None:
    """Note what the page says and asks for that it should not."""
    ours = ('http://127.0.0.1:', 'data:', 'blob:')
    page.on('console', lambda one: one.type in ('error', 'warning') and heard.append(one.text))
    page.on('pageerror', lambda error: heard.append(str(error)))
    page.on('request', lambda one: one.url.startswith(ours) or heard.append(one.url))
    page.on('response', lambda one: one.status >= 400 and heard.append(one.url))


@pytest.fixture
def needs_browser() -> None:
    pytest.importorskip('playwright', reason='playwright is not installed')
    from heat_page.browser import CHROMIUM

    if not CHROMIUM.exists():
        pytest.skip(f'{CHROMIUM} is not there: apt-get install chromium')


@pytest.mark.slow
def test_in_a_browser(needs_browser, url: str, answers: Answers, tmp_path: Path) -> None:
    """Load, upload, click, slide, choose: each shows its result, and nothing is said or fetched."""
    from heat_page.browser import do, open_page
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)
    noise, text = tmp_path / 'noise.png', tmp_path / 'text.png'
    Image.effect_noise((64, 48), 90).convert('RGB').save(noise)
    text.write_text('no image')
    model, heard = name('classification'), []

    def shows(pixel: tuple[int, int], *sliders: float) -> None:
        expect(page.locator('#row input')).to_have_value(str(pixel[0]))
        expect(page.locator('#column input')).to_have_value(str(pixel[1]))
        words = answers.spread(model, str(noise), pixel, *sliders).words
        expect(page.locator('#words')).to_have_text(words)

    def slide(slider: str, value: float) -> None:
        do(page, lambda: page.fill(f'#{slider} input[type=range]', str(value)))

    with open_page(url, lambda page: _watch(page, heard)) as page:
        expect(page.locator('#examples img')).to_have_count(3)
        expect(page.locator('#rows td')).to_have_count(6)

        upload = page.locator('input[type=file]')
        do(page, lambda: upload.set_input_files(noise), '#found img')
        shows((24, 32))
        assert page.evaluate("document.querySelector('#image img').naturalWidth") == 64 * 8

        image = page.locator('#image img')
        box = image.bounding_box()
        place = dict(x=box['width'] * 10.5 / 64, y=box['height'] * 40.5 / 48)
        do(page, lambda: image.click(position=place))
        shows((40, 10))

        slide('time', 8)
        shows((40, 10), 0, 0, 8)
        slide('factor', 0.1)
        shows((40, 10), 0, 0, 8, 0.1)
        slide('stage', 3)
        shows((40, 10), 3, 2, 8, 0.1)
        slide('block', 1)
        shows((40, 10), 3, 1, 8, 0.1)
        do(page, lambda: page.fill('#row input', '3'))
        shows((3, 10), 3, 1, 8, 0.1)

        before = page.get_attribute('#found img', 'src')
        upload.set_input_files(text)
        said = page.get_by_test_id('toast-text')
        expect(said).to_contain_text('text.png is no image that can be read')
        # The image that was there still is.
        assert page.get_attribute('#found img', 'src') == before
        do(page, lambda: page.fill('#row input', '47'))
        shows((47, 10), 3, 1, 8, 0.1)

        do(page, lambda: page.locator('#examples img').nth(1).click(), '#found img')
        expect(page.locator('#row input')).to_have_value('32')

        page.click('#model input')
        other = page.locator('[role=option]', has_text='segmentor')
        do(page, other.click, '#found img')
        expect(page.locator('#rows')).to_contain_text('%')
        page.click('#play')
        expect(page.locator('#time input[type=number]')).to_have_value('16')
    assert heard == []


@pytest.mark.slow
def test_the_picture_of_the_page(needs_browser, url: str, tmp_path: Path) -> None:
    from heat_page.browser import save_screenshot

    path = tmp_path / 'page.png'
    save_screenshot(url, path, 'segmentor', place=(0.3, 0.4))
    picture = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert('RGB')).astype(float)
    assert picture.shape == (860, 1500, 3) and picture.std() > 20
