"""Heads of mmdet and mmseg behind a small vHeat, and the page that lists them.

``PYTHONPATH=. python tests/heads.py`` trains all of them and writes ``docs/heads.md``.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmvheat.mmcv_ops import ext

__all__ = ['HEADS', 'NEEDS', 'PAGE', 'REFUSED', 'Head', 'page', 'row', 'train_and_predict']

PAGE = Path(__file__).parents[1] / 'docs' / 'heads.md'

# An eighth of a ResNet-50, and of every width behind it: widths that agreed agree still.
PART = 8
DIMS = (32, 64, 128, 256)
SIDE = 64
WIDTHS = ('channels', 'channel', 'embed_dims', 'dims', 'num_feats')
SIZES = ('size', 'crop_size', 'img_size', 'input_size', 'random_size_range')
COUNTS = {
    'num_queries': 10, 'num_proposals': 10, 'num_dn_queries': 4, 'num_points': 32, 'num_layers': 3,
    'stacked_convs': 1, 'num_convs': 1, 'num_groups': 4, 'nms_pre': 100,
    'max_per_img': 10,
}  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A config of a library, as ``mmdet::retinanet/...``, and the kind of its head."""

    name: str
    kind: str

    @property
    def library(self) -> str:
        return self.name.partition('::')[0]

    @property
    def path(self) -> Path:
        root = Path(find_spec(self.library).origin).parent / '.mim' / 'configs'
        return root / (self.name.partition('::')[2] + '.py')


def _heads(library: str, kinds: dict[str, tuple[str, ...]]) -> list[Head]:
    return [Head(f'{library}::{name}', kind) for kind, names in kinds.items() for name in names]


HEADS = _heads('mmdet', {
    'two-stage': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco',
        'htc/htc-without-semantic_r50_fpn_1x_coco', 'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco',
        'grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco',
        'double_heads/dh-faster-rcnn_r50_fpn_1x_coco', 'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco',
        'pisa/faster-rcnn_r50_fpn_pisa_1x_coco', 'sabl/sabl-faster-rcnn_r50_fpn_1x_coco',
        'ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco', 'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco',
        'carafe/mask-rcnn_r50_fpn-carafe_1x_coco', 'dcn/faster-rcnn_r50_fpn_dpool_1x_coco',
        'dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco',
        'guided_anchoring/ga-faster-rcnn_r50-caffe_fpn_1x_coco',
        'cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco',
        'faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco',
        'groie/faste-rcnn_r50_fpn_groie_1x_coco',
        'crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman', 'htc/htc_r50_fpn_1x_coco',
        'scnet/scnet_r50_fpn_1x_coco', 'pafpn/faster-rcnn_r50_pafpn_1x_coco',
        'fpg/faster-rcnn_r50_fpg_crop640-50e_coco', 'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco',
    ),
    'one-stage': (
        'retinanet/retinanet_r50_fpn_1x_coco', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
        'atss/atss_r50_fpn_1x_coco', 'gfl/gfl_r50_fpn_1x_coco', 'vfnet/vfnet_r50_fpn_1x_coco',
        'paa/paa_r50_fpn_1x_coco', 'tood/tood_r50_fpn_1x_coco', 'yolof/yolof_r50-c5_8xb8-1x_coco',
        'yolox/yolox_s_8xb8-300e_coco', 'rtmdet/rtmdet_s_8xb32-300e_coco',
        'centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco', 'ddod/ddod_r50_fpn_1x_coco',
        'reppoints/reppoints-moment_r50_fpn_1x_coco', 'foveabox/fovea_r50_fpn_4xb4-1x_coco',
        'foveabox/fovea_r50_fpn_gn-head-align_4xb4-2x_coco', 'fsaf/fsaf_r50_fpn_1x_coco',
        'free_anchor/freeanchor_r50_fpn_1x_coco', 'autoassign/autoassign_r50-caffe_fpn_1x_coco',
        'guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco',
        'sabl/sabl-retinanet_r50_fpn_1x_coco',
        'nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco',
        'dyhead/atss_r50_fpn_dyhead_1x_coco', 'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco',
        'yolo/yolov3_d53_8xb8-320-273e_coco',
    ),
    'query': (
        'detr/detr_r50_8xb2-150e_coco', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
        'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco',
        'conditional_detr/conditional-detr_r50_8xb2-50e_coco',
        'dab_detr/dab-detr_r50_8xb2-50e_coco', 'dino/dino-4scale_r50_8xb2-12e_coco',
        'ddq/ddq-detr-4scale_r50_8xb2-12e_coco', 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco',
    ),
    'mask': (
        'solo/solo_r50_fpn_1x_coco', 'solo/decoupled-solo_r50_fpn_1x_coco',
        'solov2/solov2_r50_fpn_1x_coco', 'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
        'boxinst/boxinst_r50_fpn_ms-90k_coco', 'queryinst/queryinst_r50_fpn_1x_coco',
        'yolact/yolact_r50_1xb8-55e_coco', 'rtmdet/rtmdet-ins_s_8xb32-300e_coco',
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco',
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic',
        'maskformer/maskformer_r50_ms-16xb1-75e_coco', 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco',
    ),
}) + _heads('mmseg', {
    'one feature map': (
        'fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512', 'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512',
        'deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512',
        'danet/danet_r50-d8_4xb4-80k_ade20k-512x512',
        'apcnet/apcnet_r50-d8_4xb4-80k_ade20k-512x512',
        'isanet/isanet_r50-d8_4xb4-80k_ade20k-512x512',
        'psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512',
        'ccnet/ccnet_r50-d8_4xb4-80k_ade20k-512x512',
        'encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512',
        'emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024',
        'dnlnet/dnl_r50-d8_4xb4-80k_ade20k-512x512', 'gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512',
        'nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512',
        'dmnet/dmnet_r50-d8_4xb4-80k_ade20k-512x512',
        'ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024',
    ),
    'several feature maps': (
        'upernet/upernet_r50_4xb4-80k_ade20k-512x512', 'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512',
        'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512',
        'ann/ann_r50-d8_4xb4-80k_ade20k-512x512',
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
        'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512',
        'fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-160k_ade20k-512x512',
        'segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512',
    ),
    'query': (
        'knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512',
        'knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512',
        'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512',
        'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512',
    ),
})  # fmt: skip

