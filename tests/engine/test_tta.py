"""What --tta makes of a config."""

import pytest
from mmdet.models.test_time_augs import DetTTAModel
from mmengine.config import Config

from mmvheat.engine.tta import use_tta
from mmvheat.errors import UserError

META_KEYS = ('img_id', 'ori_shape', 'instances')


def config(scope: str = 'mmdet', **more: object) -> Config:
    pack = dict(type=f'{scope}.PackInputs', meta_keys=META_KEYS)
    steps = [dict(type=name) for name in ('LoadImageFromFile', 'Resize')]
    dataset = dict(type='RepeatDataset', dataset=dict(type='Images', pipeline=[*steps, pack]))
    return Config(
        dict(
            default_scope=scope,
            model=dict(type='Detector'),
            test_dataloader=dict(dataset=dataset),
            **more,
        )
    )


@pytest.mark.parametrize(
    ('scope', 'model'),
    [
        ('mmpretrain', 'AverageClsScoreTTA'),
        ('mmdet', 'mmvheat.InstanceTTAModel'),
        ('mmseg', 'SegTTAModel'),
    ],
)
def test_each_library_flips_and_merges_unasked(scope: str, model: str) -> None:
    cfg = config(scope)
    use_tta(cfg)
    assert cfg.model == dict(type=model, module=dict(type='Detector'))
    *loaded, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert [step.type for step in loaded] == ['LoadImageFromFile', 'Resize']
    flips, (pack,) = augment.transforms
    assert [flip['prob'] for flip in flips] == [0, 1]
    # What the config asked for, and what undoing a flip needs.
    assert pack.meta_keys == (*META_KEYS, 'flip', 'flip_direction')


def test_padding_stays_behind_flipping() -> None:
    cfg = config()
    pipeline = cfg.test_dataloader.dataset.dataset.pipeline
    pipeline[2:2] = [dict(type='mmdet.Pad', size=(64, 64)), dict(type='LoadAnnotations')]
    use_tta(cfg)
    *_, last, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert last.type == 'Resize'
    types = [alternatives[0]['type'] for alternatives in augment.transforms]
    assert types == ['RandomFlip', 'mmdet.Pad', 'LoadAnnotations', 'mmdet.PackInputs']


@pytest.mark.parametrize('name', ['DetTTAModel', 'mmdet.DetTTAModel', DetTTAModel])
def test_mmdets_model_gives_way_to_the_one_that_knows_masks(
    name: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(nms=dict(type='nms', iou_threshold=0.6), max_per_img=50)
    pack = dict(type='PackDetInputs', meta_keys=META_KEYS)
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    given = dict(
        tta_model=dict(type=name, tta_cfg=settings),
        tta_pipeline=[dict(type='TestTimeAug', transforms=[flips, [pack]])],
    )
    said = []
    monkeypatch.setattr('mmvheat.engine.tta.print_log', lambda line, _: said.append(line))
    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        cfg = config(**given)
        use_tta(cfg)
        assert cfg.model.type == 'mmvheat.InstanceTTAModel' and cfg.model.tta_cfg == settings
    assert said == ['--tta: mmvheat.InstanceTTAModel merges in place of DetTTAModel.']
    (augment,) = cfg.test_dataloader.dataset.dataset.pipeline
    assert augment.transforms[0] == flips
    assert augment.transforms[1][0].meta_keys == (*META_KEYS, 'flip', 'flip_direction')


def test_a_model_of_ones_own_stays() -> None:
    cfg = config(tta_model=dict(type='Mine', weight=2))
    use_tta(cfg)
    assert cfg.model == dict(type='Mine', weight=2, module=dict(type='Detector'))


@pytest.mark.parametrize('pipeline', [[], [dict(type='Resize')]])
def test_a_pipeline_that_packs_nothing_is_refused(pipeline: list) -> None:
    cfg = config()
    cfg.test_dataloader.dataset.dataset.pipeline = pipeline
    with pytest.raises(UserError, match='set tta_pipeline in the config'):
        use_tta(cfg)
