"""Turn a vHeat state dict into another form: names, and the size of its frequency embeddings."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmvheat.errors import UserError
from mmvheat.ops import FREQ_EMBED_MODES, freq_embed_size

from .formats import class_metadata, find_state_dict
from .names import (
    BACKBONE,
    EMBEDDING,
    MIXER,
    OPERATOR,
    OUTPUT_NORM,
    TO_K_WEIGHT,
    backbone_prefix,
    find_variant,
    has_classifier,
    mmpretrain_name,
    published_name,
    shown,
    unwrapped_names,
)
from .report import ConversionReport
from .spectra import check_spectrum, is_spectrum, made_for, resize_spectrum, spectrum_size

__all__ = [
    'FORMS',
    'MAX_SIDE',
    'TASKS',
    'as_mmengine_checkpoint',
    'as_size',
    'change_form',
    'classifier_state',
    'convert_state_dict',
    'rename',
]

TASKS = ('downstream', 'classification')
FORMS = ('published', 'classification', 'backbone', 'downstream')

# Larger embeddings are surely a slip of the finger, and would fill the memory.
MAX_SIDE = 4096

Size = tuple[int, int]


def as_size(size: int | tuple[int, int]) -> Size:
    """Complete an image size.

    Args:
        size: One side of a square or (height, width), in pixels.

    Returns:
        Height and width.

    Raises:
        TypeError: If it is neither.
        UserError: If a side is not in 1..4096.
    """
    sides = (size, size) if isinstance(size, int) else size
    is_pair = isinstance(sides, (tuple, list)) and len(sides) == 2
    if not is_pair or not all(type(side) is int for side in sides):
        raise TypeError(f'a size is one whole number or a height and a width, got {size!r}')
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise UserError(f'a size has sides from 1 to {MAX_SIDE} pixels, got {_times(sides)}')
    return tuple(sides)


def convert_state_dict(
    tensors: Mapping[str, Tensor],
    source_size: int | tuple[int, int],
    target_size: int | tuple[int, int],
    mode: str = 'bicubic',
    task: str = 'downstream',
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename the keys of a vHeat model and fit its frequency embeddings to another image size.

    Args:
        tensors: State dict of a vHeat backbone, classifier, detector or segmentor, with the
            published names or mmengine's, under any prefix. It is left as it is.
        source_size: Image size the embeddings were made for, N or (H, W); checked against them.
        target_size: Image size to fit them to, N or (H, W).
        mode: How to resize, see `mmvheat.ops.resize_freq_embed`.
        task: 'downstream' drops a classifier and the norm before it, which a detector or
            segmentor starts anew; the output norms, necks and heads of a detector or segmentor
            stay. 'classification' keeps the classifier as mmpretrain names it.

    Returns:
        The new state dict, its backbone under 'backbone.' and dtypes kept, and what was done.
        Tensors that were not resized share their memory with the source's.

    Raises:
        TypeError: If a size is neither N nor (H, W).
        UserError: If this is no vHeat model that can be converted, a size or the task is wrong,
            `source_size` contradicts the embeddings, or 'pad' would have to shrink them.
    """
    source_size, target_size = as_size(source_size), as_size(target_size)
    if task not in TASKS:
        raise UserError(f'task is one of {", ".join(TASKS)}, got {task!r}')
    return change_form(tensors, task, target_size, source_size, mode)


