"""What can be said of FSDP without processes; tests/tools/test_scale_out.py trains with it."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, RUNNERS, STRATEGIES, DefaultScope

from mmvheat.engine.distributed import end_group
from mmvheat.engine.fsdp import FlexibleRunner, FSDPStrategy, wrap_heat_blocks
from mmvheat.layers import HeatBlock
from mmvheat.models import VHeat

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'scale_out' / 'mask-rcnn_vheat-b_fsdp_fpn_1x_coco.py'


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
def test_the_config_names_what_exists_in_every_scope(scope):
    config = Config.fromfile(CONFIG)
    with DefaultScope.overwrite_default_scope(scope):
        assert RUNNERS.get(config.runner_type) is FlexibleRunner
        assert STRATEGIES.get(config.strategy.type) is FSDPStrategy
        policy = config.strategy.model_wrapper.auto_wrap_policy
        assert FUNCTIONS.get(policy) is wrap_heat_blocks


def test_units_are_the_heat_blocks():
    model = VHeat(dict(depths=(2, 1), dims=4), out_indices=1)
    units = [module for module in model.modules() if wrap_heat_blocks(module, False, 0)]
    assert [type(unit) for unit in units] == [HeatBlock] * 3
    # On its way down it enters everything.
    assert all(wrap_heat_blocks(module, True, 0) for module in model.modules())


def test_sharding_over_nothing_is_one_clear_line(tmp_path):
    config = dict(
        type='mmvheat.FSDPStrategy', work_dir=str(tmp_path), env_kwargs=dict(launcher='none')
    )
    with pytest.raises(ValueError, match='no launcher: start with tools/dist_train.sh') as caught:
        STRATEGIES.build(config)
    assert '\n' not in str(caught.value)


def test_an_average_of_weights_is_refused(tmp_path, monkeypatch):
    for name, value in dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_PORT='0').items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    config = dict(
        runner_type='mmvheat.FlexibleRunner',
        model=dict(type='ToyModel'),
        work_dir=str(tmp_path),
        launcher='pytorch',
        strategy=dict(type='mmvheat.FSDPStrategy'),
        custom_hooks=[dict(type='EMAHook')],
    )
    with pytest.raises(ValueError, match='custom_hooks has EMAHook.*leave it out') as caught:
        RUNNERS.build(config)
    end_group()
    assert '\n' not in str(caught.value)
