"""The published parameters and FLOPs, from the metafiles beside the configs."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from mmvheat.errors import UserError

__all__ = ['PublishedModel', 'read_published']


@dataclass(frozen=True)
class PublishedModel:
    """A row of the published tables.

    Attributes:
        name: Name of the config.
        config: Its path in the repository.
        parameters: Reported number of parameters.
        flops: Reported multiply-adds.
    """

    name: str
    config: str
    parameters: float
    flops: float


def read_published(configs: Path) -> list[PublishedModel]:
    """Read the rows whose parameters and FLOPs were reported, in the metafiles' order.

    Args:
        configs: Folder with a ``metafile.yml`` in its subfolders.

    Raises:
        UserError: If there is none.
    """
    files = sorted(configs.glob('*/metafile.yml'))
    if not files:
        raise UserError(f'{configs} has no metafile.yml in a subfolder: give the configs folder')
    models = [model for file in files for model in yaml.safe_load(file.read_text())['Models']]
    return [
        PublishedModel(
            model['Name'],
            model['Config'],
            model['Metadata']['Parameters'],
            model['Metadata']['FLOPs'],
        )
        for model in models
        if 'FLOPs' in model['Metadata']
    ]
