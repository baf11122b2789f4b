"""What ``mmcv._ext`` is where mmcv has no compiled module: all its names, most of its functions.

The finder of this room loads this file as ``mmcv._ext``. It has every function that mmdet 3.3,
mmseg 1.2 and mmpretrain 1.2 call. The others, which rotated boxes, point clouds and image synthesis
use, raise an error that names them.
"""

from functools import partial
from typing import Any

import torch
import torchvision

from mmvheat.errors import UserError
from mmvheat.mmcv_ops import boxes, deformable, focal_loss, roi, sync_bn, windows

FUNCTIONS = {
    name: getattr(module, name)
    for module in (boxes, deformable, focal_loss, roi, sync_bn, windows)
    for name in module.__all__
}

# In the order of mmcv 2.1's csrc/pytorch/pybind.cpp; the last is of onedl-mmcv, its fork.
MISSING = (
    'upfirdn2d', 'fused_bias_leakyrelu', 'gather_points_forward', 'gather_points_backward',
    'assign_score_withk_forward', 'assign_score_withk_backward', 'knn_forward',
    'roipoint_pool3d_forward', 'three_interpolate_forward', 'three_interpolate_backward',
    'three_nn_forward', 'group_points_forward', 'group_points_backward',
    'stack_group_points_forward', 'stack_group_points_backward', 'iou3d_boxes_overlap_bev_forward',
    'iou3d_nms3d_forward', 'iou3d_nms3d_normal_forward', 'furthest_point_sampling_forward',
    'furthest_point_sampling_with_dist_forward', 'pixel_group', 'contour_expand',
    'get_indice_pairs_2d_forward', 'get_indice_pairs_3d_forward', 'get_indice_pairs_4d_forward',
    'get_indice_pairs_2d_backward', 'get_indice_pairs_3d_backward', 'indice_conv_forward',
    'indice_conv_backward', 'fused_indice_conv_forward', 'indice_maxpool_forward',
    'indice_maxpool_backward', 'tin_shift_forward', 'tin_shift_backward', 'box_iou_rotated',
    'nms_rotated', 'ball_query_forward', 'stack_ball_query_forward', 'roi_align_rotated_forward',
    'roi_align_rotated_backward', 'dynamic_point_to_voxel_forward',
    'dynamic_point_to_voxel_backward', 'hard_voxelize_forward', 'dynamic_voxelize_forward',
    'border_align_forward', 'border_align_backward', 'correlation_forward', 'correlation_backward',
    'points_in_boxes_cpu_forward', 'points_in_boxes_part_forward', 'points_in_boxes_all_forward',
    'roiaware_pool3d_forward', 'roiaware_pool3d_backward', 'rotated_feature_align_forward',
    'rotated_feature_align_backward', 'riroi_align_rotated_forward', 'riroi_align_rotated_backward',
    'points_in_polygons_forward', 'min_area_polygons', 'active_rotated_filter_forward',
    'active_rotated_filter_backward', 'convex_iou', 'convex_giou',
    'diff_iou_rotated_sort_vertices_forward', 'chamfer_distance_forward',
    'chamfer_distance_backward', 'prroi_pool_forward', 'prroi_pool_backward',
    'prroi_pool_coor_backward', 'bias_act', 'filtered_lrelu', 'filtered_lrelu_act_',
    'box_iou_quadri', 'nms_quadri', 'bezier_align_forward', 'bezier_align_backward',
    'line_nms_forward',
)  # fmt: skip


def get_compiler_version() -> str:
    """What mmcv's ``collect_env`` prints as the compiler of its functions."""
    return f'none (mmvheat.mmcv_ops on torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """What mmcv's ``collect_env`` prints as their CUDA: that of torch, which runs them."""
    return torch.version.cuda or 'not available'


def _refuse(name: str, *args: Any, **kwargs: Any) -> None:
    """Say that a function is not here, whatever it was called with."""
    raise UserError(
        f'mmcv.ops needs {name}, which mmvheat.mmcv_ops lacks: `make setup MMCV=compiled` brings it'
    )


globals().update({name: partial(_refuse, name) for name in MISSING})
# torch.compile stops here as before compiled code: through writes to its arguments it would
# differentiate mmcv's functions wrongly.
globals().update({name: torch.compiler.disable(function) for name, function in FUNCTIONS.items()})
