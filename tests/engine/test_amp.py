from copy import deepcopy

import pytest
import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from mmvheat.engine import CPUAmpOptimWrapper
from mmvheat.engine.distributed import end_group, start_cpu_group
from mmvheat.models import VHeat


class _Backbone(nn.Linear):
    def forward(self, x):
        if x.isnan().any():
            raise ValueError('nan')
        out = super().forward(x)
        self.dtype = out.dtype
        return (out,)


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.head = _Backbone(4, 4), None, nn.Linear(4, 1)

    def forward(self, x):
        (feature,) = self.backbone(x)
        self.feature_dtype = feature.dtype
        out = self.head(feature)
        self.head_dtype = out.dtype
        return out.sum()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return _Model()


@pytest.fixture
def wrapper(model):
    config = dict(
        type='mmvheat.CPUAmpOptimWrapper', optimizer=torch.optim.SGD(model.parameters(), 1.0)
    )
    return OPTIM_WRAPPERS.build(config)


def test_only_features_are_computed_in_bfloat16(model, wrapper):
    x = torch.randn(3, 4)
    plain = torch.autograd.grad(model(x), list(model.parameters()))
    with wrapper.optim_context(model):
        loss = model(x)
    assert isinstance(wrapper, CPUAmpOptimWrapper)
    assert model.backbone.dtype is torch.bfloat16
    assert model.feature_dtype is model.head_dtype is torch.float32
    loss.backward()
    for parameter, gradient in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=2e-2, atol=2e-2)


def test_leaves_nothing_behind(model, wrapper):
    with wrapper.optim_context(model):
        with pytest.raises(ValueError, match='nan'):
            model(torch.full((1, 4), torch.nan))
        assert not torch.is_autocast_enabled('cpu')
    model(torch.randn(1, 4))
    assert model.backbone.dtype is torch.float32


class _Classifier(BaseModel):
    """The backbone, recomputing its activations, with a loss that is a mean over images."""

    def __init__(self):
        super().__init__()
        # Of two channels in the stem a norm would leave the signs: noise would grow in each step.
        arch = dict(depths=(1, 1), dims=8)
        self.backbone = VHeat(arch, img_size=32, out_indices=1, drop_path_rate=0.0, with_cp=True)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs, data_samples, mode='loss'):
        features = self.backbone(inputs)[-1].mean((2, 3))
        return dict(loss=nn.functional.cross_entropy(self.head(features), data_samples))


@pytest.fixture
def group(monkeypatch):
    """A group of one process."""
    for name, value in dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_PORT='0').items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    start_cpu_group('pytorch', timeout=20)
    yield
    end_group()


def _train(model, kind, batches, **settings):
    """Train on batches and return the weights."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrapper = OPTIM_WRAPPERS.build(dict(type=kind, optimizer=optimizer, **settings))
    wrapper.initialize_count_status(model, 0, len(batches))
    for inputs, labels in batches:
        model.train_step(dict(inputs=inputs, data_samples=labels), wrapper)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize('distributed', [False, True])
@pytest.mark.parametrize(
    ('kind', 'dtype', 'steps', 'tolerance'),
    [
        ('OptimWrapper', torch.float64, 3, 1e-12),
        ('mmvheat.CPUAmpOptimWrapper', torch.float32, 1, 2e-3),
    ],
)
def test_small_batches_accumulate_to_a_large_one(
    kind, dtype, steps, tolerance, distributed, request
):
    bare = _Classifier().to(dtype)
    # Between steps the wrapper must not exchange gradients, and must at the step.
    syncs = []
    if distributed:
        request.getfixturevalue('group')
    inputs, labels = torch.randn(4 * steps, 3, 32, 32, dtype=dtype), torch.randint(3, (4 * steps,))

    def train(batch, **settings):
        model = deepcopy(bare)
        if distributed:
            model = MMDistributedDataParallel(model, device_ids=None)
            model.register_comm_hook(syncs, _count)
        batches = list(zip(inputs.split(batch), labels.split(batch), strict=True))
        weights = _train(model, kind, batches, **settings)
        return {name.removeprefix('module.'): tensor for name, tensor in weights.items()}

    large = train(4)
    assert len(syncs) == (steps if distributed else 0)
    small = train(2, accumulative_counts=2)
    assert len(syncs) == (2 * steps if distributed else 0)
    torch.testing.assert_close(small, large, rtol=0, atol=tolerance)
    moved = [(large[name] - tensor).abs().max() for name, tensor in bare.state_dict().items()]
    assert max(moved) > 10 * tolerance


def _count(syncs, bucket):
    """Exchange gradients as usual, and note it."""
    syncs.append(bucket.index())
    return allreduce_hook(None, bucket)


def test_later_steps_compile_nothing(model, wrapper):
    compiled = CompileCounter()
    model.backbone.compile(backend=compiled)
    losses, frames = [], []
    for _ in range(3):
        with wrapper.optim_context(model):
            losses.append(model(torch.ones(3, 4)))
        frames.append(compiled.frame_count)
    assert model.backbone.dtype is torch.bfloat16
    assert 0 < frames[0] == frames[-1]
    torch.testing.assert_close(losses[1:], losses[:1] * 2)
