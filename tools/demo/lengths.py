"""The two lengths of the demo: their configs, their times, and what they must reach."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ['FULL', 'SHORT', 'Length', 'length_of']

_CONFIGS = Path('configs', 'demo')


@dataclass(frozen=True)
class Length:
    """How long the demo trains.

    Attributes:
        classifier: Config of the pretraining, relative to the clone.
        detector: Config of Mask R-CNN.
        segmentor: Config of UperNet.
        minutes: What a run takes on two CPU cores.
        scratch_minutes: What a run without pretraining takes.
        floors: The least that each figure must be; docs/demo.md has the seeds behind them.
        least_gain: Points of mIoU that pretraining must bring.
        command: What makes the pretrained run.
    """

    classifier: Path
    detector: Path
    segmentor: Path
    minutes: int
    scratch_minutes: int
    floors: dict[str, float]
    least_gain: float
    command: str


SHORT = Length(
    classifier=_CONFIGS / 'vheat-mini_2xb16-700i_digits-64x64.py',
    detector=_CONFIGS / 'mask-rcnn_vheat-mini_fpn_2xb4-300i_digit-scenes.py',
    segmentor=_CONFIGS / 'vheat-mini_upernet_2xb4-300i_digit-scenes-128x128.py',
    minutes=5,
    scratch_minutes=4,
    floors={'top-1': 78.0, 'box AP': 45.0, 'mask AP': 47.0, 'mIoU': 41.0},
    least_gain=10.0,
    command='make demo',
)
FULL = Length(
    classifier=_CONFIGS / 'vheat-mini_2xb16-3000i_digits-64x64.py',
    detector=_CONFIGS / 'mask-rcnn_vheat-mini_fpn_2xb4-1200i_digit-scenes.py',
    segmentor=_CONFIGS / 'vheat-mini_upernet_2xb4-600i_digit-scenes-128x128.py',
    minutes=11,
    scratch_minutes=7,
    floors={'top-1': 93.0, 'box AP': 62.0, 'mask AP': 66.0, 'mIoU': 64.0},
    least_gain=10.0,
    command='make demo FULL=1',
)


def length_of(full: bool) -> Length:
    """Choose the length."""
    return FULL if full else SHORT
