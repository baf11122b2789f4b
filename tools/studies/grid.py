"""What the study consists of, as data: its questions, and an arm for each row of their tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ['ARMS', 'STUDIES', 'Arm', 'Start', 'backbones', 'find_arm']

# The question of each sub-study.
STUDIES = {
    'ablation': (
        "Does the paper's order of ablations hold (predicted over learned over fixed diffusivity, "
        'heat over a global filter, little from the depth-wise convolution), and where do networks '
        'of other kinds stand?'
    ),
    'downstream': (
        'In the same budget, what does a pretrained and converted backbone bring to detection and '
        'segmentation?'
    ),
    'transfer': (
        'By which mode should frequency embeddings be fitted to larger images, and does their '
        'content matter at all?'
    ),
}


@dataclass(frozen=True)
class Start:
    """The weights that a run begins with: what another arm ended with, by the same seed.

    Attributes:
        arm: That arm.
        source_size: Side of its images.
        target_size: Side of the images to convert for.
        mode: ``'bicubic'``, ``'pad'``, ``'frequency'``, or ``'mean'``, which puts the mean of an
            embedding in the place of its content.
        task: ``'downstream'`` or ``'classification'``, which keeps the classifier.
    """

    arm: 'Arm'
    source_size: int
    target_size: int
    mode: str = 'bicubic'
    task: str = 'downstream'


@dataclass(frozen=True)
class Arm:
    """What is trained once for every seed.

    Attributes:
        study: Its sub-study.
        name: Its name there, a path of what tells it from others.
        config: Config file, relative to the repository.
        iterations: Length of a run; 0 only tests what it starts with.
        metrics: What the test gives, the first of which chooses the candidate; name and factor.
        settings: Overrides of the config, with dotted keys.
        candidates: Overrides of which a short run on a part of the training set chooses one. With
            one candidate there is no search.
        search_iterations: Length of the short run.
        holdout: Images of the training set that the short run trains on, and at the end of the set
            those that it is tested on.
        like: The arm, ``study/name``, whose search this one takes; None for its own.
        start: What it starts with; None for random weights.
        seconds: A rough guess of one iteration, one core, until it was measured.
        test_seconds: The same of the test.
    """

    study: str
    name: str
    config: str
    iterations: int
    metrics: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[Mapping[str, Any], ...] = ({},)
    search_iterations: int = 0
    holdout: tuple[int, int] = (0, 0)
    like: str | None = None
    start: Start | None = None
    seconds: float = 0.2
    test_seconds: float = 15.0

    @property
    def path(self) -> str:
        """Study and name."""
        return f'{self.study}/{self.name}'


_LR = 'optim_wrapper.optimizer.lr'
_TOP1 = {'accuracy/top1': 1.0}
_FASHION = 'configs/study/vheat-mini_64xb1_fashion-mnist-32x32.py'


def _vheat(**variant: Any) -> dict[str, Any]:
    return {'model.backbone.arch': dict(depths=[1, 2, 1], dims=32, patch_size=2, **variant)}


def _peer(channels: int, /, **backbone: Any) -> dict[str, Any]:
    return {
        'model.backbone': dict(_delete_=True, in_channels=1, **backbone),
        'model.head.in_channels': channels,
    }


def backbones() -> dict[str, dict[str, Any]]:
    """The rows of the ablation, as overrides of the config: vHeat's variants, then its peers."""
    return {
        'predicted': _vheat(),
        'learned': _vheat(diffusivity='learned'),
        'shared': _vheat(diffusivity='shared'),
        'fixed-0.1': _vheat(diffusivity='fixed', k=0.1),
        'fixed-1': _vheat(diffusivity='fixed', k=1.0),
        'fixed-10': _vheat(diffusivity='fixed', k=10.0),
        'global_filter': _vheat(operator='global_filter'),
        'identity': _vheat(operator='identity'),
        'no-dwconv': _vheat(dwconv=False),
        'swin': _peer(
            136,
            type='SwinTransformer',
            arch=dict(embed_dims=34, depths=[1, 2, 1], num_heads=[1, 2, 4]),
            img_size=32,
            patch_size=2,
            window_size=4,
            out_indices=(2,),
            drop_path_rate=0.05,
        ),
        'convnext': _peer(
            160,
            type='ConvNeXt',
            arch=dict(depths=[1, 2, 1], channels=[40, 80, 160]),
            stem_patch_size=2,
            drop_path_rate=0.05,
            layer_scale_init_value=0.0,
            out_indices=(2,),
            gap_before_final_norm=False,
        ),
        'depthwise-cnn': _peer(
            128, type='PlainConvNet', depths=[2, 3, 2], dims=[32, 64, 128], patch_size=2
        )
        # So that tools/train.py, which lies beside it, trains the config of a record too.
        | {'custom_imports.imports': ['mmvheat', 'studies.peers']},
    }


