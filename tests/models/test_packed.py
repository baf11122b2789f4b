"""With packed weights the model computes the same, and never with weights that have changed."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from mmvheat.models import VHeat
from mmvheat.models import vheat as stage
from mmvheat.ops import heat_decay
from mmvheat.ops import packed as packed_ops
from mmvheat.ops.packed import can_pack

pytestmark = pytest.mark.skipif(
    not can_pack(torch.float32), reason='this torch has no packed products for this CPU'
)

PLAIN = dict(depths=(1, 2, 1), dims=8)
ARCHS = {
    'plain': PLAIN,
    'post-norm, scaled': PLAIN | dict(post_norm=True, layer_scale_init_value=0.5),
    'scaled': PLAIN | dict(layer_scale_init_value=0.5),
    'isotropic': dict(depths=(2,), dims=8, patch_size=16),
    'without dwconv': PLAIN | dict(dwconv=False),
    'learned': PLAIN | dict(diffusivity='learned'),
    'global filter': PLAIN | dict(operator='global_filter'),
    'identity': PLAIN | dict(operator='identity'),
}
PRECISIONS = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(not can_pack(torch.bfloat16), reason='no bfloat16 products here'),
    ),
]


def make(arch: dict = PLAIN, **options) -> VHeat:
    """A backbone whose every weight matters."""
    torch.manual_seed(0)
    model = VHeat(arch, img_size=32, out_indices=tuple(range(len(arch['depths']))), **options)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        if 'norm' in name and name.endswith('weight'):
            nn.init.normal_(parameter, 1.0, 0.2)
    return model.eval()


@pytest.fixture
def model() -> VHeat:
    return make()


def run(model: VHeat, x: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=dtype != torch.float32):
        return model(x)


def packs(model: VHeat) -> int:
    """For how many dtypes the weights are packed."""
    return len(model._packed._by_dtype)


def check(model: VHeat, x: Tensor, packed: bool = True) -> None:
    """Compare a pass with one that packs nothing, and see that weights were packed."""
    maps = run(model, x)
    assert packs(model) == packed
    plain = copy.deepcopy(model).pack(False)
    for one, other in zip(maps, run(plain, x), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    'shape', [(1, 3, 32, 32), (3, 3, 37, 51), (2, 3, 1, 1), (1, 3, 90, 9)], ids=str
)
@pytest.mark.parametrize('dtype', PRECISIONS, ids=str)
@pytest.mark.parametrize('arch', ARCHS)
def test_it_is_as_near_to_float64_as_the_ordinary_pass(arch, dtype, shape):
    """Sizes take turns, so that weights that were packed for one are used for another."""
    model = make(ARCHS[arch])
    packed = copy.deepcopy(model).pack()
    run(packed, torch.randn(1, 3, 16, 16), dtype)
    x = torch.randn(shape)
    truth = run(copy.deepcopy(model).double(), x.double())
    ordinary = run(model, x, dtype)
    for ours, other, true in zip(run(packed, x, dtype), ordinary, truth, strict=True):
        assert ours.dtype == other.dtype
        assert ours.stride() == other.stride()
        most = 1.5 * (other - true).norm() + 1e-6 * true.norm()
        assert (ours - true).norm() <= most
    # A layer scale makes float32 of bfloat16, which the products do not add.
    assert packs(packed) == (arch != 'scaled' or dtype == torch.float32)


@pytest.mark.parametrize('options', [{}, dict(decay_cache_mib=0)], ids=str)
@pytest.mark.parametrize('folded', [False, True])
def test_with_and_without_kept_decays(options, folded):
    model = make(**options).pack()
    check(model.fold(32) if folded else model, torch.randn(2, 3, 32, 32))


def _in_place(model):
    with torch.no_grad():
        model.layers[1][0].mlp.fc2.bias[-1] += 1


def _through_data(model):
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn_like(parameter))


def _new_memory(model):
    for parameter in model.parameters():
        parameter.data = parameter.data * 2


def _new_parameter(model):
    model.layers[0][0].norm1.weight = nn.Parameter(torch.rand(8))


def _state_dict(model):
    model.load_state_dict({key: 2 * value for key, value in model.state_dict().items()})


def _train_and_back(model):
    model.train().requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sum(out.square().mean() for out in model(torch.randn(2, 3, 32, 32))).backward()
    optimizer.step()
    model.eval()


def _folding(model):
    model.fold(32)


def _decay(model):
    with torch.no_grad():
        model.freq_embed[0].add_(1)
        model.layers[0][0].op.to_k[0].weight.mul_(2)


CHANGES = (
    _in_place,
    _through_data,
    _new_memory,
    _new_parameter,
    _state_dict,
    _train_and_back,
    _folding,
    _decay,
)


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__.strip('_'))
def test_changed_weights_are_packed_anew(model, change):
    x = torch.randn(1, 3, 32, 32)
    before = run(model.pack(), x)
    change(model)
    check(model, x)
    if change is not _folding:
        assert not torch.allclose(run(model, x)[-1], before[-1])


def test_weights_of_inference_mode():
    with torch.inference_mode():
        model = make().pack()
        x = torch.randn(1, 3, 32, 32)
        model(x)
        assert packs(model) == 1
    check(model, x)


class _Adapter(nn.Module):
    """What adds to a layer's output, and passes its weights on, as LoRA does."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor, plain: bool | None = None) -> Tensor:
        return self.layer(x) + 1


