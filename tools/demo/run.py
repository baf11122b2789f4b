"""The whole road on real handwritten digits: pretrain, convert, train and test downstream.

Ends with a table of the figures, pictures of predictions, and status 1 if a figure is below its
floor.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from commands import CommandFailed, run_command
from progress import StepProgress
from rich.console import Console
from rich.table import Table

from mmvheat.command_line import OneLineParser
from mmvheat.datasets import prepare_digits

TOP = Path(__file__).resolve().parents[2]
CONFIGS = TOP / 'configs' / 'demo'
CLASSIFIER = CONFIGS / 'vheat-mini_2xb16-1500i_digits-64x64.py'
DETECTOR = CONFIGS / 'mask-rcnn_vheat-mini_fpn_2xb4-1400i_digit-scenes.py'
SEGMENTOR = CONFIGS / 'vheat-mini_upernet_2xb4-1000i_digit-scenes-128x128.py'

PROCESSES = '2'
# From three seeds of docs/demo.md: what a sound checkout does not fall below.
FLOORS = {'top-1': 93.0, 'box AP': 62.0, 'mask AP': 66.0, 'mIoU': 64.0}
LEAST_GAIN = 10.0


@dataclass
class Outcome:
    """What a demo run ended with; kept as ``results.json`` beside the run."""

    scratch: bool
    seed: int
    figures: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)


class Demo:
    """One run of the demo.

    Args:
        work_dir: Folder of all its output.
        scratch: Train downstream without the pretrained backbone.
        seed: Seed of all trainings.
        console: Where progress goes.
    """

    def __init__(self, work_dir: Path, scratch: bool, seed: int, console: Console) -> None:
        self.work_dir = work_dir
        self.outcome = Outcome(scratch, seed)
        self.console = console
        self._steps = 7 if scratch else 10
        self._number = 0
        self._converted = work_dir / 'vheat-mini_digits_128px.pth'

    def run(self) -> Outcome:
        """Do all steps and keep the outcome."""
        figures = self.outcome.figures
        with self._step('Draw digits and scenes', 'data'):
            self._prepare()
        if not self.outcome.scratch:
            classifier = self._train('Pretrain a classifier on single digits', CLASSIFIER, 'cls')
            logged = self._test('Test the classifier', CLASSIFIER, classifier, 'cls-test')
            figures['top-1'] = logged['accuracy/top1']
            self._convert(classifier)

        detector = self._train('Train Mask R-CNN on scenes', DETECTOR, 'det')
        logged = self._test('Test Mask R-CNN', DETECTOR, detector, 'det-test')
        figures['box AP'] = 100 * logged['coco/bbox_mAP']
        figures['mask AP'] = 100 * logged['coco/segm_mAP']

        segmentor = self._train('Train UperNet on scenes', SEGMENTOR, 'seg')
        logged = self._test('Test UperNet', SEGMENTOR, segmentor, 'seg-test')
        figures['mIoU'] = logged['mIoU']
        title = 'Test UperNet with test-time augmentation'
        logged = self._test(title, SEGMENTOR, segmentor, 'seg-tta', '--tta')
        figures['mIoU (TTA)'] = logged['mIoU']

        with self._step('Draw predictions', 'pictures'):
            self._draw()
        result = json.dumps(asdict(self.outcome), indent=2)
        (self.work_dir / 'results.json').write_text(result + '\n')
        return self.outcome

    @contextmanager
    def _step(self, title: str, name: str) -> Iterator[Path]:
        """Announce a step and take its time; yields the log file it may write."""
        self._number += 1
        number = f'[{self._number}/{self._steps}]'
        self.console.print(f'{number} {title}', style='bold', markup=False, highlight=False)
        log = self.work_dir / 'logs' / f'{self._number:02d}-{name}.log'
        began = time.perf_counter()
        yield log
        seconds = time.perf_counter() - began
        self.outcome.seconds[name] = seconds
        written = f', log: {log}' if log.exists() else ''
        self.console.print(f'      done in {seconds:.0f} s{written}', highlight=False)

    def _prepare(self) -> None:
        """Make the data, unless they are there."""
        with StepProgress(self.console, 'images') as progress:
            prepare_digits(TOP / 'data' / 'digits', progress=progress.update)

    def _train(self, title: str, config: Path, name: str) -> Path:
        """Train through ``dist_train.sh``; return the last checkpoint."""
        folder = self.work_dir / name
        options = [f'randomness.seed={self.outcome.seed}']
        if config != CLASSIFIER and self.outcome.scratch:
            # Untrained weights want the full learning rate.
            options += [
                'model.backbone.init_cfg=None',
                'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=1.0',
            ]
        elif config != CLASSIFIER:
            options.append(f'model.backbone.init_cfg.checkpoint={self._converted}')
        command = ['bash', 'tools/dist_train.sh', str(config.relative_to(TOP)), PROCESSES]
        command += ['--work-dir', str(folder), '--cfg-options', *options]
        with self._step(title, name) as log:
            run_command(command, TOP, log, self.console)
        return Path((folder / 'last_checkpoint').read_text().strip())

    def _test(
        self, title: str, config: Path, checkpoint: Path, name: str, *flags: str
    ) -> dict[str, float]:
        """Test through ``dist_test.sh``, keep the predictions, return the figures it logged."""
        folder = self.work_dir / name
        command = ['bash', 'tools/dist_test.sh', str(config.relative_to(TOP)), str(checkpoint)]
        command += [PROCESSES, '--work-dir', str(folder)]
        command += ['--out', str(folder / 'predictions.pkl'), *flags]
        with self._step(title, name) as log:
            run_command(command, TOP, log, self.console)
        (logged,) = folder.glob('*/*.json')
        return json.loads(logged.read_text())

    def _convert(self, classifier: Path) -> None:
        """Fit the classifier's frequency embeddings to the size of the scenes."""
        command = [sys.executable, 'interpolate4downstream.py', '--pt_pth', str(classifier)]
        command += ['--pt_size', '64', '--tg_pth', str(self._converted), '--tg_size', '128']
        with self._step('Convert its checkpoint from 64 to 128 pixels', 'convert') as log:
            run_command(command, TOP, log, self.console)

    def _draw(self) -> None:
        """Draw predictions beside the truth."""
        from pictures import draw_detections, draw_segmentations

        scenes = TOP / 'data' / 'digits' / 'scenes'
        pictures = [
            draw_detections(
                self.work_dir / 'det-test' / 'predictions.pkl',
                scenes / 'annotations' / 'instances_val.json',
                self.work_dir / 'mask-rcnn.png',
            ),
            draw_segmentations(
                self.work_dir / 'seg-test' / 'predictions.pkl',
                scenes / 'val' / 'masks',
                self.work_dir / 'upernet.png',
            ),
        ]
        self.outcome.pictures = [str(path) for path in pictures]