_PEERS = ('swin', 'convnext', 'depthwise-cnn')


def _ablation() -> list[Arm]:
    return [
        Arm(
            'ablation',
            name,
            _FASHION,
            iterations=900,
            metrics=_TOP1,
            settings=settings,
            candidates=tuple({_LR: rate} for rate in (7e-4, 2e-3, 6e-3)),
            search_iterations=300,
            holdout=(55000, 5000),
            seconds=0.27 if name in _PEERS else 0.19,
            test_seconds=12,
        )
        for name, settings in backbones().items()
    ]


_DIGITS, _STAMPS = 'configs/demo', 'configs/study'
_CONFIGS = {
    ('digits', 'classifier'): f'{_DIGITS}/vheat-mini_2xb16-700i_digits-64x64.py',
    ('digits', 'detector'): f'{_DIGITS}/mask-rcnn_vheat-mini_fpn_2xb4-300i_digit-scenes.py',
    ('digits', 'segmentor'): f'{_DIGITS}/vheat-mini_upernet_2xb4-300i_digit-scenes-128x128.py',
    ('stamps', 'classifier'): f'{_STAMPS}/vheat-mini_2xb16-700i_stamps-64x64.py',
    ('stamps', 'detector'): f'{_STAMPS}/mask-rcnn_vheat-mini_fpn_2xb4-300i_stamp-scenes.py',
    ('stamps', 'segmentor'): f'{_STAMPS}/vheat-mini_upernet_2xb4-300i_stamp-scenes-128x128.py',
}
_TASKS: dict[str, tuple[Mapping[str, float], float, float]] = {
    'detector': ({'coco/segm_mAP': 100.0, 'coco/bbox_mAP': 100.0}, 0.40, 25),
    'segmentor': ({'mIoU': 1.0}, 0.32, 12),
}
_BUDGETS = {'short': 150, 'long': 450}
# One process where the configs are for two.
_BATCH_8 = {'train_dataloader.batch_size': 8}
_SCRATCH = {'model.backbone.init_cfg': None}


# Of the heads, and how much of it the backbone takes.
_RATES = tuple(
    {
        _LR: rate,
        'optim_wrapper.paramwise_cfg': dict(custom_keys=dict(backbone=dict(lr_mult=part))),
    }
    for rate, part in ((1e-3, 1.0), (3e-3, 1.0), (3e-3, 0.25))
)


def _pretraining(data: str) -> Arm:
    return Arm(
        'downstream',
        f'{data}/pretraining',
        _CONFIGS[data, 'classifier'],
        iterations=1000,
        metrics=_TOP1,
        settings={'train_dataloader.batch_size': 32},
        seconds=0.145,
        test_seconds=6,
    )


_PRETRAINING = {data: _pretraining(data) for data in ('digits', 'stamps')}


