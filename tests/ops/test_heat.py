"""Heat conduction: against the reference, against SciPy, and by what physics says of it."""

import math
import os
import random

import numpy as np
import pytest
import torch
from golden import golden_npz
from scipy.fft import dctn, idctn
from torch import Tensor

from mmvheat.ops import conduct, conduct_on_cpu, dct_basis, heat, heat_conduction, heat_decay
from mmvheat.ops.conduct_on_cpu import conduct_by_image, conduct_by_rows
from mmvheat.ops.heat import conduct_along_axes
from mmvheat.ops.reference import heat_conduction_reference

SIZES = [(1, 1), (1, 7), (6, 1), (5, 9), (8, 8), (11, 6)]
LOW_PRECISION = [torch.float16, torch.bfloat16]


def heat_scipy(x: Tensor, k: Tensor) -> Tensor:
    """Conduction by SciPy's transforms in float64."""
    height, width = x.shape[1:3]
    n = np.arange(height)[:, None, None] * math.pi / height
    m = np.arange(width)[None, :, None] * math.pi / width
    decay = np.exp(-(n**2 + m**2)) ** k.double().cpu().numpy()
    coefficients = dctn(x.double().cpu().numpy(), axes=(1, 2), norm='ortho')
    return torch.from_numpy(idctn(coefficients * decay, axes=(1, 2), norm='ortho'))


def heat_plain(x: Tensor, k: Tensor) -> Tensor:
    """Conduction as anybody would write it: orthonormal matrices in the dtype of the map."""
    rows = dct_basis(x.size(1), x.dtype, x.device)
    columns = dct_basis(x.size(2), x.dtype, x.device)
    x = torch.einsum('ni,mj,bijc->bnmc', rows, columns, x) * heat_decay(k).to(x.dtype)
    return torch.einsum('ni,mj,bnmc->bijc', rows, columns, x)


def heat_by_rows(x: Tensor, k: Tensor) -> Tensor:
    return conduct_by_rows(x, heat_decay(k).to(x.dtype))


def heat_by_image(x: Tensor, k: Tensor) -> Tensor:
    return conduct_by_image(x, heat_decay(k).to(x.dtype))


def heat_watched(x: Tensor, k: Tensor) -> Tensor:
    return conduct(x, heat_decay(k), plain=False)


