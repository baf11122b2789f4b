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
from dataclasses import asdict
from pathlib import Path

from commands import run_command
from lengths import length_of
from progress import StepProgress
from report import Outcome, load_reference, report, table_of
from rich.console import Console

from mmvheat.cli import command
from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.config import writable_folder

TOP = Path(__file__).resolve().parents[2]
sys.path.append(str(TOP / 'tools'))
DATA = TOP / 'data' / 'digits'
PROCESSES = '2'
# The pictures of the report, in its order: heading and caption by name.
PICTURES = {
    'mask-rcnn': ('Mask R-CNN', 'Validation scenes, the truth, and what the detector found.'),
    'upernet': ('UperNet', 'Validation scenes, the truth, and what the segmentor made of them.'),
    'heat': (
        'Heat of a digit',
        "How heat spreads from a pixel of a digit in the last block of each stage of UperNet's "
        'backbone; t = 1 is what the block does.',
    ),
    'diffusivity': (
        'Diffusivity',
        'What the last block of each stage learned for each frequency, by groups of channels: '
        'a large k lets heat of this frequency fade fast.',
    ),
    'losses': ('Losses', 'The loss of each training over its iterations.'),
}


class Demo:
    """One run of the demo.

    Args:
        work_dir: Folder of all its output.
        scratch: Train downstream without the pretrained backbone.
        seed: Seed of all trainings.
        full: Train longer, to better figures.
        console: Where progress goes.
    """

    def __init__(
        self, work_dir: Path, scratch: bool, seed: int, full: bool, console: Console
    ) -> None:
        self.work_dir = work_dir
        self.outcome = Outcome(scratch, seed, full)
        self.length = length_of(full)
        self.console = console
        self._steps = 7 if scratch else 10
        self._number = 0
        self._converted = work_dir / 'vheat-mini_digits_128px.pth'

    def run(self) -> Outcome:
        """Do all steps and keep the outcome."""
        figures, length = self.outcome.figures, self.length
        with self._step('Draw digits and scenes', 'data'):
            self._prepare()
        if not self.outcome.scratch:
            classifier = self._train(
                'Pretrain a classifier on single digits', length.classifier, 'cls'
            )
            logged = self._test('Test the classifier', length.classifier, classifier, 'cls-test')
            figures['top-1'] = logged['accuracy/top1']
            self._convert(classifier)

        detector = self._train('Train Mask R-CNN on scenes', length.detector, 'det')
        logged = self._test('Test Mask R-CNN', length.detector, detector, 'det-test')
        figures['box AP'] = 100 * logged['coco/bbox_mAP']
        figures['mask AP'] = 100 * logged['coco/segm_mAP']

        segmentor = self._train('Train UperNet on scenes', length.segmentor, 'seg')
        logged = self._test('Test UperNet', length.segmentor, segmentor, 'seg-test')
        figures['mIoU'] = logged['mIoU']
        title = 'Test UperNet with test-time augmentation'
        logged = self._test(title, length.segmentor, segmentor, 'seg-tta', '--tta')
        figures['mIoU (TTA)'] = logged['mIoU']

        with self._step('Draw predictions, heat, diffusivity and losses', 'pictures') as log:
            self._draw(segmentor, log)
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
        """Make the data, unless they are there, and show some."""
        from digits import prepare_digits
        from pictures import draw_data

        with StepProgress(self.console, 'images') as progress:
            prepare_digits(DATA, progress=progress.update)
        picture = draw_data(DATA, self.work_dir / 'data.png')
        self.console.print(f'      picture of digits and scenes: {picture}', highlight=False)

    def _train(self, title: str, config: Path, name: str) -> Path:
        """Train through ``dist_train.sh``; return the last checkpoint."""
        folder = self.work_dir / name
        options = [f'randomness.seed={self.outcome.seed}']
        if config != self.length.classifier:
            options.append(
                'model.backbone.init_cfg=None'
                if self.outcome.scratch
                else f'model.backbone.init_cfg.checkpoint={self._converted}'
            )
        command = ['bash', 'tools/dist_train.sh', str(config), PROCESSES]
        command += ['--work-dir', str(folder), '--cfg-options', *options]
        with self._step(title, name) as log:
            run_command(command, TOP, log, self.console)
        return Path((folder / 'last_checkpoint').read_text().strip())

    def _test(
        self, title: str, config: Path, checkpoint: Path, name: str, *flags: str
    ) -> dict[str, float]:
        """Test through ``dist_test.sh``, keep the predictions, return the figures it logged."""
        folder = self.work_dir / name
        command = ['bash', 'tools/dist_test.sh', str(config), str(checkpoint)]
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

    def _draw(self, segmentor: Path, log: Path) -> None:
        """Draw predictions beside the truth, and what the segmentor's backbone does."""
        from page import draw_curves
        from pictures import draw_detections, draw_segmentations, largest_instance

        scenes, folder = DATA / 'scenes', self.work_dir
        truth = scenes / 'annotations' / 'instances_val.json'
        draw_detections(folder / 'det-test' / 'predictions.pkl', truth, folder / 'mask-rcnn.png')
        predictions = folder / 'seg-test' / 'predictions.pkl'
        draw_segmentations(predictions, scenes / 'val' / 'masks', folder / 'upernet.png')
        runs = {'classifier': 'cls', 'Mask R-CNN': 'det', 'UperNet': 'seg'}
        if self.outcome.scratch:
            del runs['classifier']
        draw_curves({title: folder / name for title, name in runs.items()}, folder / 'losses.png')

        file, pixel = largest_instance(truth)
        image = str(scenes / 'val' / 'images' / file)
        for kind, *options in (('heat', image, '--pixel', *map(str, pixel)), ('diffusivity',)):
            command = [sys.executable, 'tools/visualize.py', kind, str(self.length.segmentor)]
            command += [str(segmentor), *options, '--out-dir', str(folder / kind)]
            run_command(command, TOP, log, self.console)
            (drawn,) = (folder / kind).glob('*.png')
            drawn.replace(folder / f'{kind}.png')
            (folder / kind).rmdir()
        self.outcome.pictures = [str(folder / f'{name}.png') for name in PICTURES]


