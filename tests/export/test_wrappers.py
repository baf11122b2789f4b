"""Wrapped models give what the libraries' own ``predict`` gives, in a form that can be exported."""

import copy

import pytest
import torch
from tiny_exports import make_segmentor, make_tiny_classifier, wrap

from mmvheat.errors import UserError
from mmvheat.export.build import resize_facts
from mmvheat.export.wrappers import _MeanOfCells, exportable

pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')


@pytest.fixture(scope='module')
def classifier(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_tiny_classifier(tmp_path_factory.mktemp('classifier'))


def pixels(*size: int) -> torch.Tensor:
    """Images (N, H, W, 3), r, g, b."""
    return torch.randint(0, 256, (*size, 3), dtype=torch.uint8)


def test_a_classifier_gives_scores(classifier):
    image = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = torch.stack([one.pred_score for one in classifier.predict(image.flip(1))])
        # The tiny config trains with b, g, r.
        torch.testing.assert_close(wrap(classifier)(image), expected)


@pytest.mark.parametrize('head', ['uper', 'fpn', 'binary'])
@pytest.mark.parametrize('bgr', [False, True])
def test_a_segmentor_gives_what_it_predicts(head: str, bgr: bool):
    """From pixels, through the library's own preprocessor."""
    model, image = make_segmentor(head, bgr), pixels(2, 64, 64)
    # mmseg reads images as b, g, r.
    inputs = [one.permute(2, 0, 1).flip(0) for one in image]
    with torch.no_grad():
        batch = model.data_preprocessor({'inputs': inputs, 'data_samples': None}, False)
        samples = model.predict(batch['inputs'])
        logits = wrap(model, preprocess=True)(image)
        labels = wrap(model, preprocess=True, label_map=True)(image)
    expected = torch.stack([one.seg_logits.data for one in samples])
    assert expected.std() > 0.1
    if head == 'binary':
        logits = logits.sigmoid()
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert labels.equal(torch.cat([one.pred_sem_seg.data for one in samples]))
    assert len(labels.unique()) > 1


@pytest.mark.parametrize('size', [(64, 64), (70, 97), None])
@pytest.mark.parametrize('head', ['uper', 'fpn'])
def test_the_form_that_is_exported_computes_the_same(head: str, size: tuple[int, int] | None):
    module = wrap(make_segmentor(head))
    before = copy.deepcopy(module.state_dict())
    image = torch.randn(2, 3, *(size or (80, 48)))
    with torch.no_grad():
        torch.testing.assert_close(
            exportable(module, size)(image), module(image), atol=1e-4, rtol=1e-4
        )
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize('size', [(1, 1), (7, 12), (16, 5), (3, 20)])
@pytest.mark.parametrize('cells', [2, 3, (6, 1)])
def test_means_of_cells_are_adaptive_pooling(size: tuple[int, int], cells: int | tuple[int, int]):
    x = torch.randn(2, 3, *size)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, cells)
    torch.testing.assert_close(_MeanOfCells(cells)(x), expected)


def test_a_folded_model_is_for_its_size_alone(classifier):
    folded = copy.deepcopy(classifier)
    folded.backbone.fold((64, 32))
    module = wrap(folded)
    exportable(module, (64, 32))
    for size, word in (((64, 64), '64 x 64'), (None, 'any size')):
        with pytest.raises(UserError, match=f'folded for images of 64 x 32, not for {word}'):
            exportable(module, size)


@pytest.mark.parametrize(
    ('steps', 'expected'),
    [
        (
            [
                dict(type='ResizeEdge', scale=256, edge='short', backend='pillow',
                     interpolation='bicubic'),
                dict(type='CenterCrop', crop_size=224),
            ],
            dict(size=[256, None], keep_ratio=True, crop=[224, 224], interpolation='bicubic',
                 backend='pillow'),
        ),
        ([dict(type='mmpretrain.ResizeEdge', scale=9, edge='long')], dict(size=[None, 9])),
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True)], dict(size=[800, 1333])),
        ([dict(type='Resize', scale=(96, 64))], dict(size=[64, 96], keep_ratio=False)),
        ([dict(type='Resize', scale=32)], dict(size=[32, 32], crop=None, backend='cv2')),
        ([dict(type='PackInputs')], dict(size=None, pad_value=7)),
    ],
)  # fmt: skip
def test_the_pipeline_says_how_images_are_made_to_fit(steps, expected):
    found = resize_facts([dict(type='LoadImageFromFile'), *steps], 7)
    assert {name: found[name] for name in expected} == expected
