"""What the parsers know of the rooms that they do not import."""

from mmvheat import checkpoint, ops
from mmvheat.cli import arguments


def test_choices_are_those_of_the_functions():
    assert arguments.MODES == ops.FREQ_EMBED_MODES
    assert arguments.TASKS == checkpoint.TASKS
    assert arguments.MAX_SIDE == checkpoint.MAX_SIDE