def change_form(
    tensors: Mapping[str, Tensor],
    form: str,
    target_size: int | tuple[int, int] | None = None,
    source_size: int | tuple[int, int] | None = None,
    mode: str = 'bicubic',
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Give a vHeat model the names of another form, and its embeddings another size if wanted.

    Wrappers for training (``module.``, ``_orig_mod.``) go from all names.

    Args:
        tensors: As for `convert_state_dict`; folded for inference where neither a size nor
            'downstream' is asked for.
        form: 'published' is a classifier as the published code names it, 'classification' one as
            mmpretrain does. 'backbone' is the backbone alone, as `mmvheat.models.VHeat` names it.
            'downstream' is what a detector or segmentor starts from: a backbone under 'backbone.'
            without the classifier and its norm, or a detector or segmentor with neck and heads.
        target_size: Image size to fit the embeddings to, N or (H, W); None leaves them.
        source_size: Image size they were made for, checked against them; None takes them as
            they are.
        mode: How to resize, see `mmvheat.ops.resize_freq_embed`.

    Returns:
        The new state dict, dtypes kept, and what was done. Tensors that were not resized share
        their memory with the source's.

    Raises:
        TypeError: If a size is neither N nor (H, W).
        UserError: If the model cannot have that form or size, see `convert_state_dict`.
    """
    if form not in FORMS:
        raise UserError(f'form is one of {", ".join(FORMS)}, got {form!r}')
    if mode not in FREQ_EMBED_MODES:
        raise UserError(f'mode is one of {", ".join(FREQ_EMBED_MODES)}, got {mode!r}')
    target_size = None if target_size is None else as_size(target_size)
    source_size = None if source_size is None else as_size(source_size)
    unsized = target_size is None and source_size is None
    model = _Model(tensors, folded=unsized and form != 'downstream')
    if source_size is not None:
        _check_size(model, source_size)
    names, dropped = model.rename(form)
    converted = {new: tensors[old].detach() for old, new in names.items()}
    resized = {}
    if target_size is None:
        return converted, ConversionReport(names, resized, dropped)
    for inner, (stage, spectrum) in model.spectra.items():
        name = names[model.olds[f'{model.prefix}{inner}']]
        old = spectrum_size(inner, spectrum.shape)
        new = freq_embed_size(target_size, stage, model.stem_stride)
        if made_for(inner, spectrum.shape, new):
            continue
        if mode == 'pad' and (new[0] < old[0] or new[1] < old[1]):
            source = source_size or model.guessed_size()
            raise UserError(
                f'{name} from {_times(source)} to {_times(target_size)}: mode '
                f"'pad' cannot shrink an embedding of {_times(old)} to {_times(new)}: "
                "use 'bicubic' or 'frequency'"
            )
        converted[name] = resize_spectrum(inner, spectrum.detach(), new, mode).contiguous()
        resized[name] = (old, new)
    return converted, ConversionReport(names, resized, dropped)


def rename(
    tensors: Mapping[str, Tensor], form: str | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Decide on every tensor of a vHeat model in the training form, sizes aside.

    Args:
        tensors: State dict of the model.
        form: One of `FORMS`, see `change_form`; None is 'classification' where there is a
            classifier, else 'downstream'.

    Returns:
        The new names by the old ones, and why the others are dropped.

    Raises:
        UserError: If the model is incomplete, or two tensors would get one name.
    """
    return _Model(tensors).rename(form)


def as_mmengine_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Give a published checkpoint the form of mmengine's; leave every other one as it is.

    Published are the classifier's names (``freq_embed.0``, ``layers...``, ``classifier.3``) under
    ``model`` or ``model_ema``, or a classifier that stands bare or in safetensors. Of ``model``
    and ``model_ema`` the first is taken.

    Args:
        checkpoint: What a file held.

    Returns:
        ``{state_dict, meta}`` with mmpretrain's names (``backbone.*``, ``backbone.outnorm3``,
        ``head.fc``), tensors shared with the source; or the very same checkpoint.

    Raises:
        UserError: If it is a published one that cannot be used: incomplete, or folded for
            inference.
    """
    if not isinstance(checkpoint, Mapping):
        return checkpoint
    try:
        found = find_state_dict(checkpoint)
    except UserError:
        return checkpoint  # Nothing of ours: whoever reads it knows better what it should be.
    names = [name for name in unwrapped_names(found.tensors).values() if name is not None]
    is_vheat = any(name.startswith('layers.0.0.op.') for name in names)
    is_classifier = any(name.startswith('classifier.') for name in names)
    if not is_vheat or not (is_classifier or found.key in ('model', 'model_ema')):
        return checkpoint
    if backbone_prefix(names).endswith(BACKBONE):
        return checkpoint
    renamed, _ = rename(found.tensors)
    return {
        'state_dict': {new: found.tensors[old].detach() for old, new in renamed.items()},
        'meta': class_metadata(checkpoint),
    }


def classifier_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take what a classifier consists of out of any vHeat state dict, by mmpretrain's names.

    Args:
        tensors: State dict of a vHeat classifier, backbone, detector or segmentor in the training
            form, with the published names or mmengine's, under any prefix.

    Returns:
        The backbone under 'backbone.', of its output norms the last alone, and a classifier's head
        ('head.fc'); of other models no head. Tensors share their memory with the source's.

    Raises:
        UserError: If the model is no vHeat, is incomplete, or folded for inference.
    """
    model = _Model(tensors)
    names, _ = model.rename()
    last_norm = f'{BACKBONE}outnorm{model.last_stage}.'
    return {
        new: tensors[old].detach()
        for old, new in names.items()
        if new.startswith((BACKBONE, 'head.'))
        and (new.startswith(last_norm) or not OUTPUT_NORM.fullmatch(new, len(BACKBONE)))
    }


