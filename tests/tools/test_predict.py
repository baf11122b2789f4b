"""tools/predict.py: what it finds and draws, alone on a machine, and one line for every mistake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from in_process import load_script
from PIL import Image
from tiny_onnx import BOXES, MASKS, RESIZE, write_tiny_onnx

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tool():
    return load_script('tools/predict.py')


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an image of 16 x 24, red at the left and blue at the right."""
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :6, 0] = pixels[:, 6:, 2] = 200
    Image.fromarray(pixels).save('image.png')
    for task in ('classification', 'segmentation', 'detection'):
        write_tiny_onnx(tmp_path / f'{task}.onnx', task)
    return tmp_path


def refused(tool, capsys, *arguments: object) -> str:
    """Run the tool, which must refuse in one line and write nothing."""
    before = sorted(Path().rglob('*'))
    sys_argv, sys.argv = sys.argv, ['predict.py', *map(str, arguments)]
    try:
        status = tool.run()
    finally:
        sys.argv = sys_argv
    error = capsys.readouterr().err
    assert status == 2 and error.startswith('error: ') and error.count('\n') == 1, error
    assert sorted(path for path in Path().rglob('*') if path.is_file()) == [
        path for path in before if path.is_file()
    ]
    return error


ALONE = """
import runpy, sys
for name in {hidden}:
    sys.modules[name] = None  # any import of it fails
sys.argv = ['predict.py', *sys.argv[1:]]
runpy.run_path('predict.py', run_name='__main__')
"""


def test_it_runs_beside_the_model_without_torch_and_openmmlab(here):
    shutil.copy(ROOT / 'tools' / 'predict.py', here)
    hidden = [
        'torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmvheat',
        'cv2', 'onnx', 'matplotlib', 'scipy', 'rich',
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, '-P', '-c', ALONE.format(hidden=hidden), 'detection.onnx', 'image.png'],
        capture_output=True, text=True, timeout=240, cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        'image.png',
        '  class  found  best score',
        '  blue   1      0.900',
        f'picture: {Path("outputs/image_detection.png")}',
    ]
    assert Image.open('outputs/image_detection.png').height == 384


def test_a_classifier_names_the_likeliest(tool, here, capsys):
    tool.main(['classification.onnx', 'image.png', '--top-k', '2', '--json', 'found.json'])
    (result,) = json.loads(Path('found.json').read_text())
    assert (result['image'], result['size']) == ('image.png', [16, 24])
    assert [one['class'] for one in result['found']] == ['blue', 'red']
    # The softmax of the mean colours.
    assert result['found'][0]['score'] == pytest.approx(1, abs=1e-6)
    assert 'blue   1.000' in capsys.readouterr().out


class MeanColour(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3)).softmax(1)


def write_openvino(path: str, text: str) -> None:
    import openvino

    model = openvino.convert_model('classification.onnx')
    model.set_rt_info(text, 'mmvheat')
    openvino.save_model(model, path)


def write_pt2(path: str, text: str) -> None:
    program = torch.export.export(MeanColour(), (torch.zeros(1, 3, 16, 24),))
    torch.export.save(program, path, extra_files={'mmvheat.json': text})


def write_torchscript(path: str, text: str) -> None:
    script = torch.jit.trace(MeanColour(), torch.zeros(1, 3, 16, 24))
    torch.jit.save(script, path, _extra_files={'mmvheat.json': text})


@pytest.mark.parametrize(
    'suffix, write',
    [('.xml', write_openvino), ('.pt2', write_pt2), ('.torchscript', write_torchscript)],
)
def test_every_format_says_the_same(tool, here, suffix, write):
    onnx_file = tool.load_model('classification.onnx')
    write(f'model{suffix}', json.dumps(onnx_file.metadata))
    image = tool.read_image('image.png')
    found = tool.load_model(f'model{suffix}').predict(image)
    expected = onnx_file.predict(image)
    scores, others = (
        {one['class']: one['score'] for one in model.items} for model in (found, expected)
    )
    assert scores == pytest.approx(others, abs=1e-6)


