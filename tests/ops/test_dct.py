"""The DCT: production = reference = SciPy, at sizes where an index slip would show."""

import pytest
import torch
from scipy.fft import dct, dctn, idctn

from mmvheat.ops import dct2d, dct_basis, idct2d
from mmvheat.ops.reference import dct2d_reference, idct2d_reference

SIZES = [(1, 1), (1, 7), (6, 1), (2, 2), (5, 9), (8, 8), (12, 7)]
MADE = {
    'contiguous': lambda h, w: torch.randn(2, h, w, 3),
    'channels_first_memory': lambda h, w: torch.randn(2, 3, h, w).permute(0, 2, 3, 1),
    'strided': lambda h, w: torch.randn(4, 2 * h, w, 6)[::2, ::2, :, 1::2],
    'expanded': lambda h, w: torch.randn(1, h, w, 3).expand(2, -1, -1, -1),
}


@pytest.mark.parametrize('make', MADE.values(), ids=MADE)
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_production_reference_and_scipy_agree(height, width, make):
    x = make(height, width).double()
    forward = torch.from_numpy(dctn(x.numpy(), axes=(1, 2), norm='ortho'))
    backward = torch.from_numpy(idctn(x.numpy(), axes=(1, 2), norm='ortho'))
    for ours in (dct2d, dct2d_reference):
        torch.testing.assert_close(ours(x), forward, atol=1e-12, rtol=0)
    for ours in (idct2d, idct2d_reference):
        torch.testing.assert_close(ours(x), backward, atol=1e-12, rtol=0)
    torch.testing.assert_close(dct2d(x.float()), forward.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(('height', 'width'), [*SIZES, (63, 500)])
def test_inverse_of_forward_is_the_identity(height, width):
    x = torch.randn(1, height, width, 2)
    torch.testing.assert_close(idct2d(dct2d(x)), x, atol=2e-5, rtol=0)
    torch.testing.assert_close(dct2d(idct2d(x)), x, atol=2e-5, rtol=0)


@pytest.mark.parametrize('length', [1, 2, 7, 64, 171])
def test_basis_is_scipys_and_orthonormal(length):
    basis = dct_basis(length, torch.float64)
    identity = torch.eye(length, dtype=torch.float64)
    torch.testing.assert_close(basis, torch.from_numpy(dct(identity.numpy(), axis=0, norm='ortho')))
    torch.testing.assert_close(basis @ basis.T, identity)
    # Rounded once, from float64.
    assert torch.equal(dct_basis(length), basis.float())


def test_empty_batch_keeps_its_shape():
    assert dct2d(torch.empty(0, 5, 4, 3)).shape == (0, 5, 4, 3)


@pytest.mark.parametrize('transform', [dct2d, idct2d])
def test_a_map_of_three_dimensions_is_refused(transform):
    with pytest.raises(ValueError, match=r'\(B, H, W, C\), got \(4, 5, 6\)$'):
        transform(torch.zeros(4, 5, 6))
