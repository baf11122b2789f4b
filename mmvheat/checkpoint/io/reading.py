"""Read a checkpoint file without running what it may carry."""

import io
import mmap as memory_map
import os
import pickletools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmvheat.errors import UserError

from .container_check import LEGACY_MAGIC, ZIP_MAGIC, check_legacy, check_zip
from .refusal import AGAIN, Refusal, check_names, damaged
from .safe_globals import safe_globals
from .writing import decode_metadata

__all__ = ['about_file', 'read_checkpoint', 'shown_path']

# How much of a file that is none of ours is looked at, to say what it is.
_LOOK = 1 << 20


def read_checkpoint(path: str | os.PathLike, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; code that a pickle wants to run is refused.

    What a file says about itself is checked first (`pickle_check`, `container_check`), so that
    reading takes no more memory than four times the file, then torch reads it with
    ``weights_only=True``.

    Args:
        path: File written by torch.save (any version) or by safetensors.
        mmap: Whether to leave the tensors' data in the file until they are used, to look at keys
            and shapes alone. The file must stay as it is meanwhile. Files from before PyTorch 1.6
            are read all the same.

    Returns:
        What the file holds. A safetensors file gives its tensors under 'state_dict' and its
        metadata under 'meta', as an mmengine checkpoint does.

    Raises:
        UserError: If the file is missing, unreadable, truncated, damaged, not a checkpoint, or
            asks for anything beyond dense tensors, plain values and `safe_globals`.
    """
    path = Path(path)
    try:
        head = _first_bytes(path)
        if path.suffix == '.safetensors' or _looks_like_safetensors(head):
            return _read_safetensors(path, mmap)
        if not head.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
            raise Refusal(_what_it_is(path, head))
        return _read_torch(path, mmap and head.startswith(ZIP_MAGIC) and _is_text(path))
    except Refusal as refusal:
        raise UserError(f'{shown_path(path)} {refusal}') from refusal
    except OSError as error:
        raise UserError(f'{shown_path(path)} cannot be read: {error.strerror}') from error


def _read_torch(path: Path, mmap: bool) -> dict[str, Any]:
    with (
        path.open('rb') as file,
        memory_map.mmap(file.fileno(), 0, access=memory_map.ACCESS_READ) as data,
    ):
        if data[:4] == ZIP_MAGIC:
            check_zip(data)
        else:
            check_legacy(data)
    # What is allowed already stays out: the context would disallow it for all on its way out.
    known = torch.serialization.get_safe_globals()
    missing = [entry for entry in safe_globals() if entry not in known]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(missing):
            warnings.simplefilter('ignore')  # They say less than the error that follows them.
            checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises whatever is left that drives it into
        raise Refusal(
            f'holds no checkpoint that can be read ({_reason(error)}): save it with torch.save'
        ) from error
    if not isinstance(checkpoint, dict):
        raise Refusal(
            f'holds a {type(checkpoint).__name__}, not a checkpoint: '
            'expected a dict with a state dict in it'
        )
    return checkpoint


def _first_bytes(path: Path) -> bytes:
    """Return the start of a regular file that is not empty."""
    if path.is_dir():
        raise Refusal('is a folder: name the checkpoint file inside it')
    if not path.exists():
        raise Refusal('does not exist: check the path of the checkpoint')
    if not path.is_file():
        raise Refusal('is not a regular file: name a checkpoint file')
    with path.open('rb') as file:
        head = file.read(len(LEGACY_MAGIC))
    if not head:
        raise Refusal(f'is empty: {AGAIN}')
    return head


def _looks_like_safetensors(head: bytes) -> bool:
    """Tell a length in 8 bytes (below 100 MB, their limit) and the JSON header after it."""
    return head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= 100_000_000


def _read_safetensors(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise Refusal('needs safetensors: pip install "mmvheat[safetensors]"') from error
    if not _is_text(path):
        raise Refusal(
            'has bytes in its path that are no UTF-8, safetensors opens none such: rename it'
        )
    size = path.stat().st_size
    with path.open('rb') as file:
        header = int.from_bytes(file.read(8), 'little')
    if header <= size and header > (1 << 20) + size // 32:
        raise Refusal(f'has a header of {header} bytes in {size}, more than weights need: {AGAIN}')
    try:
        with safe_open(path, framework='pt', device='cpu') as file:
            check_names(file.keys())
            # Without a copy a tensor stays a view of the file, which may be replaced meanwhile.
            tensors = {
                name: tensor if mmap else tensor.clone()
                for name, tensor in ((name, file.get_tensor(name)) for name in file.keys())
            }
            return {'state_dict': tensors, 'meta': decode_metadata(file.metadata())}
    except Refusal:
        raise
    except Exception as error:  # its own errors, and torch's for types that torch lacks
        raise Refusal(f'is no complete safetensors file ({_reason(error)}): {AGAIN}') from error


def _what_it_is(path: Path, head: bytes) -> str:
    """Say in one line what a file is that is no checkpoint."""
    if ZIP_MAGIC.startswith(head) or LEGACY_MAGIC.startswith(head):
        return str(damaged())
    names = _pickled_globals(path)
    if names:
        return (
            f'wants to load {names[0][:100]!r}, which could run code: nothing was run; if you '
            'trust its source, save the state dict alone with torch.save and convert that'
        )
    return f'is not a checkpoint: it starts with {head!r}, expected a file of torch.save'


def _reason(error: Exception) -> str:
    """Find the one sentence that matters in torch's long advice."""
    text = str(error)
    inner = re.search(r'WeightsUnpickler error:\s*(.+)', text) or re.search(r'] \. (.+)', text)
    sentence = (inner[1] if inner else text).partition('\n')[0].partition('. ')[0]
    shown = ''.join(letter if letter.isprintable() else '?' for letter in sentence[:200])
    return shown.strip() or type(error).__name__


def shown_path(path: str | os.PathLike) -> str:
    """Give a path as one line, even one with line breaks or bytes that are no text."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


@contextmanager
def about_file(path: str | os.PathLike) -> Iterator[None]:
    """Begin messages about what a file holds with its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{shown_path(path)}: {error}') from error


def _is_text(path: Path) -> bool:
    """Whether a path is UTF-8; torch maps no other, and safetensors opens none."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _pickled_globals(path: Path) -> list[str]:
    """List what the start of a file would import if it is a pickle, without loading it."""
    with path.open('rb') as file:
        start = file.read(_LOOK)
    names: list[str] = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(start)):
            if opcode.name in ('GLOBAL', 'INST'):
                names.append(argument.replace(' ', '.'))
            elif opcode.name == 'STACK_GLOBAL':
                names.append('.'.join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, IndexError):
        return names if names and start.startswith(b'\x80') else []
    return names