def test_a_label_map_gets_the_size_of_the_image(tool, here):
    metadata = {**tool.load_model('segmentation.onnx').metadata, 'size': [3, 4]}
    labels = np.repeat([[[0, 2, 2, 2]]], 3, 1)
    model = tool.Model(metadata, lambda inputs: {'labels': labels})
    found = model.predict(tool.read_image('image.png').resize((8, 6)))
    masks = {one['class']: one['mask'] for one in found.items}
    assert masks['red'].shape == (6, 8) and masks['red'][:, :2].all()
    assert found.rows == [('blue', '75.0%'), ('red', '25.0%')]


@pytest.mark.parametrize('fixed', [None, [32, 40]], ids=['dynamic', 'padded'])
@pytest.mark.parametrize('preprocess', [False, True], ids=['floats', 'bytes'])
def test_a_segmentor_finds_areas_in_the_image_as_it_is(tool, here, fixed, preprocess):
    """Also where the model sees it enlarged and padded, and normalises by itself."""
    resize = dict(RESIZE, size=[24, 36], keep_ratio=True)
    metadata = dict(resize=resize, size=fixed or 'dynamic', divisor=32, preprocess=preprocess)
    path = write_tiny_onnx(here / 'areas.onnx', 'segmentation', **metadata)
    found = tool.load_model(path).predict(tool.read_image('image.png'))
    masks = {one['class']: one['mask'] for one in found.items}
    assert set(masks) == {'red', 'blue'}
    assert masks['red'][:, :6].all() and not masks['red'][:, 6:].any()
    assert (masks['blue'] == ~masks['red']).all()
    assert found.rows == [('blue', '75.0%'), ('red', '25.0%')]


