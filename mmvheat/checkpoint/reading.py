"""Read a checkpoint file without running what it may carry."""

import os
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from .safe_globals import safe_globals

__all__ = ['read_checkpoint']

_ZIP_MAGIC = b'PK\x03\x04'
# What torch.save wrote before PyTorch 1.6: a pickled magic number, then four more pickles.
_LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'


def read_checkpoint(path: str | os.PathLike, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; code that a pickle wants to run is refused.

    Args:
        path: File written by torch.save (any version) or by safetensors.
        mmap: Whether to leave the tensors' data in the file until they are used, to look at keys
            and shapes alone. The file must stay as it is meanwhile. Files from before PyTorch 1.6
            are read all the same.

    Returns:
        What the file holds. A safetensors file gives its tensors under 'state_dict' and its
        metadata under 'meta', as an mmengine checkpoint does.

    Raises:
        ValueError: If the file is missing, unreadable, truncated, not a checkpoint, or asks for
            anything beyond tensors, plain values and `safe_globals`.
    """
    path = Path(path)
    head = _first_bytes(path)
    if path.suffix == '.safetensors' or _looks_like_safetensors(head):
        return _read_safetensors(path)
    # What is allowed already stays out: the context would disallow it for all on its way out.
    known = torch.serialization.get_safe_globals()
    missing = [entry for entry in safe_globals() if entry not in known]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(missing):
            warnings.simplefilter('ignore')  # They say less than the error that follows them.
            checkpoint = torch.load(
                path,
                map_location='cpu',
                weights_only=True,
                mmap=mmap and head.startswith(_ZIP_MAGIC),
            )
    except Exception as error:  # torch raises whatever a damaged file drives it into
        raise ValueError(f'{path} {_diagnosis(path, head, error)}') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f'{path} holds a {type(checkpoint).__name__}, not a checkpoint: '
            'expected a dict with a state dict in it'
        )
    return checkpoint


def _first_bytes(path: Path) -> bytes:
    """Return the start of a regular file that is not empty."""
    try:
        if path.is_dir():
            raise ValueError(f'{path} is a folder: name the checkpoint file inside it')
        if not path.exists():
            raise ValueError(f'{path} does not exist: check the path of the checkpoint')
        if not path.is_file():
            raise ValueError(f'{path} is not a regular file: name a checkpoint file')
        with path.open('rb') as file:
            head = file.read(len(_LEGACY_MAGIC))
    except OSError as error:
        raise ValueError(f'{path} cannot be read: {error.strerror}') from error
    if not head:
        raise ValueError(f'{path} is empty: copy or download the checkpoint again')
    return head


def _looks_like_safetensors(head: bytes) -> bool:
    """Tell a length in 8 bytes (below 100 MB, their limit) and the JSON header after it."""
    return head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= 100_000_000


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ValueError(f'{path} needs safetensors: pip install "mmvheat[safetensors]"') from error
    try:
        with safe_open(path, framework='pt', device='cpu') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return {'state_dict': tensors, 'meta': dict(file.metadata() or {})}
    except SafetensorError as error:
        raise ValueError(
            f'{path} is no complete safetensors file ({error}): copy or download it again'
        ) from error


def _diagnosis(path: Path, head: bytes, error: Exception) -> str:
    """Say in one line why torch.load refused a file, and what to do."""
    damaged = 'is truncated or damaged: copy or download it again'
    is_zip = head.startswith(_ZIP_MAGIC)
    is_legacy = head.startswith(_LEGACY_MAGIC)
    if _ZIP_MAGIC.startswith(head) or _LEGACY_MAGIC.startswith(head) and not is_legacy:
        return damaged
    if is_zip and not zipfile.is_zipfile(path):
        return damaged
    names = []
    if not is_zip:
        try:
            names = _pickled_globals(path, pickles=5 if is_legacy else 1)
        except ValueError:
            if is_legacy:
                return damaged
    refused = re.search(r'GLOBAL (\S+) (?:was not|whose module)', str(error))
    if refused:
        names = [refused[1]]
    if refused or (names and not is_legacy):
        return (
            f'wants to load {names[0]!r}, which could run code: nothing was run; if you trust its '
            'source, save the state dict alone with torch.save and convert that'
        )
    if is_legacy and (isinstance(error, EOFError) or 'unexpected EOF' in str(error)):
        return damaged
    if is_zip or is_legacy:
        return f'holds no checkpoint that can be read ({_reason(error)}): save it with torch.save'
    return f'is not a checkpoint: it starts with {head!r}, expected a file of torch.save'


def _reason(error: Exception) -> str:
    """Find the one sentence that matters in torch's long advice."""
    text = str(error)
    inner = re.search(r'WeightsUnpickler error:\s*(.+)', text) or re.search(r'] \. (.+)', text)
    sentence = (inner[1] if inner else text).partition('\n')[0].partition('. ')[0]
    return sentence or type(error).__name__


def _pickled_globals(path: Path, pickles: int) -> list[str]:
    """List what the first pickles of a file would import, without loading them.

    Raises:
        ValueError: If the file ends, or stops being a pickle, before their end.
    """
    names: list[str] = []
    with path.open('rb') as file:
        for _ in range(pickles):
            strings: list[str] = []
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == 'GLOBAL':
                    names.append(argument.replace(' ', '.'))
                elif opcode.name == 'STACK_GLOBAL':
                    names.append('.'.join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    return names
