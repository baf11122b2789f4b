"""Importing mmvheat gives mmcv its functions, in each process, and only where it has none."""

import importlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
from mmcv_ops.cases import compiled_module
from mmcv_ops.test_functions import RECORDED, assert_same
from shrunken import shrink

import mmvheat
from mmvheat import mmcv_ops

HERE = Path(__file__).parent
TOOLS = {
    'mmdet': 'configs/demo/mask-rcnn_vheat-mini_fpn_2xb4-1200i_digit-scenes.py',
    'mmseg': 'configs/demo/vheat-mini_upernet_2xb4-600i_digit-scenes-128x128.py',
    'mmpretrain': 'configs/demo/vheat-mini_2xb16-3000i_digits-64x64.py',
}


def make_mmcv(folder: Path, compiled: bool) -> Path:
    """A package that is called mmcv."""
    (folder / 'mmcv').mkdir()
    (folder / 'mmcv' / '__init__.py').touch()
    if compiled:
        (folder / 'mmcv' / '_ext.py').write_text('nms = "the compiled one"')
    return folder


@pytest.mark.parametrize('compiled', [True, False])
def test_a_compiled_module_is_used_as_it_is(compiled, tmp_path, python):
    code = """
import sys
import mmvheat
assert not {'mmcv', 'torchvision'} & set(sys.modules), 'imported before they are needed'
from importlib.util import find_spec
assert find_spec('mmcv._ext') and 'torchvision' not in sys.modules
import mmcv._ext
print(mmcv._ext.nms)
"""
    printed = python('-c', code, path=(make_mmcv(tmp_path, compiled),))
    assert printed.startswith('the compiled one' if compiled else '<function nms')


def test_caches_of_imports_can_be_emptied():
    importlib.invalidate_caches()


