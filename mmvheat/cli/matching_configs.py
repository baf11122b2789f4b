"""Which of our configs a checkpoint fits, and the commands that use it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from mmvheat.checkpoint import Backbone, Description
from mmvheat.checkpoint.names import BACKBONE
from mmvheat.models.arch import ARCHS, VHeatArch, is_arch

__all__ = ['CONFIGS', 'ConfigFacts', 'Use', 'config_folder', 'find_uses']

_MINI = VHeatArch(depths=(1, 1, 2, 1), dims=32)
_MINI_32PX = VHeatArch(depths=(1, 2, 1), dims=32, patch_size=2)
_TINY, _SMALL, _BASE = (
    f'checkpoints/vheat-{name}_in1k_512px.pth' for name in ('tiny', 'small', 'base')
)
_TINY_224 = 'checkpoints/vheat-tiny_in1k_224px.pth'
_DEMO = 'work_dirs/demo/pretrained/vheat-mini_digits_128px.pth'
_STUDY = 'work_dirs/study/vheat-mini_stamps_128px.pth'


@dataclass(frozen=True)
class ConfigFacts:
    """What a config says that a checkpoint can be compared with.

    Attributes:
        kind: Kind of the model, see `mmvheat.checkpoint.names.model_kind`.
        arch: Architecture of the backbone.
        num_classes: Classes of its heads.
        img_size: Side of the images that the frequency embeddings are made for.
        pretrained: File that the backbone starts from, None for none.
    """

    kind: str
    arch: VHeatArch
    num_classes: int
    img_size: int
    pretrained: str | None


def _facts(kind: str, arch: str, classes: int, size: int, pretrained: str | None) -> ConfigFacts:
    return ConfigFacts(
        kind, (ARCHS | {'mini': _MINI, 'mini_32px': _MINI_32PX})[arch], classes, size, pretrained
    )


# A table, for reading all configs takes mmengine ten seconds; a test holds it to the files.
CONFIGS = {
    f'configs/{path}.py': _facts(*facts)
    for path, facts in {
        'classification/vheat-tiny_16xb128_in1k': ('classifier', 'tiny', 1000, 224, None),
        'classification/vheat-small_16xb128_in1k': ('classifier', 'small', 1000, 224, None),
        'classification/vheat-base_16xb128_in1k': ('classifier', 'base', 1000, 224, None),
        'classification/vheat-isotropic-small_16xb128_in1k': (
            'classifier', 'isotropic_small', 1000, 224, None,
        ),
        'classification/vheat-tiny_2xb64_digits-64x64': ('classifier', 'tiny', 10, 64, None),
        'detection/mask-rcnn_vheat-t_fpn_1x_coco': ('Mask R-CNN', 'tiny', 80, 512, _TINY),
        'detection/mask-rcnn_vheat-s_fpn_1x_coco': ('Mask R-CNN', 'small', 80, 512, _SMALL),
        'detection/mask-rcnn_vheat-b_fpn_1x_coco': ('Mask R-CNN', 'base', 80, 512, _BASE),
        'detection/mask-rcnn_vheat-t_fpn_ms-3x_coco': ('Mask R-CNN', 'tiny', 80, 224, _TINY_224),
        'detection/mask-rcnn_vheat-s_fpn_ms-3x_coco': ('Mask R-CNN', 'small', 80, 512, _SMALL),
        'detection/cascade-mask-rcnn_vheat-t_fpn_1x_coco': (
            'Cascade Mask R-CNN', 'tiny', 80, 512, _TINY,
        ),
        'detection/retinanet_vheat-t_fpn_1x_coco': ('RetinaNet', 'tiny', 80, 512, _TINY),
        'segmentation/vheat-t_upernet_8xb2-160k_ade20k-512x512': (
            'UperNet', 'tiny', 150, 512, _TINY,
        ),
        'segmentation/vheat-s_upernet_8xb2-160k_ade20k-512x512': (
            'UperNet', 'small', 150, 512, _SMALL,
        ),
        'segmentation/vheat-b_upernet_8xb2-160k_ade20k-512x512': (
            'UperNet', 'base', 150, 512, _BASE,
        ),
        'segmentation/vheat-t_fpn_8xb4-80k_ade20k-512x512': (
            'Semantic FPN', 'tiny', 150, 512, _TINY,
        ),
        'own_data/vheat-tiny_imagefolder': ('classifier', 'tiny', 10, 224, _TINY_224),
        'own_data/mask-rcnn_vheat-t_fpn_coco-folder': ('Mask R-CNN', 'tiny', 10, 512, _TINY),
        'own_data/vheat-t_upernet_image-mask-folders': ('UperNet', 'tiny', 11, 512, _TINY),
        'scale_out/mask-rcnn_vheat-b_fsdp_fpn_1x_coco': ('Mask R-CNN', 'base', 80, 512, _BASE),
        'demo/vheat-mini_2xb16-700i_digits-64x64': ('classifier', 'mini', 10, 64, None),
        'demo/vheat-mini_2xb16-3000i_digits-64x64': ('classifier', 'mini', 10, 64, None),
        'demo/mask-rcnn_vheat-mini_fpn_2xb4-300i_digit-scenes': (
            'Mask R-CNN', 'mini', 10, 128, _DEMO,
        ),
        'demo/mask-rcnn_vheat-mini_fpn_2xb4-1200i_digit-scenes': (
            'Mask R-CNN', 'mini', 10, 128, _DEMO,
        ),
        'demo/vheat-mini_upernet_2xb4-300i_digit-scenes-128x128': (
            'UperNet', 'mini', 11, 128, _DEMO,
        ),
        'demo/vheat-mini_upernet_2xb4-600i_digit-scenes-128x128': (
            'UperNet', 'mini', 11, 128, _DEMO,
        ),
        'study/vheat-mini_64xb1_fashion-mnist-32x32': ('classifier', 'mini_32px', 10, 32, None),
        'study/vheat-mini_2xb16-700i_stamps-64x64': ('classifier', 'mini', 5, 64, None),
        'study/mask-rcnn_vheat-mini_fpn_2xb4-300i_stamp-scenes': (
            'Mask R-CNN', 'mini', 5, 128, _STUDY,
        ),
        'study/vheat-mini_upernet_2xb4-300i_stamp-scenes-128x128': (
            'UperNet', 'mini', 6, 128, _STUDY,
        ),
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """Something that can be done with a checkpoint.

    Attributes:
        purpose: What it is, in a few words.
        configs: The configs that it can be done with.
        command: What to type; CONFIG stands for one of them.
    """

    purpose: str
    configs: tuple[str, ...]
    command: str


def config_folder() -> Path:
    """Tell where our configs are: in the clone, or in ``.mim`` of an installed package."""
    return (Path(__file__).parents[1] / '.mim' / 'configs').resolve()


def find_uses(description: Description, file: str, key: str | None = None) -> list[Use]:
    """Find what a checkpoint serves for, by kind of model, architecture and number of classes.

    Args:
        description: What the checkpoint is.
        file: Its path, for the commands.
        key: Entry of it to take, if it is not the one that is taken without a word.

    Returns:
        The uses, the most direct first; none if it is no whole vHeat.
    """
    backbone = description.backbone
    if backbone is None or backbone.missing or backbone.misshaped or backbone.unknown:
        return []
    file = shlex.quote(file)
    entry = f' --key {shlex.quote(key)}' if key else ''
    if description.wrappers or key:
        form = 'mmpretrain' if description.kind == 'classifier' else 'downstream'
        command = f'python -m mmvheat.checkpoint convert {file} OUT --to {form}{entry}'
        first = [Use('make a file with plain names of it, then inspect that', (), command)]
        return first + _pretraining(description, backbone, file, entry)
    alike = {
        path: facts
        for path, facts in CONFIGS.items()
        if facts.kind == description.kind and is_arch(backbone, facts.arch)
    }
    same = tuple(p for p, facts in alike.items() if facts.num_classes == description.num_classes)
    others = tuple(path for path in alike if path not in same)
    test = f'bash tools/dist_test.sh CONFIG {file} 1'
    if backbone.folded:
        size = ','.join(map(str, backbone.image_size or ('H', 'W')))
        test += (
            f' --cfg-options model.backbone.inference_form=True "model.backbone.img_size=({size})"'
        )
        return [Use('test', same, test)] if same else []
    load = f'bash tools/dist_train.sh CONFIG 1 --cfg-options load_from={file}'
    uses = [
        Use('test', same, test),
        Use('train on', same, load),
        Use('train on, the layers of the classes anew', others, load),
    ]
    if description.resumable:
        resume = f'bash tools/dist_train.sh CONFIG 1 --resume {file}'
        uses.append(Use('resume its training, with the config it was started with', same, resume))
    uses = [use for use in uses if use.configs]
    return uses + _pretraining(description, backbone, file, entry)


def _pretraining(description: Description, backbone: Backbone, file: str, entry: str) -> list[Use]:
    """Find the configs whose backbone can start from the checkpoint's."""
    if backbone.folded or description.kind not in ('classifier', 'backbone'):
        return []
    groups: dict[tuple[str, int], list[str]] = {}
    for path, facts in CONFIGS.items():
        if facts.pretrained and is_arch(backbone, facts.arch):
            groups.setdefault((facts.pretrained, facts.img_size), []).append(path)
    if not backbone.image_size:
        return []
    height, width = backbone.image_size
    source = f'{height} {width}' if height != width else f'{height}'
    # What init_cfg reads as it is: a published classifier is renamed while it loads.
    ready = description.kind == 'classifier' or description.prefix == BACKBONE
    uses = []
    for (pretrained, size), paths in groups.items():
        command = (
            f'python interpolate4downstream.py --pt_pth {file} --pt_size {source} '
            f'--tg_pth {pretrained} --tg_size {size}{entry}'
        )
        sides = (backbone.heights, backbone.widths)
        if ready and not entry and all(low <= size <= high for low, high in sides):
            command = (
                'bash tools/dist_train.sh CONFIG 1 --cfg-options '
                f'model.backbone.init_cfg.checkpoint={file}'
            )
        purpose = f'start a training from its backbone, at {size} x {size}'
        uses.append(Use(purpose, tuple(paths), command))
    return uses
