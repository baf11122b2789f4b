"""Run the project's command lines in this process: a new one imports the libraries for seconds."""

import json
import sys
from contextlib import AbstractContextManager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from mmvheat.cli.command import run_command

__all__ = ['forget_runs', 'last_log', 'last_metrics', 'load_script', 'plain_layout', 'run_script']

ROOT = Path(__file__).parents[1]


def load_script(path: str) -> ModuleType:
    """Load a script of the repository, such as ``tools/train.py``, as a module."""
    spec = spec_from_file_location(f'script_{Path(path).stem}', ROOT / path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(path: str, *arguments: object) -> int:
    """Run a script's ``main`` as if nothing had run before, and return its exit status."""
    forget_runs()
    main = load_script(path).main
    with plain_layout():
        return run_command(lambda: main([str(argument) for argument in arguments]))


def plain_layout() -> AbstractContextManager:
    """Let configs be written as they come: to lay them out takes longer than a tiny training."""
    # Not for the tests that know no mmengine.
    import mmengine.config.config
    import yapf.yapflib.yapf_api

    places = (mmengine.config.config, yapf.yapflib.yapf_api)
    # The second one is where onedl-mmengine 0.10.12 looks, when it writes a config.
    place = next(place for place in places if hasattr(place, 'FormatCode'))
    return patch.object(place, 'FormatCode', lambda text, **_: (text, True))


def forget_runs() -> None:
    """Drop the loggers, visualizers and default scopes, which mmengine keeps by name."""
    if 'mmengine.utils' in sys.modules:
        kinds = [sys.modules['mmengine.utils'].ManagerMixin]
        for kind in kinds:
            kinds.extend(kind.__subclasses__())
            getattr(kind, '_instance_dict', {}).clear()


def last_log(work_dir: Path | str) -> str:
    """Read the log of the last run in a work dir."""
    return max(Path(work_dir).glob('2*/2*.log')).read_text()


def last_metrics(work_dir: Path | str) -> dict[str, float]:
    """Read the metrics of the last test in a work dir."""
    newest = max(Path(work_dir).glob('2*/2*.json'), key=lambda path: path.stat().st_mtime_ns)
    found = json.loads(newest.read_text())
    return {name: value for name, value in found.items() if not name.endswith('time')}