def _downstream() -> list[Arm]:
    arms = [*_PRETRAINING.values()]
    for data, source in _PRETRAINING.items():
        for task, (metrics, seconds, test_seconds) in _TASKS.items():
            for begin in ('pretrained', 'scratch'):
                first = f'{data}/{task}/{begin}'
                for budget, iterations in _BUDGETS.items():
                    is_first = budget == 'short'
                    pretrained = begin == 'pretrained'
                    arms.append(
                        Arm(
                            'downstream',
                            f'{first}/{budget}',
                            _CONFIGS[data, task],
                            iterations=iterations,
                            metrics=metrics,
                            settings=_BATCH_8 | ({} if pretrained else _SCRATCH),
                            candidates=_RATES,
                            search_iterations=_BUDGETS['short'],
                            holdout=(2100, 300),
                            like=None if is_first else f'downstream/{first}/short',
                            start=Start(source, 64, 128) if pretrained else None,
                            seconds=seconds,
                            test_seconds=test_seconds,
                        )
                    )
    return arms


_MODES = ('bicubic', 'pad', 'frequency', 'mean')
_MINI = dict(depths=[1, 1, 2, 1], dims=32)


def _enlarged(size: int) -> dict[str, Any]:
    """Overrides for Fashion-MNIST at another size, of the mini model of the demo."""
    resize, pack = dict(type='Resize', scale=size), dict(type='PackInputs')
    return {
        'model.backbone.arch': dict(_delete_=True, **_MINI),
        'model.backbone.img_size': size,
        'model.backbone.out_indices': (3,),
        'model.head.in_channels': 256,
        'train_dataloader.dataset.pipeline': [
            resize,
            dict(type='RandomCrop', crop_size=size, padding=size // 8),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            pack,
        ],
        'test_dataloader.dataset.pipeline': [resize, pack],
    }


def _scenes_of(size: int) -> dict[str, Any]:
    """Overrides for the segmentor on scenes of another size."""
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
    labels = dict(type='LoadAnnotations', reduce_zero_label=True)
    resize = dict(type='Resize', scale=(size, size))
    return _BATCH_8 | {
        'model.backbone.img_size': size,
        'model.data_preprocessor.size': (size, size),
        'train_dataloader.dataset.pipeline': [load, labels, resize, pack],
        # The truth keeps its size: the prediction is brought back to it.
        'test_dataloader.dataset.pipeline': [load, resize, labels, pack],
    }


def _transfer() -> list[Arm]:
    source = Arm(
        'transfer',
        'fashion-mnist/pretraining',
        _FASHION,
        iterations=3000,
        metrics=_TOP1,
        settings=_enlarged(32),
        seconds=0.13,
        test_seconds=10,
    )
    arms = [source]
    for size, seconds in ((48, 0.22), (64, 0.35)):
        for mode in _MODES:
            name = f'fashion-mnist/{size}/{mode}'
            start = Start(source, 32, size, mode, 'classification')
            common: dict[str, Any] = dict(
                metrics=_TOP1,
                settings=_enlarged(size),
                start=start,
                seconds=seconds,
                test_seconds=60 * seconds,
            )
            arms.append(Arm('transfer', f'{name}/converted', _FASHION, iterations=0, **common))
            arms.append(
                Arm(
                    'transfer',
                    f'{name}/tuned',
                    _FASHION,
                    iterations=150,
                    candidates=tuple({_LR: rate} for rate in (2e-4, 6e-4, 2e-3)),
                    search_iterations=100,
                    holdout=(55000, 5000),
                    **common,
                )
            )
    metrics, seconds, test_seconds = _TASKS['segmentor']
    for size in (96, 128):
        for mode in _MODES:
            arms.append(
                Arm(
                    'transfer',
                    f'stamps/{size}/{mode}/tuned',
                    _CONFIGS['stamps', 'segmentor'],
                    iterations=200,
                    metrics=metrics,
                    settings=_scenes_of(size),
                    candidates=_RATES,
                    like='downstream/stamps/segmentor/pretrained/short',
                    start=Start(_PRETRAINING['stamps'], 64, size, mode),
                    seconds=seconds * (size / 128) ** 2,
                    test_seconds=test_seconds,
                )
            )
    return arms


ARMS: tuple[Arm, ...] = (*_ablation(), *_downstream(), *_transfer())


def find_arm(arms: tuple[Arm, ...], path: str) -> Arm:
    """Find an arm by study and name."""
    return next(arm for arm in arms if arm.path == path)
