"""The libraries' inferencers take our configs and what our tools save, in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import load_script
from mmengine.config import Config

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'tests' / 'tools' / 'configs'
LIBRARIES = ('classification', 'detection', 'segmentation')

# What a user writes: mmvheat, the library, a config and a checkpoint.
START = """
import mmvheat
import sys, glob, cv2, numpy as np
config, weights, folder, out = sys.argv[1:]
images = sorted(glob.glob(folder + '/*.png'))[:2]
arrays = [cv2.imread(path) for path in images]
"""
SCRIPTS = {
    'classification': """
from mmpretrain import ImageClassificationInferencer
inferencer = ImageClassificationInferencer(config, pretrained=weights, device='cpu')
assert tuple(inferencer.classes) == ('a', 'b', 'c')
one = inferencer(images[0])[0]
assert one['pred_class'] == 'abc'[one['pred_label']]
many = inferencer(images, batch_size=2, show_dir=out)
of_arrays = inferencer(arrays, batch_size=2)
for left, right in [(one, many[0]), (many[0], of_arrays[0]), (many[1], of_arrays[1])]:
    np.testing.assert_allclose(left['pred_scores'], right['pred_scores'], atol=1e-5)
assert np.abs(many[0]['pred_scores'] - many[1]['pred_scores']).max() > 1e-6
pictures = glob.glob(out + '/*.png')
""",
    'detection': """
from mmdet.apis import DetInferencer
inferencer = DetInferencer(config, weights, device='cpu')
assert tuple(inferencer.model.dataset_meta['classes']) == ('square', 'disc')
one = inferencer(images[0], return_vis=True, pred_score_thr=0.0)
assert one['visualization'][0].shape == arrays[0].shape
assert np.abs(one['visualization'][0] - arrays[0][..., ::-1].astype(int)).mean() > 1
many = inferencer(images, batch_size=2, out_dir=out, no_save_pred=False)['predictions']
of_arrays = inferencer(arrays, batch_size=2)['predictions']
for left, right in [(one['predictions'][0], many[0]), *zip(many, of_arrays)]:
    np.testing.assert_allclose(left['scores'], right['scores'], atol=1e-5)
    np.testing.assert_allclose(left['bboxes'], right['bboxes'], atol=1e-3)
    assert left['labels'] == right['labels'] and len(left['masks']) == len(left['labels']) > 0
assert len(glob.glob(out + '/preds/*.json')) == 2
pictures = glob.glob(out + '/vis/*.png')
""",
    'segmentation': """
from mmseg.apis import MMSegInferencer
inferencer = MMSegInferencer(config, weights, device='cpu')
meta = inferencer.model.dataset_meta
assert tuple(meta['classes']) == ('back', 'square', 'disc')
assert [list(colour) for colour in meta['palette']] == [[0, 0, 0], [250, 0, 0], [0, 250, 0]]
one = inferencer(images[0], return_vis=True, with_labels=False)
blend = 0.2 * arrays[0][..., ::-1] + 0.8 * np.array(meta['palette'])[one['predictions']]
# Old versions of matplotlib shift the picture by a pixel.
error = np.abs(one['visualization'] - blend).mean()
assert error < 0.2 * np.abs(one['visualization'] - arrays[0][..., ::-1].astype(int)).mean()
many = inferencer(images, batch_size=2, out_dir=out)['predictions']
of_arrays = inferencer(arrays, batch_size=2)['predictions']
for left, right in [(one['predictions'], many[0]), *zip(many, of_arrays)]:
    assert left.shape == (64, 64) and (left == right).mean() > 0.99
assert len(glob.glob(out + '/pred/*.png')) == 2
pictures = glob.glob(out + '/vis/*.png')
""",
}
END = """
assert len(pictures) == 2 and all(cv2.imread(path).std() > 0 for path in pictures)
"""


@pytest.fixture(scope='module')
def inferences(
    tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, subprocess.Popen]:
    """Train each library's config for two steps, then start the three scripts side by side."""
    patch = pytest.MonkeyPatch()
    patch.setenv('TINY_DATA', str(tiny_data))
    patch.setenv('LOCAL_RANK', '0')
    train = load_script('tools/train.py')
    processes = {}
    for library in LIBRARIES:
        folder = tmp_path_factory.mktemp(library)
        config = folder / f'{library}_for_inference.py'
        config.write_text(
            f'_base_ = {str(CONFIGS / f"{library}.py")!r}\n'
            "custom_imports = dict(imports=['mmvheat'])\n"
            'val_cfg = val_dataloader = val_evaluator = None\n'
            "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2)\n"
            "default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', "
            'by_epoch=False))\n'
        )
        train.main([str(config), '--work-dir', str(folder)])
        processes[library] = subprocess.Popen(
            [
                sys.executable,
                '-c',
                START + SCRIPTS[library] + END,
                config,
                folder / 'iter_2.pth',
                tiny_data / 'scenes' / 'val',
                folder / 'out',
            ],
            env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    patch.undo()
    yield processes
    for process in processes.values():
        process.kill()


@pytest.mark.parametrize('library', LIBRARIES)
def test_inferencer(library: str, inferences: dict[str, subprocess.Popen]) -> None:
    _, errors = inferences[library].communicate(timeout=120)
    assert inferences[library].returncode == 0, errors[-3000:]


@pytest.mark.parametrize('path', sorted(ROOT.glob('configs/*/*.py')), ids=lambda path: path.stem)
def test_configs_import_mmvheat_before_a_checkpoint_is_read(path: Path) -> None:
    cfg = Config.fromfile(path)
    # mmpretrain builds the model first, whose type imports mmvheat; the others the checkpoint.
    if cfg.get('default_scope') in ('mmdet', 'mmseg'):
        assert 'mmvheat' in cfg.get('custom_imports', {}).get('imports', [])
