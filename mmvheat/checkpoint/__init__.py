"""Checkpoints: read safely, recognise, rename, resize, write atomically; no model is built."""

from .convert import (
    FORMS,
    MAX_SIDE,
    TASKS,
    as_mmengine_checkpoint,
    change_form,
    convert_state_dict,
)
from .describe import Backbone, Description, describe_checkpoint
from .files import change_file, convert_file, fold_file
from .fold import fold_state_dict
from .formats import find_state_dict
from .io import read_checkpoint, safe_globals, write_checkpoint
from .report import ConversionReport

__all__ = [
    'FORMS',
    'MAX_SIDE',
    'TASKS',
    'Backbone',
    'ConversionReport',
    'Description',
    'as_mmengine_checkpoint',
    'change_file',
    'change_form',
    'convert_file',
    'convert_state_dict',
    'describe_checkpoint',
    'find_state_dict',
    'fold_file',
    'fold_state_dict',
    'read_checkpoint',
    'safe_globals',
    'write_checkpoint',
]
