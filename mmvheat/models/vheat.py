"""vHeat, the vision backbone built on heat conduction: the model and its stages.

Paper: `Building Vision Models upon Heat Conduction <https://arxiv.org/abs/2405.16555>`_,
CVPR 2025. Names of parameters are those of the published checkpoints.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmvheat.errors import UserError
from mmvheat.layers import Downsample, HeatBlock, PatchEmbed, Stem
from mmvheat.layers.derived_cache import DerivedCache, Generation
from mmvheat.layers.heat2d import make_operator
from mmvheat.ops import freq_embed_size, heat_decay, predict_diffusivity, resize_freq_embed
from mmvheat.ops.dispatch import compute_dtype, is_plain
from mmvheat.registry import MODELS

from .arch import VHeatArch, resolve_arch
from .load_hook import prepare_state_dict
from .packed import PackedForward

__all__ = ['VHeat']


@MODELS.register_module()
@MMENGINE_MODELS.register_module()
class VHeat(BaseModule):
    """vHeat backbone (arXiv 2405.16555).

    Takes images of any size: where a stage's map differs from ``img_size``'s, its frequency
    embedding is interpolated on the fly, and a checkpoint with embeddings of another size is
    fitted while it loads.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'isotropic_small'``, or a dict with ``depths``
            and ``dims`` (or the ``name`` of one of these) and, if wanted, any other field of
            :class:`VHeatArch`, which names the variants too.
        in_channels: Channels of the images; a checkpoint for three is adapted while it loads.
        img_size: Size of the images, a number or (height, width), that the frequency embeddings
            are made for.
        out_indices: Stages whose maps are returned, from 0; negative ones count from the last.
        drop_path_rate: Stochastic depth rate of the last block; it grows linearly from 0.
        frozen_stages: Stages that are not trained: -1 none, 0 the stem, n the stem and the first n
            stages with their frequency embeddings and downsampling. Output norms stay trainable.
        with_cp: Recompute the blocks' activations in the backward pass to save memory.
        inference_form: Build what :meth:`fold` makes for ``img_size``, to load a checkpoint of
            ``tools/fold_for_inference.py``.
        decay_cache_mib: How much memory inference may use, in MiB, to keep the decays of the image
            sizes it meets, with the copy of the weights that shows whether they still hold; the
            least recently used go first. 0 keeps nothing.
        init_cfg: Initialization config dict as of ``mmengine.model.BaseModule``.

    Raises:
        UserError: If an argument is of the wrong kind or out of range.

    Example:
        >>> model = VHeat('tiny')
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 224, 160))]
        [(1, 96, 56, 40), (1, 192, 28, 20), (1, 384, 14, 10), (1, 768, 7, 5)]
    """

    def __init__(
        self,
        arch: str | Mapping | VHeatArch = 'tiny',
        in_channels: int = 3,
        img_size: int | Sequence[int] = 224,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.1,
        frozen_stages: int = -1,
        with_cp: bool = False,
        inference_form: bool = False,
        decay_cache_mib: int = 512,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.arch = arch = resolve_arch(arch)
        num_stages = len(arch.depths)
        if type(in_channels) is not int or in_channels < 1:
            raise UserError(f'in_channels is a positive integer, got {in_channels!r}')
        self.img_size = _image_size(img_size)
        self.out_indices = _stage_indices(out_indices, num_stages)
        if not isinstance(drop_path_rate, int | float) or not 0 <= drop_path_rate < 1:
            raise UserError(f'drop_path_rate is a number in [0, 1), got {drop_path_rate!r}')
        if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= num_stages:
            raise UserError(
                f'frozen_stages is -1 (none), 0 (stem) to {num_stages} (all), got {frozen_stages}'
            )
        if type(decay_cache_mib) is not int or decay_cache_mib < 0:
            raise UserError(
                f'decay_cache_mib is a number of MiB from 0 (keep nothing), got {decay_cache_mib!r}'
            )
        self.frozen_stages = frozen_stages
        self._decay_cache = DerivedCache(decay_cache_mib * 2**20)
        self._packed = PackedForward()
        # What other tools ask a backbone for: channels and stride of every map it returns.
        self.out_channels = tuple(arch.dims[i] for i in self.out_indices)
        self.out_strides = tuple(arch.strides[i] for i in self.out_indices)

        if arch.has_patches:
            self.patch_embed = PatchEmbed(in_channels, arch.dims[0], arch.patch_size)
        else:
            self.patch_embed = Stem(in_channels, arch.dims[0])
        sizes = [self.map_size(self.img_size, i) for i in range(num_stages)]
        self.freq_embed: nn.ParameterList | None = None
        if arch.has_embeddings:
            self.freq_embed = nn.ParameterList(
                nn.Parameter(torch.empty(*size, dim))
                for size, dim in zip(sizes, arch.dims, strict=True)
            )
        rates = torch.linspace(0, drop_path_rate, sum(arch.depths), device='cpu').tolist()
        self.layers = nn.ModuleList()
        for i, depth in enumerate(arch.depths):
            start = sum(arch.depths[:i])
            self.layers.append(
                VHeatStage(
                    arch.dims[i],
                    rates[start : start + depth],
                    out_dim=arch.dims[i + 1] if i + 1 < num_stages else None,
                    size=sizes[i],
                    arch=arch,
                    with_cp=with_cp,
                )
            )
        for i in self.out_indices:
            self.add_module(f'outnorm{i}', nn.LayerNorm(arch.dims[i]))

        self._reset_parameters()
        self._freeze_stages()
        self.register_load_state_dict_pre_hook(prepare_state_dict)
        self.folded_for: tuple[int, int] | None = None
        self._warned_of_folding = False
        if inference_form:
            self.fold()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract feature maps.

        Args:
            x: Images of shape (B, in_channels, H, W), any H and W from 1.

        Returns:
            A map for each of ``out_indices``, of shape
            (B, dims[i], ceil(H / 2^(2+i)), ceil(W / 2^(2+i))), normalised by ``outnorm{i}``; in
            torch's ``channels_last`` memory format if the images are, else contiguous. With a
            ``patch_size`` P in ``arch``, P 2^i takes the place of 2^(2+i).

        Raises:
            ValueError: If ``x`` has not four dimensions.
            UserError: If the images have another size than the backbone is folded for.
        """
        if x.dim() != 4:
            raise ValueError(f'images have shape (B, C, H, W), got {tuple(x.shape)}')
        if self.folded_for is not None and x.shape[2:] != self.folded_for:
            raise UserError(
                f'the backbone is folded for images of {self.folded_for[0]} x '
                f'{self.folded_for[1]}, got {x.size(2)} x {x.size(3)}: resize them, or use the '
                'training form, which takes any size'
            )
        # A map of one column or channel can be both.
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        keeps_layout = channels_last and not x.is_contiguous()
        maps = self.raw_maps(x, self.out_indices)
        outs = []
        for i in self.out_indices:
            out = getattr(self, f'outnorm{i}')(maps[i]).permute(0, 3, 1, 2)
            # Not only a view: mmcv's compiled ops read a map's memory as channels first.
            outs.append(out if keeps_layout else out.contiguous())
        return tuple(outs)

    def raw_maps(self, x: Tensor, stages: Sequence[int]) -> dict[int, Tensor]:
        """Extract the maps of stages as they are, before any output norm.

        Args:
            x: Images of shape (B, in_channels, H, W), checked by the caller.
            stages: Stages from 0 whose maps are wanted; those behind the last are not run.

        Returns:
            Map of shape (B, ceil(H / 2^(2+i)), ceil(W / 2^(2+i)), dims[i]) by stage i.
        """
        maps = self._packed.maps(self, x, stages)
        if maps is not None:
            return maps
        last = max(stages)
        layers = self.layers[: last + 1]
        kept = self.kept_decays(x, layers)
        x = self.patch_embed(x)
        maps = {}
        for i, stage in enumerate(layers):
            x = stage(x, None if self.freq_embed is None else self.freq_embed[i], kept[i])
            if i in stages:
                maps[i] = x
            if i < last:
                x = stage.downsample(x)
        return maps

    def keep_stages(self, count: int) -> None:
        """Drop all stages behind the first ones, with their embeddings and output norms.

        Args:
            count: How many stages stay, from 1. Of ``out_indices`` those of later stages go.

        Raises:
            UserError: If the backbone has fewer.
        """
        if not 1 <= count <= len(self.layers):
            raise UserError(f'keep 1 to {len(self.layers)} stages, got {count}')
        self.layers, last = self.layers[:count], self.layers[count - 1]
        if self.freq_embed is not None:
            self.freq_embed = self.freq_embed[:count]
        del last[last.depth :]
        for i in self.out_indices:
            if i >= count:
                delattr(self, f'outnorm{i}')
        self.out_indices = tuple(i for i in self.out_indices if i < count)
        self.out_channels = tuple(self.arch.dims[i] for i in self.out_indices)
        self.out_strides = tuple(self.arch.strides[i] for i in self.out_indices)
        self.clear_decay_cache()

    def pack(self, wanted: bool = True) -> 'VHeat':
        """Keep the weights in the order that this CPU's products want, for faster inference.

        Without it oneDNN brings each weight into that order in each call, which takes longer than
        to compute the small maps of a single image. From the next forward pass in eval mode
        without gradients a packed copy of the weights is used, one for each dtype that is computed
        in (float32, bfloat16), and the residual branches are added by the products themselves.
        Results differ by rounding alone. It costs the memory of the weights once more.

        Weights that change are noticed before each pass and packed anew: other parameters, changes
        in-place, and what is done through ``.data`` where it changes the first values of a weight.
        What changes only later values of a weight through ``.data`` is not noticed: call
        ``pack()`` again. While one trains, records gradients, traces, compiles or exports, where a
        module inside has a forward hook, on other devices, and where this torch or CPU has no such
        products, the ordinary forward pass is taken.

        Args:
            wanted: False goes back to the ordinary forward pass and frees the memory.

        Returns:
            The model.
        """
        self._packed.clear()
        self._packed.wanted = wanted
        return self

    def clear_decay_cache(self) -> None:
        """Drop the decays that inference keeps, and free their memory.

        There is no other need to call it: changed weights are noticed before each forward pass,
        however they were changed, and ``train()``, ``eval()`` and ``to()`` drop what is kept too.
        """
        self._decay_cache.clear()
        self._packed.forget_decays()

    def fold(self, image_size: int | Sequence[int] | None = None) -> 'VHeat':
        """Turn the model into the inference form for one image size.

        Each operator keeps its decay of shape (H, W, C), the parameter ``k_exp`` that is not
        trained unless one asks for it, instead of ``to_k``, and the frequency embeddings go: fewer
        parameters, and no prediction of the diffusivity. There is no way back: keep a copy of the
        model, or its checkpoint. Where it is not folded, the model keeps such decays by itself for
        the sizes it meets; folding makes them a part of its state.

        Args:
            image_size: Size of the images, a number or (height, width); ``img_size`` if None.

        Returns:
            The model.

        Raises:
            ValueError: If it is folded already.
            UserError: If its operator has no decays.
        """
        if self.folded_for is not None:
            raise ValueError('the backbone is folded already: fold one in the training form')
        if not self.arch.has_decays:
            raise UserError(
                f'operator={self.arch.operator!r} has no decays to fold: use the model as it is'
            )
        size = self.img_size if image_size is None else _image_size(image_size)
        for i, stage in enumerate(self.layers):
            map_size = self.map_size(size, i)
            if self.freq_embed is None:
                for block in stage.blocks():
                    block.op.fold_for(map_size)
                continue
            embed = resize_freq_embed(self.freq_embed[i].detach(), map_size)
            for block in stage.blocks():
                block.op.fold(embed)
        self.freq_embed = None
        self.folded_for = size
        self.clear_decay_cache()
        return self

    def train(self, mode: bool = True) -> 'VHeat':
        """Set the mode; frozen stages stay in eval mode."""
        self.clear_decay_cache()
        if mode:
            self._packed.clear()
        super().train(mode)
        self._freeze_stages()
        if not mode or self.folded_for is None or self._warned_of_folding:
            return self
        if not self.layers[0][0].op.k_exp.requires_grad:
            self._warned_of_folding = True
            print_log(
                'The backbone is folded for inference: its decays (k_exp) are fixed and are not '
                'trained. To train all of it, build it with inference_form=False',
                logger='current',
                level=logging.WARNING,
            )
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> 'VHeat':
        """Move or cast the parameters; leave nothing behind on the old device."""
        self.clear_decay_cache()
        self._packed.clear()
        return super()._apply(fn, recurse)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Tell the layer of a parameter, for layer-wise learning rates; mmpretrain's interface.

        The stem is layer 0, each block one more; a downsampling counts with the block before it, a
        frequency embedding with the first block that it is for. All else is the last layer: output
        norms, and what stands behind the backbone.

        Args:
            param_name: Full name of the parameter.
            prefix: What the backbone's parameters start with, such as ``'backbone.'``.

        Returns:
            The layer, from 0, and the number of layers, which is that of all blocks and 2.
        """
        depths = self.arch.depths
        last = sum(depths) + 1
        part, *rest = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix):
            layer = last
        elif part == 'patch_embed':
            layer = 0
        elif part == 'freq_embed':
            layer = sum(depths[: int(rest[0])]) + 1
        elif part == 'layers':
            stage, block = int(rest[0]), int(rest[1])
            layer = sum(depths[:stage]) + min(block + 1, depths[stage])
        else:
            layer = last
        return layer, last + 1

    def map_size(self, image_size: tuple[int, int], stage: int) -> tuple[int, int]:
        """Tell the size of a stage's map.

        Args:
            image_size: Height and width of the images.
            stage: Index of the stage, from 0.
        """
        return freq_embed_size(image_size, stage, self.arch.patch_size)

    def kept_decays(self, x: Tensor, stages: 'Sequence[VHeatStage]') -> 'list[StageDecays | None]':
        """Look up what is kept for each stage; None where decays are to be computed.

        The one comparison of the weights, and the one decision, for the whole forward pass.
        """
        nothing = [None] * len(stages)
        if self.training or self.freq_embed is None or torch.is_grad_enabled():
            return nothing
        if not is_plain([x]):
            return nothing
        pairs = zip(stages, self.freq_embed, strict=False)
        by_stage = [stage.decay_sources(embed) for stage, embed in pairs]
        if None in by_stage:
            return nothing
        generation = self._decay_cache.current([source for part in by_stage for source in part])
        if generation is None:
            return nothing
        copies = iter(generation.sources)
        return [
            StageDecays(generation, i, [next(copies) for _ in part])
            for i, part in enumerate(by_stage)
        ]

    def _freeze_stages(self) -> None:
        """Take frozen stages out of training: no gradients, no stochastic depth."""
        if self.frozen_stages < 0:
            return
        for module in (self.patch_embed, *self.layers[: self.frozen_stages]):
            module.eval().requires_grad_(False)
        for embed in list(self.freq_embed or ())[: self.frozen_stages]:
            embed.requires_grad_(False)

    def _reset_parameters(self) -> None:
        """Initialise as the published training did: normal of std 0.02, cut at 2."""
        for embed in self.freq_embed or ():
            nn.init.trunc_normal_(embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


class VHeatStage(nn.ModuleList):
    """The blocks of one stage and, but for the last stage, the downsampling behind them.

    Args:
        dim: Channels.
        drop_path_rates: Stochastic depth rate of every block; their number is the depth.
        out_dim: Channels of the next stage; None for the last one.
        size: Height and width of the map that learned spectra are made for.
        arch: Architecture, for what all blocks share.
        with_cp: Recompute the blocks' activations in the backward pass.
    """

    def __init__(
        self,
        dim: int,
        drop_path_rates: Sequence[float],
        out_dim: int | None,
        size: tuple[int, int],
        arch: VHeatArch,
        with_cp: bool,
    ) -> None:
        super().__init__(
            HeatBlock(
                dim,
                mlp_ratio=arch.mlp_ratio,
                drop_path=rate,
                post_norm=arch.post_norm,
                layer_scale_init_value=arch.layer_scale_init_value,
                op=make_operator(
                    dim, size, arch.operator, arch.diffusivity, arch.k, dwconv=arch.dwconv
                ),
            )
            for rate in drop_path_rates
        )
        self.depth = len(drop_path_rates)
        self.with_cp = with_cp
        if out_dim is not None:
            self.append(Downsample(dim, out_dim))

    def forward(
        self, x: Tensor, freq_embed: Tensor | None, kept: 'StageDecays | None' = None
    ) -> Tensor:
        """Run the blocks on a map.

        Args:
            x: Map of shape (B, H, W, C).
            freq_embed: Frequency embedding of shape (H', W', C), fitted to the map if it differs;
                not used by a folded stage.
            kept: Decays that are kept for the embedding and the blocks' weights; None to compute
                them.

        Returns:
            Map of shape (B, H, W, C).
        """
        if kept is None and freq_embed is not None:
            freq_embed = resize_freq_embed(freq_embed, (x.size(1), x.size(2)))
        decays = [None] * self.depth if kept is None else kept.of(x)
        for block, decay in zip(self.blocks(), decays, strict=True):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, freq_embed, decay, use_reentrant=False)
            else:
                x = block(x, freq_embed, decay)
        return x

    def blocks(self) -> Iterator[HeatBlock]:
        """Iterate over the blocks, without the downsampling behind them."""
        return islice(self, self.depth)

    def decay_sources(self, freq_embed: Tensor) -> list[Tensor] | None:
        """List what the blocks' decays follow from; None where a weight is not whole.

        A sharding wrapper leaves a process with flat pieces of the weights.

        Args:
            freq_embed: Frequency embedding of shape (H, W, C).

        Returns:
            The embedding, then weight and bias of each block's ``to_k``.
        """
        dim, sources = freq_embed.size(-1), [freq_embed]
        for block in self.blocks():
            weight, bias = block.op.to_k[0].weight, block.op.to_k[0].bias
            if weight.shape != (dim, dim) or bias.shape != (dim,):
                return None
            sources += weight, bias
        return sources if freq_embed.dim() == 3 else None

    def downsample(self, x: Tensor) -> Tensor:
        """Halve the map for the next stage: (B, H, W, C) to (B, ceil(H/2), ceil(W/2), C')."""
        return self[self.depth](x)


@dataclass(frozen=True)
class StageDecays:
    """The decays that are kept for one stage.

    Attributes:
        generation: Where they are kept.
        stage: Index of the stage.
        sources: The generation's copy of what :meth:`VHeatStage.decay_sources` returned.
    """

    generation: Generation
    stage: int
    sources: Sequence[Tensor]

    def of(self, x: Tensor) -> Iterator[Tensor]:
        """Iterate over the decays (H, W, C) of all blocks for a map (B, H, W, C)."""
        size, dtype = tuple(x.shape[1:3]), compute_dtype(x)
        embed, *weights = self.sources
        fitted: list[Tensor] = []

        for block, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):

            def make(weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
                if not fitted:
                    fitted.append(resize_freq_embed(embed, size))
                return heat_decay(predict_diffusivity(fitted[0], weight, bias)).to(dtype)

            yield self.generation.get((self.stage, block, size, dtype), make)


def _image_size(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Check ``img_size`` and make it (height, width)."""
    size = tuple(img_size) if isinstance(img_size, Sequence) else (img_size, img_size)
    if len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise UserError(f'img_size is a positive integer or two (height, width), got {img_size!r}')
    return size


def _stage_indices(out_indices: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Check ``out_indices`` and count negative ones from the last stage."""
    if not isinstance(out_indices, int | Sequence):
        raise UserError(f'out_indices is a stage or a sequence of stages, got {out_indices!r}')
    given = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not given:
        raise UserError('out_indices is empty: name at least one stage')
    for i in given:
        if not isinstance(i, int) or not -num_stages <= i < num_stages:
            raise UserError(
                f'out_indices has {i!r}, but this arch has stages 0 to {num_stages - 1}'
            )
    return tuple(i % num_stages for i in given)