# The fused kernels have tests of their own: on a CPU they run in Triton's interpreter.
RECORDED = {'chosen': heat_conduction, 'watched': heat_watched}
WAYS = RECORDED | {'rows': heat_by_rows, 'images': heat_by_image}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Let the rows come in several pieces on small maps too."""
    monkeypatch.setattr(conduct_on_cpu, '_CHUNK_BYTES', 256)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('layout', ['contiguous', 'channels_first_memory', 'strided'])
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_production_reference_and_scipy_agree(height, width, layout, way):
    x = {
        'contiguous': torch.randn(2, height, width, 4),
        'channels_first_memory': torch.randn(2, 4, height, width).permute(0, 2, 3, 1),
        'strided': torch.randn(2, height, 3 * width, 8)[:, :, ::3, ::2],
    }[layout].double()
    k = torch.rand(width, height, 4).transpose(0, 1).double()
    truth = heat_scipy(x, k)
    torch.testing.assert_close(heat_conduction_reference(x, k), truth, atol=1e-12, rtol=0)
    before = x.clone()
    torch.testing.assert_close(WAYS[way](x, k), truth, atol=1e-12, rtol=0)
    assert torch.equal(x, before)
    single = WAYS[way](x.float(), k.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, truth.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(('height', 'width'), [*SIZES, (56, 84)])
def test_physics(height, width):
    x = torch.randn(2, height, width, 3)
    ones = torch.ones(height, width, 3)
    mean = x.mean((1, 2), keepdim=True)
    torch.testing.assert_close(heat_conduction(x, 0 * ones), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(heat_conduction(x, 1e6 * ones), mean.expand_as(x), atol=1e-6, rtol=0)
    warm = heat_conduction(x, 0.3 * ones)
    # No heat is lost, none moves from cold to warm, and time adds up.
    torch.testing.assert_close(warm.mean((1, 2), keepdim=True), mean, atol=1e-6, rtol=0)
    assert (warm.var((1, 2), correction=0) <= x.var((1, 2), correction=0)).all()
    torch.testing.assert_close(
        heat_conduction(warm, 0.5 * ones), heat_conduction(x, 0.8 * ones), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize('tag', ['8x8', '5x9', '1x7', '16x4'])
def test_constants_are_those_of_the_published_code(tag):
    golden = golden_npz('heat_operator')
    height, width = map(int, tag.split('x'))
    decay = heat_decay(torch.ones(height, width, 1))[..., 0]
    basis = dct_basis(height)
    torch.testing.assert_close(basis, torch.from_numpy(golden[f'{tag}/cos_h']), atol=1e-6, rtol=0)
    torch.testing.assert_close(decay, torch.from_numpy(golden[f'{tag}/decay']), atol=1e-6, rtol=0)


@pytest.mark.parametrize('way', RECORDED)
@pytest.mark.parametrize(('height', 'width'), [(1, 1), (3, 4), (1, 5)])
def test_gradients_of_map_and_diffusivity(height, width, way):
    x = torch.randn(2, height, width, 2, dtype=torch.float64, requires_grad=True)
    k = torch.rand(height, width, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RECORDED[way], (x, k))
    assert torch.autograd.gradgradcheck(RECORDED[way], (x, k))


@pytest.mark.parametrize('diffusivity', [0.0, 0.2, 3.0])
@pytest.mark.parametrize(('height', 'width'), [(7, 7), (14, 23), (56, 40)])
@pytest.mark.parametrize('dtype', LOW_PRECISION, ids=str)
@pytest.mark.parametrize('way', WAYS)
def test_low_precision_errs_at_most_twice_as_much_as_plain_torch(
    way, dtype, height, width, diffusivity
):
    x = (3 + torch.randn(2, height, width, 8)).to(dtype)
    k = diffusivity * torch.rand(height, width, 8)
    truth = heat_scipy(x, k)

    def error(result: Tensor) -> float:
        assert result.dtype == dtype
        return (result.double() - truth).square().mean().sqrt().item()

    assert error(WAYS[way](x, k)) <= 2 * error(heat_plain(x, k))


@pytest.mark.parametrize('way', RECORDED)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('huge', [math.inf, 1e38, 3e5])
def test_an_infinite_diffusivity_leaves_the_mean_and_no_nan(huge, dtype, way):
    x = torch.randn(2, 5, 4, 3, dtype=dtype)
    # The second channel alone conducts so well, and one frequency of the third.
    k = torch.rand(5, 4, 3, dtype=dtype)
    k[..., 1], k[2, 3, 2] = huge, huge
    x.requires_grad_(), k.requires_grad_()
    warm, tame = RECORDED[way](x, k), RECORDED[way](x, k.clamp(max=1e5))
    close = dict(atol=0.05 if dtype == torch.bfloat16 else 1e-6, rtol=0)
    mean = x[..., 1].mean((1, 2), keepdim=True).expand(2, 5, 4)
    torch.testing.assert_close(warm[..., 1], mean, **close)
    torch.testing.assert_close(warm, tame, **close)
    seed = torch.randn_like(warm)
    grads = torch.autograd.grad(warm, (x, k), seed)
    for grad, wanted in zip(grads, torch.autograd.grad(tame, (x, k), seed), strict=True):
        torch.testing.assert_close(grad, wanted, **close)
    assert not grads[1][..., 1].any() and grads[1][2, 3, 2] == 0


def test_a_diffusivity_that_is_no_number_stays_so():
    for n, m in [(0, 0), (3, 2)]:
        k = torch.rand(5, 4, 2)
        k[n, m, 1] = math.nan
        decay = heat_decay(k)
        assert decay.isnan().nonzero().tolist() == [[n, m, 1]]
        warm = heat_conduction(torch.randn(1, 5, 4, 2), k)
        assert warm[..., 0].isfinite().all() and warm[..., 1].isnan().all()


@pytest.mark.slow
def test_random_sizes_up_to_700_agree_with_scipy(monkeypatch):
    """60 sizes, or 500 in the full run, whichever way of conduction is taken."""
    monkeypatch.setattr(conduct_on_cpu, '_CHUNK_BYTES', 2**20)
    draw = random.Random(0)
    for _ in range(500 if os.environ.get('MMVHEAT_FULL') else 60):
        height, width = draw.randint(1, 700), draw.randint(1, 700)
        x, k = torch.randn(1, height, width, 1), torch.rand(height, width, 1)
        error = (heat_conduction(x, k) - heat_scipy(x, k)).abs().max() / x.abs().max()
        assert error < 2e-6, f'{height} x {width}: {error:.1e}'


@pytest.mark.parametrize('kind', ['constant', 'random'])
@pytest.mark.parametrize('dtype', LOW_PRECISION, ids=str)
@pytest.mark.parametrize('size', [(512, 512), (509, 77), (1, 2048), (2048, 3), (7, 331)])
def test_values_near_the_limit_of_float16_stay_finite(size, dtype, kind):
    """Up to the first map of a 2048 x 2048 image, and lengths beyond."""
    x = torch.full((1, *size, 1), 60_000.0)
    if kind == 'random':
        x = x * (2 * torch.rand(x.shape) - 1)
    x.requires_grad_()
    with torch.autocast('cpu', dtype):
        warm = heat_conduction(x, torch.rand(*size, 1))
    assert warm.dtype == dtype and warm.isfinite().all()
    if kind == 'constant':
        torch.testing.assert_close(warm.float(), x, atol=0, rtol=10 * torch.finfo(dtype).eps)
    warm.mean().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('way', ['chosen', 'rows'])
@pytest.mark.parametrize('dtype', LOW_PRECISION, ids=str)
def test_nothing_overflows_on_the_map_of_a_2048_image(dtype, way):
    x = (torch.randn(1, 512, 512, 1) + 10_000).to(dtype).requires_grad_(way in RECORDED)
    warm = WAYS[way](x, torch.full((512, 512, 1), 0.1))
    # An orthonormal constant coefficient would be 512 * 10000, far beyond float16.
    assert ((warm.float() / 10_000 - 1).abs() < 0.02).all()
    if way in RECORDED:
        warm.mean().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize('x_dtype', [torch.float32, torch.bfloat16], ids=str)
def test_autocast(x_dtype):
    x, k = (2 + torch.randn(2, 20, 13, 4)).to(x_dtype), torch.rand(20, 13, 4)
    expected = heat_conduction(x.bfloat16(), k)
    with torch.autocast('cpu', torch.bfloat16):
        warm = heat_conduction(x, k)
        decay = heat_decay(k.bfloat16())
    assert warm.dtype == torch.bfloat16
    assert decay.dtype == torch.float32, 'the decay is an exponential: it stays wide'
    torch.testing.assert_close(warm, expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize('dynamic', [False, True])
def test_compiles_without_a_graph_break(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(heat_conduction, fullgraph=True, backend='aot_eager', dynamic=dynamic)
    for height, width in [(6, 9), (7, 5)]:
        x = torch.randn(2, height, width, 3, requires_grad=True)
        k = torch.rand(height, width, 3, requires_grad=True)
        seed = torch.randn(2, height, width, 3)
        eager = torch.autograd.grad(heat_conduction(x, k), (x, k), seed)
        traced = compiled(x, k)
        torch.testing.assert_close(traced, heat_conduction(x, k))
        torch.testing.assert_close(torch.autograd.grad(traced, (x, k), seed), eager)


@pytest.mark.parametrize('plain', [None, False])
@pytest.mark.parametrize('dtype', LOW_PRECISION, ids=str)
def test_low_precision_gradients_err_at_most_twice_as_much_as_plain_torch(dtype, plain):
    x, k = torch.randn(3, 14, 23, 8), 0.2 * torch.rand(14, 23, 8)
    x, seed, decay = x.to(dtype), torch.randn_like(x).to(dtype), heat_decay(k).to(dtype)

    def grads(function, *leaves: Tensor) -> list[Tensor]:
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        result = function(*leaves)
        return torch.autograd.grad(result, leaves, seed.to(result.dtype))

    def by_einsum(x: Tensor, decay: Tensor) -> Tensor:
        rows = dct_basis(x.size(1), x.dtype)
        columns = dct_basis(x.size(2), x.dtype)
        x = torch.einsum('ni,mj,bijc->bnmc', rows, columns, x) * decay
        return torch.einsum('ni,mj,bnmc->bijc', rows, columns, x)

    truth = grads(by_einsum, x.double(), decay.double())
    ours = grads(lambda x, decay: conduct(x, decay, plain), x, decay)
    for grad, other, expected in zip(ours, grads(by_einsum, x, decay), truth, strict=True):
        assert grad.dtype == dtype
        assert (grad - expected).norm() <= 2 * (other - expected).norm()


@pytest.mark.parametrize('recorded', [False, True])
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('width', [1, 191, 192, 700])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, *LOW_PRECISION], ids=str)
def test_orders_on_a_cpu_are_taken_where_they_are_faster(
    dtype, width, batch, recorded, monkeypatch
):
    """Rows from 192 columns in bfloat16, else a single image by itself; never where one watches."""
    taken = []
    for way in (conduct_by_rows, conduct_by_image):

        def spy(*args, way=way):
            taken.append(way.__name__)
            return way(*args)

        monkeypatch.setattr(heat, way.__name__, spy)
    x, decay = torch.randn(batch, 2, width, 1, dtype=dtype), torch.rand(2, width, 1)
    expected = conduct(x, decay, plain=False)
    assert not taken
    x.requires_grad_(recorded)
    torch.testing.assert_close(conduct(x, decay), expected, atol=0.05, rtol=0.02)
    if dtype == torch.bfloat16 and width >= 192:
        assert taken == ['conduct_by_rows']
    else:
        assert taken == ['conduct_by_image'] * (batch == 1)


@pytest.mark.parametrize('recorded', [False, True])
def test_large_images_are_conducted_by_the_faster_product(recorded, monkeypatch):
    """On a CPU that MKL is slow on, and the same within rounding, forward and backward."""
    x, decay = torch.randn(2, 61, 53, 96), torch.rand(61, 53, 96)
    products = []

    def spy(*args, product=conduct_on_cpu.product):
        products.append(1)
        return product(*args)

    monkeypatch.setattr(conduct_on_cpu, 'product', spy)
    results = {}
    for slow in (False, True):
        monkeypatch.setattr(conduct_on_cpu, 'mkl_is_slow', lambda slow=slow: slow)
        x.grad = None
        x.requires_grad_(recorded)
        results[slow] = [conduct(x, decay)]
        if recorded:
            results[slow][0].square().sum().backward()
            results[slow].append(x.grad)
        has_product = conduct_on_cpu.has_fused_product(x, x, x)
        assert len(products) == (4 if slow and has_product else 0)
    for one, other in zip(results[False], results[True], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', [(1,), (9,), (5, 4), (2, 1, 5), (3, 4, 2), (2, 1, 3, 2)])
def test_any_number_of_axes_agrees_with_the_reference_and_scipy(size):
    """Signals, maps by the general way, volumes; backward too."""
    x = torch.randn(2, *size, 3, dtype=torch.float64, requires_grad=True)
    k = torch.rand(*size, 3, dtype=torch.float64, requires_grad=True)
    axes = tuple(range(1, 1 + len(size)))
    squared = sum(
        f**2 for f in np.meshgrid(*(np.arange(n) * math.pi / n for n in size), indexing='ij')
    )
    decay = np.exp(-squared)[..., None] ** k.detach().numpy()
    truth = idctn(
        dctn(x.detach().numpy(), axes=axes, norm='ortho') * decay, axes=axes, norm='ortho'
    )
    reference = heat_conduction_reference(x, k)
    torch.testing.assert_close(reference.detach(), torch.from_numpy(truth), atol=1e-12, rtol=0)
    seed = torch.randn_like(reference)
    expected = torch.autograd.grad(reference, (x, k), seed)
    for way in (heat_conduction, lambda x, k: conduct_along_axes(x, heat_decay(k))):
        out = way(x, k)
        torch.testing.assert_close(out, reference, atol=1e-12, rtol=0)
        for grad, wanted in zip(torch.autograd.grad(out, (x, k), seed), expected, strict=True):
            torch.testing.assert_close(grad, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize('size', [(41,), (6, 7, 8)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_signals_and_volumes_keep_their_dtype(size, dtype):
    x, k = torch.randn(2, *size, 4).to(dtype), torch.rand(*size, 4)
    out = heat_conduction(x, k)
    assert out.dtype == dtype
    atol = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(out.double(), heat_conduction_reference(x, k), atol=atol, rtol=0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert heat_conduction(x, k).dtype == torch.bfloat16


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'in the place of H and W, got \(1, 4, 2\) and \(5, 2\)$'):
        heat_conduction(torch.zeros(1, 4, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r'got \(1, 4, 5, 2\) and \(5, 4, 2\)$'):
        heat_conduction(torch.zeros(1, 4, 5, 2), torch.zeros(5, 4, 2))
    with pytest.raises(ValueError, match=r'x \(B, H, W, C\) and one .* got \(4, 5, 2\)'):
        heat_conduction(torch.zeros(4, 5, 2), torch.zeros(4, 5, 2))


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, *LOW_PRECISION], ids=str)
def test_gpu_agrees_with_scipy(dtype):
    x = torch.randn(2, 56, 83, 8, device='cuda', dtype=dtype)
    k = torch.rand(56, 83, 8, device='cuda')
    atol = 1e-4 if dtype == torch.float32 else 16 * torch.finfo(dtype).eps
    warm = heat_conduction(x, k).double().cpu()
    torch.testing.assert_close(warm, heat_scipy(x, k), atol=atol, rtol=0)
