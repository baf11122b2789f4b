"""`--compile`: the backbone is compiled in place, once, and copies are not."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from torch import nn

from mmvheat.engine import CompileBackboneHook
from mmvheat.engine import compile as compile_hook
from mmvheat.engine.compile import use_compile
from mmvheat.errors import UserError
from mmvheat.models import VHeat


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = VHeat(dict(depths=[1, 1], dims=4), img_size=16, out_indices=(1,))
        self.data_preprocessor = BaseDataPreprocessor()

    def forward(self, data: dict) -> torch.Tensor:
        return self.backbone(self.data_preprocessor(data)['inputs'])[0]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_the_backbone_is_compiled_once_for_all_batches():
    model = Model().eval()
    copied, keys = copy.deepcopy(model), list(model.state_dict())
    runner, hook = SimpleNamespace(model=model), CompileBackboneHook('aot_eager')
    hook.before_train(runner), hook.before_val(runner), hook.before_test(runner)
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        for batch in (4, 2, 3):
            data = dict(inputs=torch.randn(batch, 3, 16, 24))
            torch.testing.assert_close(model(data), copied(data), atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1
    assert list(model.state_dict()) == keys
    assert len(model.data_preprocessor._forward_hooks) == 1
    assert copy.deepcopy(model).backbone._compiled_call_impl is None


def test_a_model_without_vheat_is_refused():
    with pytest.raises(UserError, match='the model has none'):
        CompileBackboneHook().before_test(SimpleNamespace(model=nn.Linear(1, 1)))


def test_the_config_gets_the_hook_beside_its_own():
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook')]))
    use_compile(cfg, 'aot_eager')
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook', 'mmvheat.CompileBackboneHook']
    assert cfg.custom_hooks[1].backend == 'aot_eager'


def test_mistakes_get_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"inductor.*got 'turbo'$"):
        use_compile(Config(), 'turbo')
    monkeypatch.setattr(compile_hook.shutil, 'which', lambda name: None)
    monkeypatch.setattr(compile_hook, 'uses_cpu', lambda: True)
    with pytest.raises(UserError, match=r'install g\+\+'):
        use_compile(Config(), 'inductor')