def test_nothing_else_is_found(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    finder = mmcv_ops._StandIn
    assert sys.meta_path.count(finder) == 1
    mmcv_ops.install()
    assert sys.meta_path.count(finder) == 1
    assert sys.meta_path.index(finder) > sys.meta_path.index(PathFinder)
    for name in ('mmcv', 'mmcv.ops', 'mmcv._extra', '_ext', 'mmdet._ext'):
        assert finder.find_spec(name, None) is None


def test_mmcv_says_what_it_runs_on(bare_mmcv, python):
    code = """
import mmvheat
from mmcv.utils import collect_env
from mmcv.utils.ext_loader import check_ops_exist
from mmengine.utils.package_utils import is_installed
from mmengine.utils.dl_utils import mmcv_full_available
env = collect_env()
print(env['MMCV Compiler'], '|', check_ops_exist(), mmcv_full_available())
"""
    printed = python('-c', code, path=(bare_mmcv,))
    assert printed.startswith('none (mmvheat.mmcv_ops on torchvision ')
    assert printed.rstrip().endswith('| True True')


@pytest.mark.slow
def test_a_script_that_needs_mmcv_first_runs_with_its_spawned_processes(
    bare_mmcv, tmp_path, python
):
    script = tmp_path / 'script.py'
    script.write_text("""
import multiprocessing
import sys
import numpy as np
import helper
from mmcv.ops import nms

if __name__ == '__main__':
    boxes, scores = np.array([[0, 0, 9, 9], [0, 0, 9, 8]], np.float32), np.array([1, 2], np.float32)
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        print(sys.argv[1:], pool.apply(nms, (boxes, scores, 0.5))[1])
""")
    (tmp_path / 'helper.py').touch()
    assert python('-m', 'mmvheat.mmcv_ops.run', script, '--an', 'option', path=(bare_mmcv,)) == (
        "['--an', 'option'] [1]\n"
    )


@pytest.mark.parametrize('arguments', [(), ('no_such.py',)])
def test_a_script_that_is_not_there(arguments, python):
    with pytest.raises(AssertionError, match='usage: python -m mmvheat.mmcv_ops.run SCRIPT'):
        python('-m', 'mmvheat.mmcv_ops.run', *arguments)


def test_layers_trace_and_compile(bare_mmcv, python):
    """RoIAlign and deformable convolution, with and without graph breaks, as plain."""
    code = """
import warnings
warnings.simplefilter('ignore')
import torch
import mmvheat
from mmcv.ops import DeformConv2dPack, RoIAlign
torch.manual_seed(0)
maps = torch.rand(1, 4, 8, 8, requires_grad=True)
rois = torch.tensor([[0, 0, 0, 20, 25.0]])
class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = DeformConv2dPack(4, 4, 3, padding=1), RoIAlign(2, 0.25)
    def forward(self, maps, rois):
        return self.pool(self.conv(maps), rois)
plain = Both()
truth = plain(maps, rois)
traced = torch.jit.trace(Both.forward.__get__(plain), (maps, rois), check_trace=False)
compiled = torch.compile(plain, backend='eager')
grad = torch.autograd.grad(truth.sum(), maps, retain_graph=True)[0]
for found in (traced(maps, rois), compiled(maps, rois)):
    torch.testing.assert_close(found, truth)
torch.testing.assert_close(torch.autograd.grad(found.sum(), maps)[0], grad)
"""
    python('-c', code, path=(bare_mmcv,))


@pytest.fixture(scope='module')
def detector_on_ours(tmp_path_factory, bare_mmcv):
    return tmp_path_factory.mktemp('ours') / 'ours.npz'


def detect(python, out: Path, path: tuple[Path, ...] = ()) -> dict[str, np.ndarray]:
    if not out.exists():
        python(HERE / 'detector.py', out, path=path)
    with np.load(out) as file:
        return dict(file)


@pytest.mark.slow
def test_mask_rcnn_gives_the_recorded_losses_gradients_and_scores(
    bare_mmcv, detector_on_ours, python
):
    ours = detect(python, detector_on_ours, (bare_mmcv,))
    assert ours['module'] == str(Path(mmvheat.__file__).parent / 'mmcv_ops' / 'ext.py')
    with np.load(RECORDED) as file:
        recorded = {key: file[f'detector/{key}'] for key in ours if key != 'module'}
    # Boxes with equal scores may change places on another CPU.
    names = [name for name in recorded if name.startswith(('loss', 'grad', 'scores'))]
    assert len(names) > 150
    assert_same([ours[name] for name in names], [recorded[name] for name in names], 1e-3, 1e-4)


@pytest.mark.slow
@pytest.mark.skipif(compiled_module() is None, reason='needs a compiled mmcv')
def test_mask_rcnn_gives_what_it_gives_on_the_compiled_mmcv(
    bare_mmcv, detector_on_ours, tmp_path, python
):
    ours = detect(python, detector_on_ours, (bare_mmcv,))
    compiled = detect(python, tmp_path / 'compiled.npz')
    assert compiled.pop('module') != ours.pop('module')
    assert ours.keys() == compiled.keys()
    assert_same(list(ours.values()), list(compiled.values()), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('library', TOOLS)
def test_the_tools_of_the_libraries(library, bare_mmcv, tiny_data, tmp_path, python):
    """Their ``train.py``, and mmdet's ``test.py``, which imports ``mmcv.ops`` before configs."""
    cfg = shrink(HERE.parents[1] / TOOLS[library], tiny_data)
    assert cfg.custom_imports.imports == ['mmvheat']
    # mmpretrain's tool asks for persistent workers, and there are none.
    cfg.train_dataloader.persistent_workers = cfg.test_dataloader.persistent_workers = False
    cfg.dump(tmp_path / 'config.py')
    tools = Path(__import__(library).__file__).parent / '.mim' / 'tools'
    python(tools / 'train.py', 'config.py', '--work-dir', 'out', path=(bare_mmcv,))
    checkpoint = next((tmp_path / 'out').glob('*_2.pth'))
    if library == 'mmdet':
        test = ('-m', 'mmvheat.mmcv_ops.run', tools / 'test.py', 'config.py', checkpoint)
        python(*test, '--work-dir', 'out', path=(bare_mmcv,))
