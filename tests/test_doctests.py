"""The examples in the docstrings of the package give what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# Only these are imported: others may need what is not installed.
WITH_EXAMPLES = [
    path for path in sorted(ROOT.glob('mmvheat/**/*.py')) if '>>> ' in path.read_text()
]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


@pytest.mark.parametrize('path', WITH_EXAMPLES, ids=_name)
def test_examples(path: Path) -> None:
    result = doctest.testmod(import_module(_name(path)), extraglobs=dict(torch=torch))
    assert result.attempted and not result.failed
