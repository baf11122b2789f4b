"""Fixes that hold for the whole process; all others are choices of the tools."""

import os
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_files

from mmvheat.checkpoint import as_mmengine_checkpoint, read_checkpoint
from mmvheat.checkpoint.io import safe_globals
from mmvheat.checkpoint.io.download import download, is_url, local_file
from mmvheat.errors import UserError

__all__ = ['apply_stack_fixes']


def load_from_local(filename: str, map_location: Any = None, mmap: bool = False) -> dict:
    """Read a file as mmengine does, safely, a published one in mmengine's form.

    Args:
        filename: Its path, of torch's or safetensors' format.
        map_location: Taken as mmengine's loaders take it, and ignored: the tensors stay on the CPU.
        mmap: See :func:`mmvheat.checkpoint.read_checkpoint`.
    """
    checkpoint = read_checkpoint(os.path.expanduser(filename), mmap)
    try:
        return as_mmengine_checkpoint(checkpoint)
    except UserError as error:
        raise UserError(f'{filename}: {error}') from error


def load_from_http(filename: str, map_location: Any = None, mmap: bool = False) -> dict:
    """Download a file, unless it is there, and read it like every file."""
    path = str(download(filename))
    try:
        return load_from_local(path, map_location, mmap)
    except UserError as error:
        raise UserError(f'{filename} was downloaded, but {error}') from error


def load_from_torchvision(filename: str, map_location: Any = None) -> dict:
    """Download and read what torchvision offers under a name."""
    return _load_named(filename, mmengine_files.get_torchvision_models())


def load_from_openmmlab(filename: str, map_location: Any = None) -> dict:
    """Download and read what OpenMMLab offers under a name, or what mmengine's folder names."""
    return _load_named(
        filename,
        mmengine_files.get_external_models(),
        mmengine_files.get_deprecated_model_names(),
    )


def load_from_mmcls(filename: str, map_location: Any = None) -> dict:
    """Download and read a backbone of mmpretrain's predecessor."""
    content = _load_named(filename, mmengine_files.get_mmcls_models())
    return mmengine_files._process_mmcls_checkpoint(content)


def load_from_pavi(filename: str, map_location: Any = None) -> dict:
    """Fetch a file from pavi's model cloud, and read it like every file."""
    try:
        from pavi import modelcloud
    except ImportError as error:
        raise UserError(f'{filename} needs pavi, which cannot be imported ({error})') from error
    model = modelcloud.get(filename.removeprefix('pavi://'))
    with TemporaryDirectory() as folder:
        path = os.path.join(folder, model.name)
        model.download(path)
        return load_from_local(path)


def load_from_ceph(filename: str, map_location: Any = None) -> dict:
    """Fetch a file from ceph, and read it like every file."""
    try:
        backend = get_file_backend(filename, backend_args={'backend': 'petrel'})
    except ImportError as error:
        raise UserError(f'{filename} needs petrel_client: {error}') from error
    with TemporaryDirectory() as folder:
        path = Path(folder, os.path.basename(filename))
        path.write_bytes(backend.get(filename))
        return load_from_local(str(path))


def _load_named(
    filename: str, addresses: dict[str, str], renamed: dict[str, str] | None = None
) -> dict:
    """Read what a list of mmengine's has under a name ``scheme://name``."""
    name = filename.partition('://')[2]
    name = (renamed or {}).get(name, name)
    if name not in addresses:
        raise UserError(f'{filename} is none of the {len(addresses)} names that mmengine knows')
    address = addresses[name]
    if not is_url(address):
        address = os.path.join(mmengine_files._get_mmengine_home(), address)
    return load_from_local(str(local_file(address)))


_LOADERS = {
    '': load_from_local,
    'http://': load_from_http,
    'https://': load_from_http,
    'modelzoo://': load_from_torchvision,
    'torchvision://': load_from_torchvision,
    'open-mmlab://': load_from_openmmlab,
    'openmmlab://': load_from_openmmlab,
    'mmcls://': load_from_mmcls,
    'pavi://': load_from_pavi,
    r'(\S+\:)?s3://': load_from_ceph,
    r'(\S+\:)?petrel://': load_from_ceph,
}


def apply_stack_fixes() -> None:
    """Let all that mmengine loads go through the one safe reader.

    That is what ``init_cfg``, ``load_from``, resume, testing and the inferencers name: files,
    addresses and every other scheme. mmengine's own loaders let torch.hub unpickle freely what
    comes from an address, and read neither safetensors nor the published code's files. What
    mmengine's checkpoints hold is also allowed for ``torch.load`` itself. Doing it twice does no
    harm.
    """
    # onedl-mmengine 0.10.12 finds configs (``mmseg::...``) of a fork by its module's name alone.
    if any(metadata.distributions(name='onedl-mmsegmentation')):
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    torch.serialization.add_safe_globals(safe_globals())
    for scheme, loader in _LOADERS.items():
        CheckpointLoader.register_scheme(scheme, loader, force=True)