# What a user changes beside the backbone and the widths.
CHANGES: dict[str, dict[str, Any]] = {
    # The context comes from the same map as the features: a dilated ResNet has two of one size.
    'mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024': {
        'model.decode_head.0.in_index': 3,
        'model.decode_head.0.in_channels': DIMS[3],
    },
    # Boxes of an untrained head leave the image, where mmdet's CPU code pastes no masks.
    'mmdet::queryinst/queryinst_r50_fpn_1x_coco': {
        'model.roi_head.bbox_head.5.bbox_coder.clip_border': True
    },
}
# Whose code has a width of 256 that no config reaches.
HARD_WIRED = (
    'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco',
    'mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco',
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco',
)
# What goes with no backbone but its own: why, and the file of the library that fails then.
REFUSED = {
    'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco': (
        'the head reads the three branches of a TridentResNet',
        'trident_faster_rcnn.py',
    ),
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco': (
        'the head contains the last stage of a ResNet, for maps of 1024 channels',
        'resnet.py',
    ),
    'mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco': (
        'the recursive pyramid runs a second DetectoRS_ResNet on the image',
        'rfp.py',
    ),
    'mmdet::ssd/ssd300_coco': ('the neck continues the stages of an SSDVGG', 'ssd_neck.py'),
    'mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco': (
        'the head reads two maps of an hourglass, both of stride 4 and 256 channels',
        'corner_head.py',
    ),
    'mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512': (
        'the head reads the class token of a vision transformer',
        'dpt_head.py',
    ),
    'mmseg::setr/setr_vit-l_mla_8xb1-80k_cityscapes-768x768': (
        'the neck normalises four maps of one width, as a vision transformer gives them',
        'mla_neck.py',
    ),
}
# Packages that a head needs beside its library.
NEEDS = {'mmdet::boxinst/boxinst_r50_fpn_ms-90k_coco': 'skimage'}


@contextmanager
def ours() -> Iterator[set[str]]:
    """Let ``mmcv.ops`` call our functions, whatever it was imported with; gives those called."""
    called: set[str] = set()

    class Recorder:
        def __getattr__(self, name: str) -> Callable:
            called.add(name)
            return getattr(ext, name)

    import_module('mmcv.ops')
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module')
    ]
    before = [module.ext_module for module in modules]
    for module in modules:
        module.ext_module = Recorder()
    try:
        yield called
    finally:
        for module, old in zip(modules, before, strict=True):
            module.ext_module = old


