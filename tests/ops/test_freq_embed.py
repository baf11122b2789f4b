"""Resizing frequency embeddings: one function, three modes."""

import pytest
import torch
import torch.nn.functional as F

from mmvheat.ops import FREQ_EMBED_MODES, freq_embed_size, resize_freq_embed

GROWTHS = [((4, 4), (8, 8)), ((5, 3), (5, 7)), ((1, 1), (3, 2)), ((2, 6), (9, 6)), ((7, 4), (9, 5))]
# Two orders of a few sums in float32.
CLOSE = dict(atol=2e-6, rtol=0)
SHRINKS = [((8, 8), (4, 4)), ((7, 3), (2, 3)), ((5, 5), (1, 1))]


@pytest.mark.parametrize('mode', FREQ_EMBED_MODES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(('old', 'new'), GROWTHS)
def test_every_mode_gives_the_size_and_keeps_the_dtype(old, new, dtype, mode):
    embed = torch.randn(*old, 3).to(dtype)
    resized = resize_freq_embed(embed, new, mode)
    assert resized.shape == (*new, 3)
    assert resized.dtype == dtype
    assert resized.isfinite().all()
    assert resize_freq_embed(embed, old, mode) is embed


@pytest.mark.parametrize(('old', 'new'), [*GROWTHS, *SHRINKS])
def test_bicubic_is_torchs(old, new):
    embed = torch.randn(*old, 3)
    maps = F.interpolate(embed.movedim(2, 0)[None], new, mode='bicubic', align_corners=False)
    torch.testing.assert_close(resize_freq_embed(embed, new), maps[0].movedim(0, 2), **CLOSE)


@pytest.mark.parametrize(('old', 'new'), GROWTHS)
def test_pad_adds_zeros_at_the_high_frequency_end(old, new):
    embed = torch.randn(*old, 3)
    padded = resize_freq_embed(embed, new, 'pad')
    assert torch.equal(padded[: old[0], : old[1]], embed)
    assert padded.count_nonzero() == embed.count_nonzero()


@pytest.mark.parametrize(('old', 'new'), [*GROWTHS, *SHRINKS, ((100, 64), (133, 96))])
def test_frequency_reproduces_what_is_linear_in_the_frequency(old, new):
    def embed_of(height: int, width: int) -> torch.Tensor:
        n = torch.arange(height)[:, None] / height
        m = torch.arange(width)[None, :] / width
        return torch.stack((3 * n - m, 2 + n + 4 * m), dim=2)

    # Beyond the old grid's highest frequency, its last value is held.
    limit = torch.tensor([(size - 1) / size for size in old])
    n = (torch.arange(new[0])[:, None] / new[0]).clamp(max=limit[0])
    m = (torch.arange(new[1])[None, :] / new[1]).clamp(max=limit[1])
    expected = torch.stack((3 * n - m, 2 + n + 4 * m), dim=2)
    resized = resize_freq_embed(embed_of(*old), new, 'frequency')
    torch.testing.assert_close(resized, expected, atol=1e-5, rtol=0)


def test_frequency_of_a_multiple_keeps_the_old_samples():
    embed = torch.randn(6, 4, 2)
    for size, old, new in [((18, 8), (1, 1), (3, 2)), ((3, 2), (2, 2), (1, 1))]:
        resized = resize_freq_embed(embed, size, 'frequency')[:: new[0], :: new[1]]
        torch.testing.assert_close(resized, embed[:: old[0], :: old[1]], **CLOSE)


@pytest.mark.parametrize('mode', ['bicubic', 'frequency'])
def test_half_precision_is_resized_in_single(mode):
    embed = torch.randn(64, 64, 2).half()
    exact = resize_freq_embed(embed.double(), (90, 130), mode)
    assert (resize_freq_embed(embed, (90, 130), mode) - exact).abs().max() <= 2e-3


@pytest.mark.parametrize('mode', FREQ_EMBED_MODES)
def test_gradients(mode):
    embed = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: resize_freq_embed(e, (5, 4), mode), embed)


def test_any_memory_layout():
    embed = torch.randn(3, 4, 5).permute(1, 2, 0)
    for mode in FREQ_EMBED_MODES:
        resized = resize_freq_embed(embed, (6, 7), mode)
        expected = resize_freq_embed(embed.contiguous(), (6, 7), mode)
        torch.testing.assert_close(resized, expected, **CLOSE)


@pytest.mark.parametrize(
    ('shape', 'size', 'mode', 'message'),
    [
        ((4, 4, 2), (8, 8), 'cubic', "bicubic, pad, frequency, got 'cubic'"),
        ((4, 4), (8, 8), 'bicubic', r'\(H, W, C\), got \(4, 4\)'),
        ((1, 4, 4, 2), (8, 8), 'pad', r'\(H, W, C\), got \(1, 4, 4, 2\)'),
        ((4, 4, 2), (0, 8), 'bicubic', 'positive size, got 0 x 8'),
        ((4, 4, 2), (8, 3), 'pad', "cannot shrink an embedding of 4 x 4 to 8 x 3: use 'bicubic'"),
    ],
)
def test_bad_input(shape, size, mode, message):
    with pytest.raises(ValueError, match=message) as error:
        resize_freq_embed(torch.zeros(shape), size, mode)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('image', [(1, 1), (7, 300), (77, 101), (512, 683), (224, 224)])
def test_sizes_are_those_of_halving_and_rounding_up(image):
    size = image
    for _ in range(2):
        size = tuple((n + 1) // 2 for n in size)
    for stage in range(4):
        assert freq_embed_size(image, stage) == size
        size = tuple((n + 1) // 2 for n in size)