def test_a_detector_finds_boxes_and_masks_in_the_image_as_it_is(tool, here):
    """With the masks that mmdet lays over it."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    resize = dict(RESIZE, size=[32, 48], keep_ratio=True)
    path = write_tiny_onnx(here / 'objects.onnx', 'detection', resize=resize)
    found = tool.load_model(path).predict(tool.read_image('image.png'), score_thr=0.1)
    assert [(one['class'], round(one['score'], 5)) for one in found.items] == [
        ('blue', 0.9),
        ('red', 0.2),
    ]
    boxes = torch.tensor(BOXES[:2]) / 2
    np.testing.assert_allclose([one['box'] for one in found.items], boxes, rtol=1e-6)
    masks = torch.from_numpy(MASKS[:2, None])
    expected = _do_paste_mask(masks, boxes, 16, 24, skip_empty=False)[0] >= 0.5
    assert expected.any()
    assert (np.stack([one['mask'] for one in found.items]) == expected.numpy()).all()


def test_masks_are_written_as_coco_reads_them(tool):
    from pycocotools import mask as coco

    for share in (0.0, 0.4, 1.0):
        mask = np.random.default_rng(0).random((5, 7)) < share
        encoded = tool.run_lengths(mask)
        assert (coco.decode(coco.frPyObjects(encoded, 5, 7)) == mask).all()


@pytest.mark.parametrize('size', [(7, 9), (20, 31), (64, 48)])
def test_images_and_logits_are_resized_as_the_libraries_do(tool, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 31, 3), np.uint8)
    ours = np.asarray(tool.resample(Image.fromarray(image), size, RESIZE))
    theirs = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    # OpenCV rounds weights to 1/2048.
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.8
    logits = rng.random((3, 20, 31), np.float32)
    expected = F.interpolate(torch.from_numpy(logits)[None], size, mode='bilinear')[0]
    assert (tool.likeliest(logits, size) == expected.argmax(0).numpy()).all()


@pytest.mark.parametrize(
    'rule, expected',
    [
        (dict(size=[800, 1333], keep_ratio=True), (800, 1200)),
        (dict(size=[800, 1000], keep_ratio=True), (667, 1000)),
        (dict(size=[50, 60], keep_ratio=False), (50, 60)),
        (dict(size=[256, None], keep_ratio=True), (256, 384)),
        (dict(size=[None, 300], keep_ratio=True), (200, 300)),
    ],
)
def test_sizes_are_those_of_the_pipelines(tool, rule, expected):
    assert tool._resized(100, 150, rule) == expected


def test_the_picture_has_the_colours_of_the_legend(tool, here):
    tool.main(['segmentation.onnx', 'image.png'])
    picture = np.asarray(Image.open('outputs/image_segmentation.png'))
    factor = 24
    blue = np.array(list(bytes.fromhex('009e73')))
    expected = np.array([0, 0, 200]) // 2 + blue // 2
    assert (picture[5, 10 * factor] == expected).all()
    assert (picture[:, 24 * factor :] == blue).all(-1).any()


def test_images_are_turned_as_cameras_say(tool, here):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (10, 20)).save('turned.jpg', exif=exif)
    assert tool.read_image('turned.jpg').size == (20, 10)
    assert cv2.imread('turned.jpg').shape == (10, 20, 3)


def test_pictures_that_exist_are_replaced_when_told(tool, here, capsys):
    Path('outputs').mkdir()
    picture = Path('outputs/image_detection.png')
    picture.write_text('mine')
    assert 'exists: --force' in refused(tool, capsys, 'detection.onnx', 'image.png')
    assert picture.read_text() == 'mine'
    tool.main(['detection.onnx', 'image.png', '--force'])
    assert Image.open(picture).height == 384


MISTAKES = {
    'model: no file': (['none.onnx', 'image.png'], 'none.onnx does not exist'),
    'model: unknown': (['image.png', 'image.png'], 'expected a file that ends in .onnx, .xml'),
    'model: broken': (['broken.onnx', 'image.png'], 'broken.onnx cannot be opened'),
    'model: of others': (['bare.onnx', 'image.png'], 'has no metadata of mmvheat'),
    'model: features': (['features.onnx', 'image.png'], 'gives features and no predictions'),
    'model: one size': (['wide.onnx', 'image.png'], 'the model cannot run an input'),
    'image: no file': (['detection.onnx', 'image.png', 'none.png'], 'none.png does not exist'),
    'image: text': (['detection.onnx', 'image.png', 'text.png'], 'text.png cannot be read'),
    'image: cut': (['detection.onnx', 'image.png', 'cut.png'], 'cut.png cannot be read'),
    'two of a name': (['detection.onnx', 'image.png', './image.png'], 'two images would be'),
    'device': (['detection.onnx', 'image.png', '--device', 'tpu'], '--device tpu'),
    'json: folder': (['detection.onnx', 'image.png', '--json', '.'], '. is a folder'),
    'json: the image': (
        ['detection.onnx', 'image.png', '--json', 'image.png', '--force'],
        'image.png is an image to predict',
    ),
    'out: file': (['detection.onnx', 'image.png', '--out', 'text.png'], 'cannot be'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(tool, here, capsys, name):
    Path('text.png').write_text('text')
    Path('broken.onnx').write_bytes(b'text')
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save('cut.png')
    Path('cut.png').write_bytes(Path('cut.png').read_bytes()[:2000])
    model = onnx.load('detection.onnx')
    del model.metadata_props[:]
    onnx.save(model, 'bare.onnx')
    write_tiny_onnx(here / 'features.onnx', 'detection', task='features')
    write_tiny_onnx(here / 'wide.onnx', 'segmentation', size=[8, 9])
    wide = onnx.load('wide.onnx')
    wide.metadata_props[0].value = wide.metadata_props[0].value.replace('[8, 9]', '"dynamic"')
    onnx.save(wide, 'wide.onnx')
    arguments, message = MISTAKES[name]
    assert message in refused(tool, capsys, *arguments)


def test_a_missing_runtime_is_one_line(tool, here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    message = refused(tool, capsys, 'detection.onnx', 'image.png')
    assert 'detection.onnx needs onnxruntime: pip install onnxruntime' in message
