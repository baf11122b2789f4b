"""Download a checkpoint: once, whole and checked, so that it can be read as a file."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch

from mmvheat.errors import UserError

__all__ = ['download', 'is_url', 'local_file']

_CHUNK = 1 << 20
_SECONDS_OF_SILENCE = 60.0
# A name that ends in the start of its content's SHA-256, as OpenMMLab and torch.hub write it.
_HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+')


def is_url(source: str | os.PathLike) -> bool:
    """Whether a name is an address that :func:`download` takes."""
    return str(source).lower().startswith(('http://', 'https://'))


def local_file(source: str | os.PathLike) -> Path:
    """Find the file that a name stands for: a path, or an address that is downloaded.

    Args:
        source: Path, or address as of :func:`download`.

    Returns:
        The path of the file. That it exists is only certain for an address.

    Raises:
        UserError: If it cannot be downloaded.
    """
    return download(str(source)) if is_url(source) else Path(source)


def download(url: str, folder: str | os.PathLike | None = None) -> Path:
    """Download a file, unless it is there, and show people how far it is.

    The file appears when it is whole and its content fits the hash in its name, if that has one
    (``-1a2b3c4d.pth``). Of several processes that want it, with or without ``torch.distributed``,
    one downloads and the others wait. Names without a hash say nothing of their content: each such
    address has a folder of its own, so that the ``epoch_12.pth`` of one is not taken for another's.

    Args:
        url: Address, http or https.
        folder: Where files are kept; torch.hub's folder of checkpoints, as mmengine has it, if
            None.

    Returns:
        The path of the file.

    Raises:
        UserError: If there is no such file, no answer, no space, or another content than the name
            says. Nothing is left behind then.
    """
    try:
        name = Path(urlsplit(url).path).name
    except ValueError as error:
        raise UserError(f'{url} is no address ({error}): check it') from error
    if not name:
        raise UserError(f'{url} names no file: give the address of a checkpoint')
    home = Path(folder or Path(torch.hub.get_dir(), 'checkpoints'))
    wanted = _hash_in(name)
    if not wanted:
        home /= hashlib.sha256(url.encode()).hexdigest()[:16]
    target = home / name
    if target.is_file():
        return target
    with _disk(url, home):
        home.mkdir(parents=True, exist_ok=True)
    # Imported late, as few need them; torch and mmengine bring them along.
    from filelock import FileLock

    lock = home / f'.{name}.lock'
    with _disk(url, home), FileLock(lock):
        try:
            if not target.is_file():  # Another process may have been faster.
                _download(url, target, wanted)
        finally:
            lock.unlink(missing_ok=True)  # Those who wait for it notice, and make it anew.
    return target


def _download(url: str, target: Path, wanted: str) -> None:
    """Download into another name, which a killed process leaves and the next one replaces."""
    draft = target.with_name(f'.{target.name}.part')
    request = Request(url, headers={'User-Agent': 'mmvheat'})
    try:
        with draft.open('wb') as file:
            with _network(url):
                response = urlopen(request, timeout=_SECONDS_OF_SILENCE)
            with response:
                found = _copy(url, response, file, target.name)
            file.flush()
            os.fsync(file.fileno())
        if not found.startswith(wanted):
            raise UserError(
                f'{url} is damaged or another file: its SHA-256 starts with '
                f'{found[: len(wanted)]}, its name says {wanted}; ask where it comes from'
            )
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _copy(url: str, response: Any, file: BinaryIO, name: str) -> str:
    """Copy the content, with progress on a terminal; return its SHA-256."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    length = response.headers.get('Content-Length')
    size = int(length) if length and length.isdecimal() else None
    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn())
    columns += (TransferSpeedColumn(), TextColumn('left'), TimeRemainingColumn())
    digest, done = hashlib.sha256(), 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f'Downloading {name}', total=size)
        while True:
            with _network(url):
                chunk = response.read(_CHUNK)
            if not chunk:
                break
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress.update(task, completed=done)
    if size is not None and done != size:
        raise UserError(f'{url} ended after {done} of {size} bytes: try again')
    return digest.hexdigest()


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Say in one line what is wrong between here and the server."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise UserError(
            f'{url} cannot be downloaded: the server answers {error.code} {error.reason}; '
            'check the address'
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', None) or error
        text = getattr(reason, 'strerror', None) or str(reason) or type(reason).__name__
        raise UserError(
            f'{url} cannot be reached ({text}): check the address and the network, or download it '
            'by other means and give the path of the file'
        ) from error


@contextmanager
def _disk(url: str, folder: Path) -> Iterator[None]:
    """Say in one line what is wrong with the place that a file goes to."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f'{url} cannot be kept in {folder} ({error.strerror}): free some space there, or let '
            'the environment variable TORCH_HOME name another folder'
        ) from error


def _hash_in(name: str) -> str:
    """Find the hash in a file's name, '' if there is none."""
    found = _HASH.search(name)
    if not found or _is_date(found[1]):
        return ''
    return found[1]


def _is_date(digits: str) -> bool:
    if len(digits) != 8 or not digits.isdecimal() or not digits.startswith(('19', '20')):
        return False
    try:
        return bool(datetime.strptime(digits, '%Y%m%d'))
    except ValueError:
        return False
