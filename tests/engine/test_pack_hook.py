"""Testing packs the weights, with those of the moment, and unpacks them."""

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from tiny_runner import NotingModel, tiny_runner

from mmvheat.engine import PackHook
from mmvheat.models import VHeat
from mmvheat.ops.packed import can_pack

IMAGES = torch.ones(1, 3, 8, 8)


class _Model(NotingModel):
    """Keeps what its backbone returns in a test, and for how many dtypes it was packed."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = VHeat(dict(depths=(1, 1), dims=8), img_size=8, out_indices=1)
        self.seen: list[tuple[torch.Tensor, int]] = []

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            self.seen.append((self.backbone(IMAGES)[0], len(self.backbone._packed._by_dtype)))
        return super().forward(inputs, mode)


class _Average(Hook):
    """Makes the averaged weights others than the trained ones."""

    def __init__(self, ema: EMAHook) -> None:
        self.ema = ema

    def before_test(self, runner):
        for parameter in self.ema.ema_model.module.backbone.parameters():
            parameter.data += 0.5


@pytest.mark.skipif(not can_pack(torch.float32), reason='no packed products for this CPU')
@pytest.mark.parametrize('averaged', [False, True])
def test_a_test_is_packed_with_the_weights_of_the_moment(tmp_path, averaged):
    model, ema = _Model(), EMAHook()
    runner = tiny_runner(
        tmp_path,
        model,
        test_dataloader=tiny_runner(tmp_path, NotingModel())._val_dataloader,
        test_cfg={},
        test_evaluator=Evaluator([]),
        custom_hooks=[ema, _Average(ema)] if averaged else [],
    )
    assert sum(isinstance(hook, PackHook) for hook in runner.hooks) == 1
    runner.test()
    (maps, packed), *_ = model.seen
    assert packed == 1
    assert not model.backbone._packed.wanted and not model.backbone._packed._by_dtype
    plain = (ema.ema_model.module if averaged else model).backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(maps, plain(IMAGES)[0], atol=1e-5, rtol=1e-5)
