"""Names and arguments of the published code's backbones, so that its configs run unchanged."""

from collections.abc import Sequence

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.runner import CheckpointLoader

from mmvheat.checkpoint import find_state_dict
from mmvheat.checkpoint.names import OUTPUT_NORM, backbone_prefix
from mmvheat.errors import UserError
from mmvheat.registry import MODELS

from .vheat import VHeat

__all__ = ['MMDET_VHEAT', 'MMSEG_VHEAT']


@MODELS.register_module()
@MMENGINE_MODELS.register_module()
class MMDET_VHEAT(VHeat):  # noqa: N801  (the name is the contract)
    """:class:`VHeat` under the name and with the arguments of the published detection code.

    New configs use :class:`VHeat`. The published configs inherit a Swin Transformer's and leave
    its arguments in the backbone; those that mean nothing to vHeat are listed last here and are
    ignored, as the published code ignores them.

    Args:
        in_chans: ``in_channels``.
        depths: Blocks of every stage.
        dims: Channels of every stage, or of the first.
        mlp_ratio: Hidden channels of the MLPs over the stage's.
        post_norm: Normalise a branch's output instead of its input.
        layer_scale: ``layer_scale_init_value``.
        drop_path_rate: Stochastic depth rate of the last block.
        use_checkpoint: ``with_cp``.
        out_indices: Stages whose maps are returned.
        img_size: Image size that the frequency embeddings are made for.
        pretrained: Checkpoint of a backbone: published, or converted by
            ``interpolate4downstream.py``; loaded by :meth:`init_weights`. None or '' for none.
        num_classes: Ignored, as all that follow: no classifier is built.
        drop_rate: Ignored.
        drop_path: Ignored; ``drop_path_rate`` decides.
        attn_drop_rate: Ignored.
        patch_norm: Ignored; the stem is always normalised.
        patch_size: Ignored; the stem's stride is 4.
        norm_layer: Ignored; all norms are LayerNorms.
        act_layer: Ignored; all activations are GELU.
        infer_mode: Ignored; the model is always built in the training form.
        init_cfg: Ignored; it names the weights of the inherited Swin Transformer.
        with_cp: Ignored; ``use_checkpoint`` decides.
        pretrain_img_size: Ignored.
        embed_dims: Ignored.
        num_heads: Ignored.
        window_size: Ignored.
        strides: Ignored.
        qkv_bias: Ignored.
        qk_scale: Ignored.
        use_abs_pos_embed: Ignored.
        act_cfg: Ignored.
        norm_cfg: Ignored.
        convert_weights: Ignored.

    Raises:
        UserError: If an argument is of the wrong kind or out of range.
    """

    def __init__(
        self,
        in_chans: int = 3,
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: int | Sequence[int] = (96, 192, 384, 768),
        mlp_ratio: float = 4.0,
        post_norm: bool = True,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.1,
        use_checkpoint: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        img_size: int = 224,
        pretrained: str | None = None,
        num_classes: object = None,
        drop_rate: object = None,
        drop_path: object = None,
        attn_drop_rate: object = None,
        patch_norm: object = None,
        patch_size: object = None,
        norm_layer: object = None,
        act_layer: object = None,
        infer_mode: object = None,
        init_cfg: object = None,
        with_cp: object = None,
        pretrain_img_size: object = None,
        embed_dims: object = None,
        num_heads: object = None,
        window_size: object = None,
        strides: object = None,
        qkv_bias: object = None,
        qk_scale: object = None,
        use_abs_pos_embed: object = None,
        act_cfg: object = None,
        norm_cfg: object = None,
        convert_weights: object = None,
    ) -> None:
        super().__init__(
            arch=dict(
                depths=depths,
                dims=dims,
                post_norm=post_norm,
                layer_scale_init_value=layer_scale,
                mlp_ratio=mlp_ratio,
            ),
            in_channels=in_chans,
            img_size=img_size,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            with_cp=use_checkpoint,
        )
        self.pretrained = pretrained

    def init_weights(self) -> None:
        """Initialize the weights, then load those of ``pretrained``.

        Raises:
            UserError: If the file cannot be read or is no checkpoint of this backbone.
        """
        super().init_weights()
        if self.pretrained:
            _load_backbone(self, self.pretrained)


@MODELS.register_module()
@MMENGINE_MODELS.register_module()
class MMSEG_VHEAT(MMDET_VHEAT):  # noqa: N801  (the name is the contract)
    """:class:`MMDET_VHEAT` under the name of the published segmentation code."""


def _load_backbone(backbone: VHeat, path: str) -> None:
    """Load a backbone's weights, whatever stands around them; all but the norms must be there."""
    try:
        tensors = find_state_dict(CheckpointLoader.load_checkpoint(path, 'cpu')).tensors
        prefix = backbone_prefix(tensors)
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        missing, unexpected = backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        # torch's first line is a title, the second says what does not fit.
        reason = str(error).splitlines()[1].strip()
        raise UserError(f'pretrained={path!r} does not fit the backbone: {reason}') from error
    except UserError as error:
        raise UserError(f'pretrained={path!r}: {error}') from error
    # A classifier has no norms for the maps, and a backbone may have fewer than the checkpoint.
    amiss = [f'no {name}' for name in missing if not OUTPUT_NORM.fullmatch(name)]
    amiss += [
        f'unknown {name}'
        for name in unexpected
        if not name.startswith('classifier.') and not OUTPUT_NORM.fullmatch(name)
    ]
    if amiss:
        raise UserError(
            f'pretrained={path!r} does not fit the backbone: {amiss[0]} and {len(amiss) - 1} more; '
            "check depths, post_norm and layer_scale against the checkpoint's"
        )
