"""A run leaves its config in its folder, and takes none away."""

from pathlib import Path

import pytest
from mmengine.config import Config
from tiny_runner import NotingModel, tiny_runner


@pytest.mark.parametrize('trains', [True, False])
@pytest.mark.parametrize('there', ['nothing', 'the config itself', "a training's"])
def test_a_config_that_says_more_stays(tmp_path: Path, there: str, trains: bool):
    work_dir, given = tmp_path / 'run', tmp_path / 'config.py'
    runner = tiny_runner(work_dir, NotingModel())
    dumped = work_dir / 'config.py'
    if there == 'the config itself':
        given = dumped
    given.write_text('mine = 1\n')
    if there == "a training's":
        dumped.write_text('theirs = 1\n')
    runner.cfg = Config.fromfile(given)
    runner.cfg.merge_from_dict({'new': 2} | ({'train_cfg': {}} if trains else {}))
    runner.dump_config()
    assert given.read_text().startswith('mine = 1\n')
    writes = there == 'nothing' or (there == "a training's" and trains)
    assert ('new = 2' in dumped.read_text()) == writes
    if there == "a training's" and not trains:
        assert dumped.read_text() == 'theirs = 1\n'