def report(outcome: Outcome, reference: Outcome | None, console: Console) -> list[str]:
    """Print the table and say what is below its floor.

    Args:
        outcome: The run.
        reference: For a run from scratch, the pretrained one to compare with.
        console: Where to print.

    Returns:
        One line for every figure that is below its floor.
    """
    figures, seconds = outcome.figures, outcome.seconds
    table = Table(title='from scratch' if outcome.scratch else 'mmvheat demo')
    table.add_column('figure')
    table.add_column('from scratch' if outcome.scratch else 'value', justify='right')
    table.add_column('pretrained' if outcome.scratch else 'floor', justify='right')
    table.add_column('training', justify='right')
    table.add_column('testing', justify='right')
    runs = {
        'top-1': ('cls', 'cls-test'),
        'box AP': ('det', 'det-test'),
        'mask AP': ('det', 'det-test'),
        'mIoU': ('seg', 'seg-test'),
        'mIoU (TTA)': ('seg', 'seg-tta'),
    }
    floors = FLOORS | {'mIoU (TTA)': figures['mIoU']}
    beside = (reference.figures if reference else {}) if outcome.scratch else floors
    for name, value in figures.items():
        training, testing = (f'{seconds[run]:.0f} s' for run in runs[name])
        other = f'{beside[name]:.1f}' if name in beside else '-'
        table.add_row(name, f'{value:.1f}', other, training, testing)
    console.print(table)
    console.print(f'{sum(seconds.values()):.0f} s in all')
    for picture in outcome.pictures:
        console.print(f'picture: {picture}', highlight=False, soft_wrap=True)

    if not outcome.scratch:
        return [
            f'{name} is {figures[name]:.1f}, below its floor of {floor:.1f}'
            for name, floor in floors.items()
            if figures[name] < floor
        ]
    if reference is None:
        console.print('`make demo` gives the figures with pretraining to compare with')
        return []
    gain = reference.figures['mIoU'] - figures['mIoU']
    console.print(f'pretraining and conversion bring {gain:.1f} points of mIoU')
    if gain < LEAST_GAIN:
        return [f'pretraining brings {gain:.1f} points of mIoU, expected {LEAST_GAIN:.0f} or more']
    return []


def load_reference(path: Path, seed: int) -> Outcome | None:
    """Read the pretrained run of the same seed that a run from scratch compares with."""
    if not path.is_file():
        return None
    outcome = Outcome(**json.loads(path.read_text()))
    return outcome if outcome.seed == seed else None


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument(
        '--scratch', action='store_true', help='train downstream without the pretrained backbone'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of all trainings (0)')
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=TOP / 'work_dirs' / 'demo',
        help='folder for the output (work_dirs/demo)',
    )
    args = parser.parse_args(argv)
    console = Console(soft_wrap=True)
    top = args.work_dir.absolute()
    work_dir = top / ('scratch' if args.scratch else 'pretrained')
    try:
        if work_dir.exists():
            console.print(f'Removing the last run in {work_dir}', highlight=False)
            shutil.rmtree(work_dir)
        work_dir.mkdir(parents=True)
        console.print('About 10 minutes on two CPU cores; Ctrl-C stops it.', highlight=False)
        outcome = Demo(work_dir, args.scratch, args.seed, console).run()
    except (CommandFailed, OSError, ValueError, ImportError) as failure:
        print(f'error: {failure}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'error: interrupted; the logs are in {work_dir / "logs"}', file=sys.stderr)
        return 130
    reference = load_reference(top / 'pretrained' / 'results.json', args.seed)
    below = report(outcome, reference if args.scratch else None, console)
    for line in below:
        print(f'error: {line}', file=sys.stderr)
    return 1 if below else 0


if __name__ == '__main__':
    sys.exit(main())