class _Model:
    """A vHeat in a state dict, with whatever stands around it.

    Attributes:
        olds: Names in the state dict by their names without wrappers.
        counters: Names of what only a wrapper needs.
        prefix: What stands before the backbone's names.
        spectra: What is made for one image size, with its stage, by the backbone's own names: the
            frequency embeddings, or what a variant learns in their place; empty if it is folded.
        stem_stride: Stride of the first stage.
        last_stage: Index of the last stage.
    """

    def __init__(self, tensors: Mapping[str, Tensor], folded: bool = False) -> None:
        unwrapped = unwrapped_names(tensors)
        self.counters = [old for old, name in unwrapped.items() if name is None]
        self.olds: dict[str, str] = {}
        for old, name in unwrapped.items():
            if name is not None and self.olds.setdefault(name, old) != old:
                raise UserError(f'2 tensors would be called {shown(name)}: save the model with one')
        self.prefix = backbone_prefix(self.olds, folded)
        inner = {
            name[len(self.prefix) :]: old
            for name, old in self.olds.items()
            if name.startswith(self.prefix)
        }
        layers = {int(match[1]) for match in map(OPERATOR.fullmatch, inner) if match}
        stages = {int(match[1]) for match in map(EMBEDDING.fullmatch, inner) if match}
        # Folded, or a variant that has none: else there would be no such backbone.
        stages = stages or layers
        if stages != layers or stages != set(range(len(stages))):
            raise UserError(
                f'frequency embeddings of stages {_listed(stages)}, but layers of stages '
                f'{_listed(layers)}: the checkpoint is incomplete; save it again'
            )
        self.last_stage = len(stages) - 1
        own = {name: tensors[old] for name, old in inner.items()}
        self.stem_stride = find_variant(own, folded).patch_size
        self.spectra: dict[str, tuple[int, Tensor]] = {}
        spectra = [n for n in own if EMBEDDING.fullmatch(n) or MIXER.fullmatch(n)]
        sized = [name for name in spectra if is_spectrum(name, own[name].shape)]
        for name in sorted(sized, key=_stage_of):
            check_spectrum(f'{self.prefix}{name}', own[name])
            self.spectra[name] = _stage_of(name), own[name]
        embeds = {stage: t for n, (stage, t) in self.spectra.items() if EMBEDDING.fullmatch(n)}
        for name, old in inner.items():
            if (match := TO_K_WEIGHT.fullmatch(name)) and embeds:
                embed, shape = embeds[int(match[1])], tuple(tensors[old].shape)
                if shape[1:] != embed.shape[2:]:
                    raise UserError(
                        f'{shown(old)} is {shape}, but {self.prefix}freq_embed.{match[1]} has '
                        f'{embed.size(2)} channels: give a checkpoint of one vHeat model'
                    )

    def guessed_size(self) -> Size:
        """Guess the size of the images that the first of the spectra is made for."""
        name, (stage, spectrum) = next(iter(self.spectra.items()))
        height, width = spectrum_size(name, spectrum.shape)
        stride = self.stem_stride * 2**stage
        return stride * height, stride * width

    def rename(self, form: str | None = None) -> tuple[dict[str, str], dict[str, str]]:
        """Decide on every tensor: the new names by the old ones, and why others are dropped."""
        if form is None:
            form = 'classification' if has_classifier(self.olds, self.prefix) else 'downstream'
        names = {
            old: mmpretrain_name(name, self.prefix, self.last_stage)
            for name, old in self.olds.items()
        }
        foreign = [*self.counters, *(old for old, new in names.items() if new is None)]
        dropped = dict.fromkeys(foreign, 'not a weight of the model')
        names = {old: new for old, new in names.items() if new is not None}
        dropped |= self._left_behind(names, form)
        names = {old: new for old, new in names.items() if old not in dropped}
        if form == 'published':
            names = {old: published_name(new, self.last_stage) for old, new in names.items()}
        elif form == 'backbone':
            names = {old: new.removeprefix(BACKBONE) for old, new in names.items()}
        for new, count in Counter(names.values()).items():
            if count > 1:
                raise UserError(
                    f'{count} tensors would be called {shown(new)}: save the model with one'
                )
        return names, dropped

    def _left_behind(self, names: Mapping[str, str], form: str) -> dict[str, str]:
        """Name what a form has no place for, and why."""

        def named(start: str) -> list[str]:
            return [old for old, new in names.items() if new.startswith(start)]

        head, norm = named('head.'), named(f'{BACKBONE}outnorm{self.last_stage}.')
        # A published classifier brings a norm of its own, beside which a backbone's may stand.
        own_norm = [old for old in norm if 'classifier.' in old]
        rivals = [old for old in norm if old not in own_norm]
        if form in ('published', 'classification'):
            if not head:
                raise UserError(
                    'no classifier (classifier.* or head.*) to keep, and none can be made of what '
                    'is there: ask for a backbone (--task downstream, --to backbone or downstream)'
                )
            reason = "the classifier's norm takes its place"
            return dict.fromkeys(rivals, reason) if own_norm else {}
        if form == 'backbone':
            others = [old for old, new in names.items() if not new.startswith(BACKBONE)]
            dropped = dict.fromkeys(others, 'not of the backbone')
            reason = 'the backbone has a norm of its own'
            return dropped | (dict.fromkeys(own_norm, reason) if rivals else {})
        if not head:
            return {}
        dropped = dict.fromkeys(own_norm or norm, 'norm of the classifier')
        return dropped | dict.fromkeys(head, 'classifier')


def _stage_of(spectrum: str) -> int:
    """Read the stage off a backbone's own name: freq_embed.2, layers.2.0.op.mixer.k."""
    return int(spectrum.split('.')[1])


def _check_size(model: _Model, source_size: Size) -> None:
    """Compare what is made for an image size with the size that was claimed."""

    def misfit(size: Size) -> tuple[str, Size, Size] | None:
        for name, (stage, spectrum) in model.spectra.items():
            expected = freq_embed_size(size, stage, model.stem_stride)
            if not made_for(name, spectrum.shape, expected):
                return name, spectrum_size(name, spectrum.shape), expected
        return None

    found = misfit(source_size)
    if found is None:
        return
    name, size, expected = found
    guess = model.guessed_size()
    hint = f'it fits --pt_size {guess[0]} {guess[1]}'
    raise UserError(
        f'source size {_times(source_size)} contradicts {name}, which is '
        f'{_times(size)}, not {_times(expected)}; '
        + (hint if misfit(guess) is None else 'no image size fits all its embeddings')
    )


def _listed(stages: set[int]) -> str:
    return str(sorted(stages)[:12])


def _times(size: Size) -> str:
    return ' x '.join(map(str, size))
