"""The filter of all Fourier frequencies: a circular convolution, and its fit to other sizes."""

import pytest
import torch
import torch.nn.functional as F

from mmvheat.ops import FREQ_EMBED_MODES, filter_globally, resize_global_filter
from mmvheat.ops.reference import global_filter_reference

SIZES = [(1, 1), (1, 2), (2, 1), (3, 5), (4, 4), (5, 4), (6, 7)]


def random_spectrum(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Any spectrum, also of no real kernel: the inverse transform takes what is real."""
    return torch.randn(height, width // 2 + 1, channels, 2, dtype=torch.float64)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_it_is_a_circular_convolution(height, width):
    x, spectrum = torch.randn(2, height, width, 3).double(), random_spectrum(height, width)
    kernel = torch.fft.irfft2(torch.view_as_complex(spectrum), s=(height, width), dim=(0, 1))
    # torch's convolution is a correlation, so the kernel is turned round.
    padded = F.pad(x.permute(0, 3, 1, 2), (width - 1, 0, height - 1, 0), mode='circular')
    weight = kernel.flip(0, 1).permute(2, 0, 1)[:, None]
    expected = F.conv2d(padded, weight, groups=3).permute(0, 2, 3, 1)
    torch.testing.assert_close(filter_globally(x, spectrum), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_it_agrees_with_the_reference_forward_and_backward(height, width):
    x = torch.randn(2, height, width, 3, dtype=torch.float64, requires_grad=True)
    spectrum = random_spectrum(height, width).requires_grad_()
    out, reference = filter_globally(x, spectrum), global_filter_reference(x, spectrum)
    torch.testing.assert_close(out, reference, atol=1e-12, rtol=0)
    seed = torch.randn_like(out)
    expected = torch.autograd.grad(reference, (x, spectrum), seed)
    for grad, wanted in zip(torch.autograd.grad(out, (x, spectrum), seed), expected, strict=True):
        torch.testing.assert_close(grad, wanted, atol=1e-12, rtol=0)
    single = filter_globally(x.float(), spectrum.float())
    torch.testing.assert_close(single, reference.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(dtype):
    """The transform is computed in float32."""
    x, spectrum = torch.randn(2, 5, 6, 3).to(dtype), random_spectrum(5, 6).float()
    out = filter_globally(x, spectrum)
    assert out.dtype == dtype
    assert torch.equal(out, filter_globally(x.float(), spectrum).to(dtype))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert filter_globally(x.float(), spectrum).dtype == torch.bfloat16


@pytest.mark.parametrize('mode', FREQ_EMBED_MODES)
@pytest.mark.parametrize(('old', 'new'), [((4, 4), (7, 8)), ((5, 6), (6, 9)), ((7, 7), (14, 14))])
def test_a_resized_filter_is_of_the_new_size_and_keeps_its_mean(old, new, mode):
    spectrum = random_spectrum(*old)
    resized = resize_global_filter(spectrum, new, mode)
    assert resized.shape == (new[0], new[1] // 2 + 1, 3, 2)
    assert resize_global_filter(spectrum, old, mode) is spectrum
    # Half-pixel centres move the constant a little, as an embedding's.
    if mode != 'bicubic':
        torch.testing.assert_close(resized[0, 0], spectrum[0, 0])


@pytest.mark.parametrize('mode', ['bicubic', 'frequency'])
@pytest.mark.parametrize('size', [(3, 4), (9, 12), (6, 5)])
def test_the_same_factor_everywhere_stays(size, mode):
    spectrum = torch.tensor([1.5, -0.5]).expand(6, 4, 3, 2)
    resized = resize_global_filter(spectrum, size, mode)
    torch.testing.assert_close(resized, spectrum[:1, :1].expand_as(resized))


def test_the_frequency_mode_keeps_the_factors_of_equal_frequencies():
    """Every second one of twice the size, in both directions, is one of the old."""
    spectrum = random_spectrum(8, 8)
    resized = resize_global_filter(spectrum, (16, 16), 'frequency')
    rows = torch.arange(8) * 2
    assert torch.equal(resized[rows][:4, ::2], spectrum[:4])
    assert torch.equal(resized[rows][5:, ::2], spectrum[5:])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'got \(1, 4, 5, 2\) and \(4, 2, 2, 2\)$'):
        filter_globally(torch.zeros(1, 4, 5, 2), torch.zeros(4, 2, 2, 2))
