"""timm's interface around the backbone: its classifier, its features, its names of arguments.

What timm asks of a model is described in its `feature extraction guide
<https://huggingface.co/docs/timm/feature_extraction>`_ and its tests.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)
from torch import Tensor, nn

from mmvheat.checkpoint import classifier_state, find_state_dict
from mmvheat.checkpoint.describe import arch_in_words
from mmvheat.checkpoint.names import BACKBONE, OUTPUT_NORM
from mmvheat.errors import UserError
from mmvheat.layers import Downsample, PatchEmbed, Stem
from mmvheat.models import PUBLISHED_CLASSIFIERS, VHeat
from mmvheat.models.arch import VHeatArch, resolve_arch
from mmvheat.models.vheat import VHeatStage

__all__ = ['VHeatForTimm', 'vheat_base', 'vheat_isotropic_small', 'vheat_small', 'vheat_tiny']

_STAGE = re.compile(rf'{re.escape(BACKBONE)}(?:layers|freq_embed)\.([0-9]+)')

# Their control flow depends on shapes, which torch.fx cannot follow: it calls them as they are.
for _module in (Stem, PatchEmbed, Downsample, VHeatStage):
    register_notrace_module(_module)


class VHeatForTimm(nn.Module):
    """:class:`mmvheat.models.VHeat` with a classifier, as a model of timm.

    Its names of parameters are those of an mmpretrain classifier: ``backbone.*``, of the output
    norms ``backbone.outnorm3``, and ``head.fc.*``. ``load_state_dict`` takes the published names,
    too, and fits frequency embeddings of another image size.

    Args:
        arch: As of :class:`mmvheat.models.VHeat`.
        img_size: Size of the images, a number or (height, width), that the frequency embeddings
            are made for. Images of any size are taken.
        in_chans: Channels of the images.
        num_classes: Classes; 0 for none, which gives pooled features.
        global_pool: ``'avg'``, ``'max'``, ``'avgmax'``, ``'catavgmax'``, or ``''`` for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth rate of the last block.
        device: Where to make the parameters.
        dtype: Their type.

    Raises:
        UserError: If an argument is of the wrong kind or out of range.
    """

    def __init__(
        self,
        arch: str | Mapping | VHeatArch = 'tiny',
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if type(num_classes) is not int or num_classes < 0:
            raise UserError(f'num_classes is a number of classes from 0, got {num_classes!r}')
        self.num_classes = num_classes
        self.in_chans = in_chans
        with nullcontext() if device is None else torch.device(device):
            self.backbone = VHeat(
                arch, in_chans, img_size, out_indices=-1, drop_path_rate=drop_path_rate
            )
            dims = self.backbone.arch.dims
            self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate)
        self.num_features = dims[-1]
        self.feature_info = [
            {
                'num_chs': dim,
                'reduction': self.backbone.arch.strides[i],
                'module': f'backbone.layers.{i}',
            }
            for i, dim in enumerate(dims)
        ]
        if isinstance(self.head.fc, nn.Linear):
            nn.init.trunc_normal_(self.head.fc.weight, std=0.02)
            nn.init.zeros_(self.head.fc.bias)
        if dtype is not None:
            self.to(dtype)
        self.register_load_state_dict_pre_hook(_take_other_names)

    @property
    def head_hidden_size(self) -> int:
        """Features that the classifier gets, which is what the pooling makes of the channels."""
        return self.num_features * self.head.global_pool.feat_mult()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Name what is not decayed beside norms and biases: nothing, as in the published recipe."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the parameters by depth, for layer-wise learning rates.

        A frequency embedding belongs to the first block of its stage, a downsampling to the block
        before it, as in :meth:`mmvheat.models.VHeat.get_layer_depth`.

        Args:
            coarse: By stages, not by blocks.
        """
        stem = r'^backbone\.patch_embed'
        if coarse:
            return {'stem': stem, 'blocks': r'^backbone\.(?:layers|freq_embed)\.(\d+)'}
        ends = [
            (rf'^backbone\.layers\.({i})\.{depth}\.', (depth - 1,))
            for i, depth in enumerate(self.backbone.arch.depths)
        ]
        blocks = [
            *ends,
            (r'^backbone\.layers\.(\d+)\.(\d+)', None),
            (r'^backbone\.freq_embed\.(\d+)', (0,)),
        ]
        return {'stem': stem, 'blocks': blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass, or keep them."""
        for stage in self.backbone.layers:
            stage.with_cp = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Give the last layer: ``nn.Linear``, or ``nn.Identity`` without classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new last layer.

        Args:
            num_classes: Classes; 0 for none.
            global_pool: Pooling; None leaves it as it is.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Extract the maps of stages.

        Args:
            x: Images of shape (B, in_chans, H, W).
            indices: Stages whose maps are returned: the last n, these, or all.
            norm: Normalise the last stage's map, the only one that has a norm.
            stop_early: Do not run stages behind the last that is returned; they never run where
                only maps are returned.
            output_fmt: ``'NCHW'`` or ``'NHWC'``.
            intermediates_only: Return the maps alone.

        Returns:
            The maps, of shape (B, dims[i], ceil(H / r), ceil(W / r)) or channels last, with r the
            stage's reduction; before them, unless they are wanted alone, what
            :meth:`forward_features` returns, or with `stop_early` the last map that was computed.

        Raises:
            UserError: If there is no such stage or format.
        """
        if output_fmt not in ('NCHW', 'NHWC'):
            raise UserError(f"output_fmt is 'NCHW' or 'NHWC', got {output_fmt!r}")
        stages, last = self._take(indices)
        whole = len(self.backbone.layers) - 1
        if not (intermediates_only or stop_early):
            last = whole
        maps = self.backbone.raw_maps(x, (*stages, last))
        final = self._norm(maps[last]) if last == whole else maps[last]
        found = [final if norm and i == whole else maps[i] for i in stages]
        if output_fmt == 'NCHW':
            found = [_channels_first(x) for x in found]
        return found if intermediates_only else (_channels_first(final), found)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what the maps of some stages do not need.

        Args:
            indices: Stages whose maps are wanted: the last n, or these.
            prune_norm: Drop the last stage's norm; it goes with its stage anyway.
            prune_head: Drop the classifier and pooling.

        Returns:
            The stages, from 0.

        Raises:
            UserError: If there is no such stage.
        """
        stages, last = self._take(indices)
        self.backbone.keep_stages(last + 1)
        if prune_norm and self.backbone.out_indices:
            setattr(self.backbone, f'outnorm{last}', nn.Identity())
        if prune_head:
            self.reset_classifier(0, '')
        return stages

    def forward_features(self, x: Tensor) -> Tensor:
        """Extract the last stage's map, normalised, of shape (B, C, H / r, W / r), rounded up."""
        last = len(self.backbone.layers) - 1
        return _channels_first(self._norm(self.backbone.raw_maps(x, (last,))[last]))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a map (B, C, H, W) and classify it, unless the pooled features are wanted."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, in_chans, H, W); returns logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def _norm(self, x: Tensor) -> Tensor:
        """Normalise the last stage's map (B, H, W, C), if its norm is there."""
        last = len(self.backbone.layers) - 1
        norm = getattr(self.backbone, f'outnorm{last}', None)
        return x if norm is None else norm(x)

    def _take(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        """Turn timm's ways to name stages into stages from 0, and the last of them."""
        count = len(self.backbone.layers)
        known = range(-count, count)
        if indices is None:
            indices = count
        if isinstance(indices, int) and 0 < indices <= count:
            indices = range(count - indices, count)
        if not isinstance(indices, Sequence) or not indices or not {*indices} <= {*known}:
            raise UserError(
                f'this vHeat has stages 0 to {count - 1}, got {indices!r}: '
                'name some of them (out_indices), or how many of the last'
            )
        stages = [i % count for i in indices]
        return stages, max(stages)


def _channels_first(x: Tensor) -> Tensor:
    """Turn (B, H, W, C) into (B, C, H, W), in memory, too."""
    return x.permute(0, 3, 1, 2).contiguous()


def checkpoint_filter_fn(checkpoint: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Find the weights in what a file held, and give published ones our names; timm's hook.

    Args:
        checkpoint: A state dict, or what holds one: published, of mmengine, or ours.
        model: Not used; it is timm's interface.

    Returns:
        The state dict.

    Raises:
        UserError: If there is none, or it is not of a vHeat.
    """
    return classifier_state(find_state_dict(checkpoint).tensors)


def _take_other_names(
    model: VHeatForTimm,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Rename a published state dict in place, and refuse one of another model in one line.

    timm loads what `checkpoint_path` names without a filter.
    """
    if prefix:
        return
    own = model.state_dict()
    if state_dict and not own.keys() & state_dict.keys():
        renamed = classifier_state(state_dict)
        state_dict.clear()
        state_dict.update(renamed)
    for name in [*state_dict]:
        # Norms of maps, which detectors have beside the last one.
        if name not in own and OUTPUT_NORM.fullmatch(name.removeprefix(BACKBONE)):
            del state_dict[name]
    given, wanted = arch_in_words(state_dict), arch_in_words(own)
    # Features that lack the last stages take their weights from a whole vHeat.
    count = len(model.backbone.layers)
    first = {
        name: tensor
        for name, tensor in state_dict.items()
        if (stage := _STAGE.match(name)) and int(stage[1]) < count
    }
    if given and arch_in_words(first) != wanted:
        raise UserError(
            f'the checkpoint is {given}, and the model {wanted}: create the model of its arch'
        )


def _cfg(url: str = '', **differences: Any) -> dict[str, Any]:
    """What timm notes about weights; the images are prepared as the published code does."""
    return {
        'url': url,
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.875,
        'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'backbone.patch_embed.conv1',
        'classifier': 'head.fc',
        'origin_url': 'https://github.com/MzeroMiko/vHeat',
        'paper_ids': 'arXiv:2405.16555',
        'paper_name': 'Building Vision Models upon Heat Conduction',
        **differences,
    }


default_cfgs = generate_default_cfgs(
    {f'vheat_{arch}.in1k': _cfg(published.url) for arch, published in PUBLISHED_CLASSIFIERS.items()}
    | {'vheat_isotropic_small.untrained': _cfg(pool_size=(14, 14))}
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Build a model, its features or its classifier, the way timm does."""
    arguments = {'arch': variant.removeprefix('vheat_'), **kwargs}
    stages = range(len(resolve_arch(arguments['arch']).depths))
    return build_model_with_cfg(
        VHeatForTimm,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={'out_indices': (*stages,), 'feature_cls': 'getter'},
        **arguments,
    )


@register_model
def vheat_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """vHeat-T (arXiv 2405.16555, Table 8); the arguments are :class:`VHeatForTimm`'s and timm's."""
    return _create('vheat_tiny', pretrained, **kwargs)


@register_model
def vheat_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """vHeat-S; the arguments are :class:`VHeatForTimm`'s and timm's."""
    return _create('vheat_small', pretrained, **kwargs)


@register_model
def vheat_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """vHeat-B; the arguments are :class:`VHeatForTimm`'s and timm's."""
    return _create('vheat_base', pretrained, **kwargs)


@register_model
def vheat_isotropic_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeiT-S with heat conduction in the place of attention: one stage, no downsampling, untrained.

    The arguments are :class:`VHeatForTimm`'s and timm's.
    """
    return _create('vheat_isotropic_small', pretrained, **kwargs)
