"""Checkpoints: read safely, recognise, rename, resize, write atomically; no model is built.

The names are imported when they are first used: ``python -m mmvheat.checkpoint --help`` comes here
and needs no torch.
"""

from importlib import import_module
from typing import Any

_FILES = {
    'convert': (
        'FORMS',
        'MAX_SIDE',
        'TASKS',
        'as_mmengine_checkpoint',
        'change_form',
        'classifier_state',
        'convert_state_dict',
    ),
    'describe': ('Backbone', 'Description', 'describe_checkpoint'),
    'files': ('change_file', 'convert_file', 'fold_file'),
    'fold': ('fold_state_dict',),
    'formats': ('find_state_dict',),
    'learned': ('learn_diffusivity',),
    'io': ('read_checkpoint', 'safe_globals', 'write_checkpoint'),
    'report': ('ConversionReport',),
}

__all__ = [name for names in _FILES.values() for name in names]


def __getattr__(name: str) -> Any:
    """Import a public name from its file."""
    for file, names in _FILES.items():
        if name in names:
            return getattr(import_module(f'{__name__}.{file}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