def _edit(node: Any, change: Callable[[str, Any], Any]) -> None:
    """Change every entry of nested dictionaries: ``change(key, value)`` gives the new value."""
    if isinstance(node, dict):
        for key in node:
            node[key] = change(key, node[key])
    if isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            _edit(child, change)


def _narrow(width: Any) -> Any:
    if isinstance(width, list | tuple):
        return type(width)(_narrow(item) for item in width)
    if isinstance(width, int) and not isinstance(width, bool) and width >= 32:
        return max(width // PART, 4)
    return width


def _smaller(key: str, value: Any, narrow: bool) -> Any:
    if key == 'pretrained' or (key == 'init_cfg' and 'Pretrained' in str(value)):
        return None
    if key == 'score_thr':
        return 0.0  # the scores of random weights are low
    if narrow and key.endswith(WIDTHS):
        return _narrow(value)
    if key in SIZES and isinstance(value, tuple | list):
        return type(value)(SIDE for _ in value)
    if key in COUNTS and isinstance(value, int):
        return min(value, COUNTS[key])
    return value


def small_config(head: Head) -> Config:
    """The config with a small vHeat as backbone, and all that is behind it an eighth as wide."""
    cfg = Config.fromfile(head.path)
    model = cfg.model
    narrow = head.name not in HARD_WIRED
    _edit(cfg._cfg_dict, lambda key, value: _smaller(key, value, narrow))
    levels = list(range(4))
    if 'ResNet' in model.backbone.type:
        levels = list(model.backbone.get('out_indices', levels))
        if not narrow:
            model.neck.in_channels = _narrow(model.neck.in_channels)
    elif head.library == 'mmseg':
        model.decode_head.in_channels = [DIMS[level] for level in model.decode_head.in_index]
    elif model.get('neck'):  # of another backbone: its last stages, in the order of the neck
        widths = list(model.neck.in_channels)
        levels = levels[-len(widths) :]
        model.neck.in_channels = [DIMS[level] for level in levels]
        if widths[0] > widths[-1]:
            model.neck.in_channels.reverse()
    if 'encoder' in model:  # a default of the head
        model.bbox_head.embed_dims = model.encoder.layer_cfg.self_attn_cfg.embed_dims
    cfg.merge_from_dict(CHANGES.get(head.name, {}))
    cfg.model.backbone = dict(
        type='mmvheat.VHeat',
        arch=dict(depths=(1, 1, 1, 1), dims=DIMS[0]),
        out_indices=levels,
        drop_path_rate=0.0,  # which may drop a block in both images
    )
    return cfg


def _samples(library: str, count: int, with_masks: bool = True) -> dict:
    """Noisy images with boxes, masks and a label map."""
    rng = np.random.RandomState(0)
    label = _label_for_mmseg if library == 'mmseg' else _label_for_mmdet
    samples = [label(rng, with_masks) for _ in range(count)]
    for sample in samples:
        sides = dict.fromkeys(
            ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (SIDE, SIDE)
        )
        sample.set_metainfo(
            dict(sides, scale_factor=(1.0, 1.0), flip=False, img_id=0, img_path='none')
        )
    images = rng.randint(0, 255, (count, 3, SIDE, SIDE)).astype('uint8')
    return dict(inputs=list(torch.from_numpy(images)), data_samples=samples)


def _label_for_mmseg(rng: np.random.RandomState, with_masks: bool) -> Any:
    from mmseg.structures import SegDataSample

    labels = torch.from_numpy(np.kron(rng.randint(0, 2, (8, 8)), np.ones((8, 8), int)))
    return SegDataSample(gt_sem_seg=PixelData(data=labels[None]))


def _label_for_mmdet(rng: np.random.RandomState, with_masks: bool) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    corners = np.array([(4, 6), (30, 8), (12, 30)])
    boxes = np.concatenate((corners, corners + rng.randint(14, 30, (3, 2))), axis=1)
    masks = np.zeros((3, SIDE, SIDE), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    things = dict(bboxes=torch.from_numpy(boxes).float(), labels=torch.tensor([0, 1, 0]))
    if with_masks:
        things['masks'] = BitmapMasks(masks, SIDE, SIDE)
    stuff = torch.full((1, SIDE, SIDE), 80)  # the first class after the things
    stuff[:, SIDE // 2 :] = 81
    return DetDataSample(
        gt_instances=InstanceData(**things),
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0)),
        gt_sem_seg=PixelData(sem_seg=stuff),
    )


def train_and_predict(head: Head) -> list[int]:
    """Build the model, train one step and predict; returns the stages whose maps the head reads."""
    torch.manual_seed(0)
    np.random.seed(0)
    init_default_scope(head.library)
    with DefaultScope.overwrite_default_scope(head.library):
        cfg = small_config(head)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
        pipeline = str(cfg.train_pipeline)
        needs_masks = "'with_mask': True" in pipeline or 'Panoptic' in pipeline
        read = _train(model, _samples(head.library, 2, needs_masks))
        # mmcv's masked convolution, of guided anchors, takes one image at a time.
        _predict(model, head.library, count=1 if 'guided' in head.name else 2)
    return read


def _train(model: nn.Module, data: dict) -> list[int]:
    """One step, as in the first epoch of a Runner."""
    progress = MessageHub.get_current_instance()
    for name, value in dict(iter=0, epoch=0, max_iters=10, max_epochs=1).items():
        progress.update_info(name, value)
    model.train()
    before = {name: weight.detach().clone() for name, weight in model.backbone.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total) and total > 0, f'loss {total}'
    total.backward()
    optimizer.step()
    now = dict(model.backbone.named_parameters())
    still = [name for name in before if torch.equal(now[name], before[name])]
    # The norm of a map that the head does not read.
    assert all(name.startswith('outnorm') for name in still), f'no gradient for {still}'
    norms = {name for name in before if name.startswith('outnorm')}
    return sorted({int(name[len('outnorm')]) for name in norms.difference(still)})


def _predict(model: nn.Module, library: str, count: int) -> None:
    model.eval()
    with torch.no_grad():
        predicted = model.test_step(_samples(library, count))
    assert len(predicted) == count
    for sample in predicted:
        if library == 'mmseg':
            assert sample.pred_sem_seg.data.shape == (1, SIDE, SIDE)
        elif 'pred_panoptic_seg' in sample:
            assert sample.pred_panoptic_seg.sem_seg.shape[-2:] == (SIDE, SIDE)
        else:
            found = sample.pred_instances
            assert torch.isfinite(found.scores).all() and len(found.labels) == len(found.scores)


def row(head: Head) -> str:
    """Train and predict on our functions of mmcv, and report it as a line of the page."""
    with ours() as called:
        read = train_and_predict(head)
    functions = sorted({re.sub(r'_(forward|backward).*', '', name) for name in called})
    used = ', '.join(f'`{name}`' for name in functions)
    return f'| `{head.name}` | {head.kind} | {" ".join(map(str, read))} | {used} |'


def page(rows: list[str]) -> str:
    """The text of ``docs/heads.md`` with these lines in its table."""
    refused = [f'| `{name}` | {reason} |' for name, (reason, _) in REFUSED.items()]
    return TEXT.format(
        mmdet=sum('`mmdet::' in line for line in rows),
        mmseg=sum('`mmseg::' in line for line in rows),
        rows='\n'.join(rows),
        refused='\n'.join(refused),
    )


TEXT = """# Heads

A small vHeat in place of the backbone of {mmdet} configs of mmdet 3.3 and {mmseg} of mmseg 1.2.
`tests/test_heads.py` builds each, trains one step, and predicts, on a CPU and without a compiled
mmcv. All that is behind the backbone is an eighth as wide, so that the test takes about a minute.
`tests/heads.py` writes this page.

In your config, replace the backbone as `configs/detection/retinanet_vheat-t_fpn_1x_coco.py` does.
Give the neck, or the head where there is none, the widths of vHeat as `in_channels`.
**Stages** says which of vHeat's four maps the head reads. Leave the others out of `out_indices`:
DistributedDataParallel refuses parameters without a gradient. **Functions of mmcv** says which of
[its functions](mmcv_ops.md) ran. On a GPU, focal losses and deformable attention call mmcv's, too;
on a CPU the libraries compute those themselves.

| config | kind | stages | functions of mmcv |
| --- | --- | --- | --- |
{rows}

- OCRNet: both heads must read one stage (`decode_head[0].in_index=3`). A dilated ResNet gives two
  maps of one size, vHeat does not.
- BoxInst needs `pip install scikit-image`.
- Guided anchoring predicts one image at a time, because mmcv's masked convolution takes no more.
- QueryInst was tested with `clip_border=True`: mmdet's CPU code pastes no mask outside the image,
  where the boxes of an untrained head lie.

## Heads that need their own backbone

| config | why |
| --- | --- |
{refused}
"""


if __name__ == '__main__':
    PAGE.write_text(page([row(head) for head in HEADS]))
