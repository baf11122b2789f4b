"""A vHeat classifier in torch alone, with the names and the numbers of mmpretrain's."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from logging import INFO
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmvheat.checkpoint import (
    Backbone,
    classifier_state,
    describe_checkpoint,
    find_state_dict,
    read_checkpoint,
)
from mmvheat.checkpoint.describe import arch_in_words
from mmvheat.checkpoint.fit import compare_weights
from mmvheat.checkpoint.formats import class_names
from mmvheat.checkpoint.io.download import local_file
from mmvheat.checkpoint.io.reading import about_file
from mmvheat.checkpoint.names import BACKBONE
from mmvheat.errors import UserError

from .arch import ARCHS, VHeatArch, arch_name
from .vheat import VHeat

__all__ = ['VHeatClassifier']


class VHeatClassifier(nn.Module):
    """vHeat with a linear classifier, or without one.

    Names of parameters are those of our converted checkpoints and of mmpretrain's
    ``ImageClassifier``: ``backbone.*`` with the last output norm alone, and ``head.fc``. The norm
    comes before the mean over the map, as in the published classifiers.

    Args:
        arch: As for :class:`VHeat`.
        num_classes: Number of classes; 0 for the backbone alone.
        in_channels: Channels of the images.
        img_size: Size of the images, a number or (height, width), that the frequency embeddings
            are made for. Images of any other size work, too.
        drop_path_rate: Stochastic depth rate of the last block.
        classes: Names of the classes, in the order of the logits.

    Raises:
        UserError: If an argument is of the wrong kind or out of range.

    Example:
        >>> model = VHeatClassifier('tiny', num_classes=10)
        >>> model(torch.rand(1, 3, 64, 48)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        arch: str | Mapping | VHeatArch = 'tiny',
        num_classes: int = 1000,
        in_channels: int = 3,
        img_size: int | Sequence[int] = 224,
        drop_path_rate: float = 0.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if type(num_classes) is not int or num_classes < 0:
            raise UserError(f'num_classes is a number from 0 (no classifier), got {num_classes!r}')
        if classes is not None:
            is_sequence = isinstance(classes, Sequence) and not isinstance(classes, str)
            if not is_sequence or not all(isinstance(name, str) for name in classes):
                raise UserError(f'classes are a sequence of names, got {classes!r}')
            if len(classes) != num_classes:
                raise UserError(
                    f'num_classes is {num_classes}, but classes has {len(classes)} names: give as '
                    'many names as classes, or none'
                )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.drop_path_rate = drop_path_rate
        self.classes = None if classes is None else tuple(classes)
        self.backbone = VHeat(
            arch,
            in_channels=in_channels,
            img_size=img_size,
            out_indices=-1,
            drop_path_rate=drop_path_rate,
        )
        self.head = _Head(self.backbone.out_channels[0], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: Shape (B, in_channels, H, W), any H and W from 1.

        Returns:
            Logits of shape (B, num_classes); without a classifier the mean of the last map, of
            shape (B, dims[-1]).
        """
        return self.head(self.backbone(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute the last map, normalised, of shape (B, dims[-1], ceil(H / 32), ceil(W / 32)).

        A ``patch_size`` in ``arch`` changes the stride.
        """
        return self.backbone(images)[0]

    def arguments(self) -> dict[str, Any]:
        """List the arguments that build this model, as JSON can hold them."""
        arch = self.backbone.arch
        name = next((name for name, value in ARCHS.items() if value == arch), None)
        return {
            'arch': name or {**asdict(arch), 'depths': [*arch.depths], 'dims': [*arch.dims]},
            'num_classes': self.num_classes,
            'in_channels': self.in_channels,
            'img_size': list(self.backbone.img_size),
            'drop_path_rate': self.drop_path_rate,
            'classes': None if self.classes is None else list(self.classes),
        }

    def load_weights(
        self, tensors: Mapping[str, Tensor], ignore_mismatched_sizes: bool = False
    ) -> None:
        """Load the weights of any vHeat that has this backbone.

        Frequency embeddings of another size are fitted, and so is a first convolution for RGB
        images where the model takes others. All other weights must be there, in the right shape.
        Without a classifier of its own the model ignores that of the weights.

        Args:
            tensors: State dict as of :func:`mmvheat.checkpoint.classifier_state`.
            ignore_mismatched_sizes: Whether to keep the classifier that the model has, untrained,
                where the weights have none or one for another number of classes.

        Raises:
            UserError: If the weights do not fit.
        """
        state = classifier_state(tensors)
        weight = state.get('head.fc.weight')
        given = 0 if weight is None else len(weight)
        bare = {name: tensor for name, tensor in state.items() if name.startswith(BACKBONE)}
        state = state if self.num_classes else bare
        expected = self.state_dict()
        fit = compare_weights(expected, state)
        misfits = fit.keys()
        of_head = all(name.startswith('head.') for name in misfits)
        if self.num_classes and self.num_classes != given and of_head:
            if not ignore_mismatched_sizes:
                raise UserError(
                    f'the weights have {given or "no"} classes, the model has num_classes='
                    f'{self.num_classes}: give num_classes={given}, or ignore_mismatched_sizes='
                    'True to start its classifier anew'
                )
            note = f'head.fc starts anew: {self.num_classes} classes, the weights have {given}'
            print_log(note, 'current', INFO)
            state = {**expected, **bare}
        elif misfits:
            has, wants = arch_in_words(state), arch_in_words(expected)
            sides = f'they are of {has}, this is {wants}: ' if has != wants else ''
            raise UserError(f'the weights do not fit the model: {sides}{fit.summary()}')
        self.load_state_dict(state)

    def load_file(
        self,
        source: str | os.PathLike,
        key: str | None = None,
        ignore_mismatched_sizes: bool = False,
    ) -> None:
        """Load the weights of a file, see :meth:`load_weights`; no code in it is run.

        Args:
            source: Path or address of a checkpoint in any form.
            key: Entry of it to take, see :func:`mmvheat.checkpoint.find_state_dict`.
            ignore_mismatched_sizes: As for :meth:`load_weights`.

        Raises:
            UserError: If the file cannot be read, or does not fit.
        """
        path = local_file(source)
        checkpoint = read_checkpoint(path)
        with about_file(path):
            self.load_weights(find_state_dict(checkpoint, key).tensors, ignore_mismatched_sizes)

    @classmethod
    def from_checkpoint(
        cls,
        source: str | os.PathLike,
        *,
        arch: str | Mapping | VHeatArch | None = None,
        num_classes: int | None = None,
        in_channels: int | None = None,
        img_size: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        key: str | None = None,
        ignore_mismatched_sizes: bool = False,
    ) -> 'VHeatClassifier':
        """Build the model that a checkpoint is of, with its weights; no code in the file is run.

        Args:
            source: Path or address of a checkpoint in any form: published, converted, mmengine's,
                a bare state dict or safetensors, of a classifier or of anything with a vHeat.
            arch: Architecture; None reads it off the file. Weights do not tell whether blocks
                normalise input or output, so it must be given for others than tiny, small, base.
            num_classes: Number of classes; None takes the file's classifier, or none where it has
                none. 0 leaves the classifier behind.
            in_channels: Channels of the images; None takes the file's.
            img_size: As for the class; None takes the size that the file's embeddings are made for.
            drop_path_rate: As for the class.
            key: Entry of the file to take, see :func:`mmvheat.checkpoint.find_state_dict`.
            ignore_mismatched_sizes: As for :meth:`load_weights`.

        Returns:
            The model, in eval mode.

        Raises:
            UserError: If the file cannot be read, holds no vHeat, one that is incomplete or folded
                for inference, or does not fit the arguments.
        """
        path = local_file(source)
        checkpoint = read_checkpoint(path)
        with about_file(path):
            tensors = find_state_dict(checkpoint, key).tensors
            state = classifier_state(tensors)
            description = describe_checkpoint(checkpoint, key)
            backbone, names = description.backbone, class_names(checkpoint)
            if backbone is None:
                raise UserError(description.problem)
            if arch is None:
                arch = _known_arch(backbone)
            if img_size is None:
                img_size = _known_size(backbone)
            weight = state.get('head.fc.weight')
            of_file = 0 if weight is None else len(weight)
            num_classes = of_file if num_classes is None else num_classes
            model = cls(
                arch=arch,
                num_classes=num_classes,
                in_channels=backbone.in_channels if in_channels is None else in_channels,
                img_size=img_size,
                drop_path_rate=drop_path_rate,
                classes=names if names and len(names) == num_classes == of_file else None,
            )
            model.load_weights(state, ignore_mismatched_sizes)
        return model.eval()


class _Head(nn.Module):
    """The mean over the last map, then a linear layer, named as in mmpretrain's LinearClsHead.

    Args:
        in_channels: Channels of the map.
        num_classes: Number of classes; 0 for the mean alone.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes) if num_classes else nn.Identity()
        if num_classes:
            nn.init.trunc_normal_(self.fc.weight, std=0.02)
            nn.init.zeros_(self.fc.bias)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Take the maps of the backbone, each (B, C, H, W), to logits (B, num_classes)."""
        return self.fc(maps[-1].mean((2, 3)))


def _known_arch(backbone: Backbone) -> str:
    """Name the arch of a file.

    Raises:
        UserError: If it has no name.
    """
    name = arch_name(backbone)
    if name is None:
        ratios = set(backbone.mlp_ratios)
        parts = [f'depths={backbone.depths}', f'dims={backbone.dims}', 'post_norm=...']
        parts += ['layer_scale_init_value=1e-5'] * backbone.layer_scale
        parts += [f'mlp_ratio={ratio:g}' for ratio in ratios - {VHeatArch.mlp_ratio}]
        for field in ('operator', 'diffusivity', 'dwconv', 'patch_size'):
            value = getattr(backbone, field)
            parts += [f'{field}={value!r}'] * (value != getattr(VHeatArch, field))
        parts += ['k=...'] * (backbone.diffusivity == 'fixed')
        raise UserError(
            f'it is none of {", ".join(ARCHS)}, and weights do not tell whether its blocks '
            f'normalise input (post_norm=False) or output: give arch=dict({", ".join(parts)})'
        )
    return name


def _known_size(backbone: Backbone) -> tuple[int, int]:
    """Tell the image size that a file's embeddings are made for.

    Raises:
        UserError: If there is none.
    """
    if backbone.image_size is None:
        raise UserError('its weights tell no one image size that they are made for: give img_size')
    return backbone.image_size