def _hook(model):
    model.layers[1][0].op.out_norm.register_forward_hook(lambda module, args, out: out * 2)


def _pre_hook(model):
    model.layers[0][0].register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:]))


def _adapter(model):
    model.layers[0][0].op.linear = _Adapter(model.layers[0][0].op.linear)


def _parametrization(model):
    double = nn.Sequential()
    double.forward = lambda weight: 2 * weight
    nn.utils.parametrize.register_parametrization(model.layers[0][0].norm1, 'weight', double)


@pytest.mark.parametrize(
    'change', [_hook, _pre_hook, _adapter, _parametrization], ids=lambda f: f.__name__
)
def test_what_it_would_pass_over_takes_the_ordinary_pass(model, change):
    x = torch.randn(1, 3, 32, 32)
    before = run(model.pack(), x)
    change(model)
    after = run(model, x)
    assert not torch.allclose(after[-1], before[-1])
    check(model, x, packed=change in (_hook, _pre_hook))


def test_gradients_training_and_other_dtypes_take_the_ordinary_pass(model):
    model.pack()
    x = torch.randn(1, 3, 32, 32)
    model(x)[-1].sum().backward()
    assert packs(model) == 0
    model.train()
    run(model, x)
    assert packs(model) == 0
    run(model.eval().double(), x.double())
    assert packs(model) == 0


def test_tracers_and_transforms_take_the_ordinary_pass(model):
    x = torch.randn(2, 3, 32, 32)
    expected = run(model, x)[-1]
    model.pack()
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        torch.testing.assert_close(traced(x)[-1], expected, atol=1e-5, rtol=1e-5)
        state = dict(model.named_parameters())
        one = torch.func.functional_call(model, {k: v * 2 for k, v in state.items()}, (x,))[-1]
        torch.testing.assert_close(one, run(_doubled(model), x)[-1], atol=1e-5, rtol=1e-5)
        assert packs(model) == 0


def _doubled(model: VHeat) -> VHeat:
    doubled = copy.deepcopy(model).pack(False)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    return doubled


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_pack_for_themselves_and_no_state_dict_has_it(model, copied):
    x = torch.randn(1, 3, 32, 32)
    keys = list(model.state_dict())
    run(model.pack(), x)
    assert list(model.state_dict()) == keys
    torch.save(model.state_dict(), io.BytesIO())
    clone = copied(model)
    assert packs(clone) == 0
    check(clone, x)


@pytest.mark.parametrize('drop', ['pack', 'train', 'float'])
def test_what_frees_the_memory(model, drop):
    run(model.pack(), torch.randn(1, 3, 32, 32))
    assert packs(model) == 1
    model.pack(False) if drop == 'pack' else getattr(model, drop)()
    assert packs(model) == 0


def test_decays_are_kept_again_after_eval(model, monkeypatch):
    """``eval()`` drops what is kept, but a packed pass must not make decays in each call then."""
    made = []
    monkeypatch.setattr(stage, 'heat_decay', lambda k: made.append(1) or heat_decay(k))
    x = torch.randn(1, 3, 32, 32)
    run(model.pack(), x)
    assert len(made) == sum(PLAIN['depths'])
    model.eval()
    run(model, x)
    made.clear()
    run(model, x)
    assert packs(model) == 1 and not made


def test_a_torch_without_the_products_takes_the_ordinary_pass(model, monkeypatch):
    x = torch.randn(1, 3, 32, 32)
    monkeypatch.setattr(packed_ops.dispatch, 'reorder_linear_weight', None)
    check(model.pack(), x, packed=False)


def test_fewer_stages(model):
    x = torch.randn(1, 3, 32, 32)
    run(model.pack(), x)
    model.keep_stages(2)
    check(model, x)


def test_threads_that_begin_at_once(model):
    inputs = [torch.randn(1, 3, 24 + i, 40 - i) for i in range(8)]
    expected = [run(model, x)[-1] for x in inputs]
    model.pack()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda x: run(model, x)[-1], inputs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
