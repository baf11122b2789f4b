"""Compare the keys and shapes of two state dicts: what fits between a model and a checkpoint."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Size, Tensor

from .names import INPUT_CONV, STATISTICS
from .spectra import is_spectrum

__all__ = ['WeightsFit', 'compare_weights']

_SHOWN = 3
_STAGES_SHOWN = 4


@dataclass(frozen=True)
class WeightsFit:
    """What fits between a model and a checkpoint, and what does not.

    Attributes:
        matched: Number of keys that both have in one shape, or that the backbone fits.
        resized: Frequency embeddings and learned spectra of another height and width, which the
            backbone fits, with their shapes in the checkpoint and in the model.
        adapted: First convolution for three channels where the model takes images of others, which
            the backbone fits, with the numbers of channels in the checkpoint and in the model.
        missing: Keys that the model wants and the checkpoint lacks.
        unexpected: Keys that the checkpoint has and the model does not want.
        misshaped: Shapes in the checkpoint and in the model by key.
    """

    matched: int
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    adapted: dict[str, tuple[int, int]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def keys(self) -> list[str]:
        """All keys that do not fit."""
        return [*self.missing, *self.unexpected, *self.misshaped]

    def summary(self, shown: int = _SHOWN) -> str:
        """Count and name the keys of every kind that does not fit, at most ``shown`` of each."""
        shapes = [f'{key} {had}, not {want}' for key, (had, want) in self.misshaped.items()]
        kinds = {
            'missing': self.missing,
            'unexpected': self.unexpected,
            'of another shape': shapes,
        }
        return '; '.join(
            f'{len(found)} {kind} ({_name(found, shown)})' for kind, found in kinds.items() if found
        )

    def counts(self, shown: int = _SHOWN) -> str:
        """Count all kinds in one line, and name the keys of those that do not fit."""
        kinds = {'missing': self.missing, 'unexpected': self.unexpected}
        sizes = [f'{k} {_grid(had)} -> {_grid(want)}' for k, (had, want) in self.resized.items()]
        parts = [f'{self.matched} keys matched']
        # The stages are few, and what their embeddings were made for is worth knowing.
        parts += [f'{len(sizes)} of them resized{_list(sizes, _STAGES_SHOWN)}']
        parts += [
            f'{name} adapted from {had} to {want} input channels'
            for name, (had, want) in self.adapted.items()
        ]
        parts += [f'{len(found)} {kind}{_list(found, shown)}' for kind, found in kinds.items()]
        if self.misshaped:
            shapes = [f'{key} {had}, not {want}' for key, (had, want) in self.misshaped.items()]
            parts.append(f'{len(shapes)} of another shape{_list(shapes, shown)}')
        return ', '.join(parts)


def compare_weights(
    expected: Mapping[str, Tensor | Size],
    weights: Mapping[str, Tensor],
    ignored: tuple[str, ...] = (),
) -> WeightsFit:
    """Compare two state dicts by keys and shapes.

    Args:
        expected: State dict of the model, or the shapes of one.
        weights: State dict of the checkpoint. Frequency embeddings and learned spectra may have
            another height and width, and the first convolution may be for RGB images where the
            model's is not: the backbone fits both while it loads.
        ignored: Starts of keys that may be missing or unexpected.

    Returns:
        What fits, and what does not.
    """
    misshaped, resized, adapted = {}, {}, {}
    both = expected.keys() & weights.keys()
    for name in sorted(both):
        given, wanted = _shape(weights[name]), _shape(expected[name])
        if given == wanted:
            continue
        if is_spectrum(name, wanted) and given[2:] == wanted[2:] and len(given) > 2:
            resized[name] = given, wanted
        elif f'.{name}'.endswith(f'.{INPUT_CONV}') and _is_adaptable(given, wanted):
            adapted[name] = given[1], wanted[1]
        else:
            misshaped[name] = given, wanted

    def beyond(names: Iterable[str], others: Mapping) -> tuple[str, ...]:
        # A counter that mmengine, too, lets a checkpoint lack.
        return tuple(
            name
            for name in names
            if name not in others
            and not name.startswith(ignored)
            and not name.endswith(STATISTICS[-1])
        )

    return WeightsFit(
        matched=len(both) - len(misshaped),
        resized=resized,
        adapted=adapted,
        missing=beyond(expected, weights),
        unexpected=beyond(weights, expected),
        misshaped=misshaped,
    )


def _shape(tensor: Tensor | Size) -> tuple[int, ...]:
    return tuple(getattr(tensor, 'shape', tensor))


def _is_adaptable(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a convolution's weight takes RGB images, and is else of the shape that is wanted."""
    return given[1:2] == (3,) and given[:1] + given[2:] == wanted[:1] + wanted[2:]


def _grid(shape: tuple[int, ...]) -> str:
    return f'{shape[0]}x{shape[1]}'


def _name(keys: tuple[str, ...] | list[str], shown: int) -> str:
    return ', '.join(keys[:shown]) + ', ...' * (len(keys) > shown)


def _list(keys: tuple[str, ...] | list[str], shown: int) -> str:
    return f' ({_name(keys, shown)})' if keys else ''
