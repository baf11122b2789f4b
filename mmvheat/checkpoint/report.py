"""What a conversion did, tensor by tensor, and the short table that tells it."""

from collections import Counter
from dataclasses import dataclass

from mmvheat.errors import first_names

__all__ = ['ConversionReport']

Size = tuple[int, int]


@dataclass(frozen=True)
class ConversionReport:
    """Every tensor of the source is in `names` or in `dropped`.

    Attributes:
        names: New name of each tensor that was kept, by its old one.
        resized: Old and new height and width of each embedding that changed, by its new name.
        dropped: Why each other tensor was left behind, by its old name.
        left_out: What the file held beside the state dict that was converted.
    """

    names: dict[str, str]
    resized: dict[str, tuple[Size, Size]]
    dropped: dict[str, str]
    left_out: tuple[str, ...] = ()

    def table(self) -> str:
        """Format the report.

        Returns:
            A few aligned lines: resized, renamed, dropped, left out, and how many tensors stand.
        """
        rows = [
            ('resized', name, f'{old[0]} x {old[1]} -> {new[0]} x {new[1]}')
            for name, (old, new) in self.resized.items()
        ]
        renamed = Counter(_difference(old, new) for old, new in self.names.items() if old != new)
        rows += [
            ('renamed', f'{old}* -> {new}*', _tensors(count))
            for (old, new), count in renamed.items()
        ]
        dropped = Counter((_group(name), reason) for name, reason in self.dropped.items())
        rows += [
            ('dropped', group, f'{_tensors(count)}, {reason}')
            for (group, reason), count in dropped.items()
        ]
        if self.left_out:
            rows.append(('left out', first_names(self.left_out, 6), 'not part of this state dict'))
        kept = len(self.names) - len(self.resized)
        rows.append(('unchanged', 'all others', _tensors(kept)))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return '\n'.join(
            f'{action:{widths[0]}}  {what:{widths[1]}}  {how}' for action, what, how in rows
        )


def _difference(old: str, new: str) -> tuple[str, str]:
    """Cut off the trailing components that two names share."""
    olds, news = old.split('.'), new.split('.')
    while olds and news and olds[-1] == news[-1]:
        olds.pop()
        news.pop()
    return ''.join(f'{part}.' for part in olds), ''.join(f'{part}.' for part in news)


def _group(name: str) -> str:
    module, dot, _ = name.rpartition('.')
    return f'{module}.*' if dot else name


def _tensors(count: int) -> str:
    return '1 tensor' if count == 1 else f'{count} tensors'