def write_report(
    outcome: Outcome, reference: Outcome | None, below: list[str], work_dir: Path
) -> Path:
    """Write what a run ended with as a page."""
    from page import Picture, write_page

    pictures = [Picture(Path(path), *PICTURES[Path(path).stem]) for path in outcome.pictures]
    kind = 'from scratch' if outcome.scratch else 'pretrained'
    about = f'Seed {outcome.seed}, {sum(outcome.seconds.values()):.0f} s in all.'
    table = table_of(outcome, reference)
    page = work_dir / 'report.html'
    return write_page(page, f'mmvheat demo, {kind}', about, table, below, pictures)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument(
        '--scratch', action='store_true', help='train downstream without the pretrained backbone'
    )
    parser.add_argument('--full', action='store_true', help='train longer, to better figures')
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
        writable_folder(str(work_dir), '--work-dir')
        length = length_of(args.full)
        minutes = length.scratch_minutes if args.scratch else length.minutes
        console.print(
            f'About {minutes} minutes on two CPU cores; Ctrl-C stops it.', highlight=False
        )
        outcome = Demo(work_dir, args.scratch, args.seed, args.full, console).run()
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f'the logs are in {work_dir / "logs"}') from stop
    reference = load_reference(top / 'pretrained' / 'results.json', args.seed, args.full)
    reference = reference if args.scratch else None
    below = report(outcome, reference, console)
    console.print(f'Report with pictures: {write_report(outcome, reference, below, work_dir)}')
    for line in below:
        print(f'error: {line}', file=sys.stderr)
    return 1 if below else 0


if __name__ == '__main__':
    sys.exit(command.run_command(main))
