"""Unpack Fashion-MNIST, 70,000 photographs of clothes, as mmpretrain reads it."""

import argparse
import gzip
import math
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from digits.making import making
from digits.prepare import make_once

from mmvheat.cli.arguments import OneLineParser
from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

PACKAGE = '/usr/share/datasets/fashion-mnist'
# The beginning of an IDX file says its type (8: bytes), axes and sizes.
FILES = {
    'train-images-idx3-ubyte': (60000, 28, 28),
    'train-labels-idx1-ubyte': (60000,),
    't10k-images-idx3-ubyte': (10000, 28, 28),
    't10k-labels-idx1-ubyte': (10000,),
}
_ADVICE = (
    'install the Debian package dataset-fashion-mnist (or unpack it: apt-get download '
    'dataset-fashion-mnist; dpkg -x dataset-fashion-mnist_*.deb DIR), or let torchvision download '
    'it: torchvision.datasets.FashionMNIST(DIR, download=True); then give --source DIR'
)
LICENSE = (
    'Fashion-MNIST, (C) 2017 Zalando SE, https://tech.zalando.com, MIT license: '
    'https://github.com/zalandoresearch/fashion-mnist\n'
)


def find_files(source: str) -> dict[str, Path]:
    """Find the files, packed or not, in a folder or where package and torchvision put them in it.

    Raises:
        UserError: If one is missing.
    """
    root = Path(source)
    places = [root, root / 'FashionMNIST' / 'raw', root / 'raw', root / PACKAGE.lstrip('/')]
    for place in places:
        found = {
            name: next(
                (path for path in (place / name, place / f'{name}.gz') if path.is_file()), None
            )
            for name in FILES
        }
        missing = [name for name, path in found.items() if path is None]
        if not missing:
            return found
        if len(missing) < len(FILES):
            raise UserError(f'{place} has no {missing[0]}(.gz): {_ADVICE}')
    raise UserError(f'no Fashion-MNIST in {source!r}: {_ADVICE}')


def read_file(path: Path, shape: tuple[int, ...]) -> bytes:
    """Read an IDX file of bytes, unpacked if it is packed.

    Raises:
        UserError: If it is damaged, or of another shape.
    """
    try:
        content = path.read_bytes()
        if path.suffix == '.gz':
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f'{path} is damaged ({error}): {_ADVICE}') from error
    header = bytes([0, 0, 8, len(shape)])
    header += b''.join(length.to_bytes(4, 'big') for length in shape)
    expected = len(header) + math.prod(shape)
    if not content.startswith(header) or len(content) != expected:
        raise UserError(
            f'{path} is damaged or another data set: expected bytes of shape {shape}, '
            f'{expected} in all, got {len(content)}: {_ADVICE}'
        )
    return content


def prepare_fashion_mnist(
    root: str,
    source: str = PACKAGE,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the four unpacked files into the folder ``raw``, unless they are there.

    Args:
        root: The folder to make, e.g. ``data/fashion_mnist``.
        source: Where the user has them.
        force: Write them even if they are there.
        progress: Called with files done and files in all, after each.

    Returns:
        The folder, absolute.

    Raises:
        UserError: If the data are not there or damaged, or `root` holds other things.
    """

    def build(folder: Path) -> dict[str, object]:
        raw = folder / 'raw'
        raw.mkdir()
        for done, (name, path) in enumerate(find_files(source).items(), start=1):
            (raw / name).write_bytes(read_file(path, FILES[name]))
            if progress is not None:
                progress(done, len(FILES))
        (folder / 'LICENSE.txt').write_text(LICENSE)
        return {'shapes': FILES}

    return make_once(root, ('raw', 'LICENSE.txt'), 'fashion-mnist-1', build, force)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument(
        '--source', default=PACKAGE, help=f'folder with the four files, packed or not ({PACKAGE})'
    )
    parser.add_argument('--data-root', '--out', default='data/fashion_mnist', help='folder to make')
    parser.add_argument('--force', action='store_true', help='make the data even if they are there')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Make the data, or find them made."""
    args = parse_args(argv)
    with making(args.data_root, 'unpacking', 'files') as made:
        made.root = prepare_fashion_mnist(
            args.data_root, args.source, args.force, progress=made.advance
        )


if __name__ == '__main__':
    sys.exit(run_command(main))
