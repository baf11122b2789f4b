"""The command line that folds a checkpoint."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden import golden_state
from in_process import run_script

from mmvheat.checkpoint import read_checkpoint

TOOL = Path(__file__).parents[2] / 'tools/fold_for_inference.py'


@pytest.fixture
def fold(capsys):
    """Fold as the command line does, in this process: exit status, stdout, stderr."""

    def fold(*arguments) -> tuple[int, str, str]:
        try:
            status = run_script('tools/fold_for_inference.py', *arguments)
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return fold


def test_fold(tmp_path, fold):
    source, target = tmp_path / 'in.pth', tmp_path / 'out.pth'
    torch.save({'model': golden_state('tiny_like')}, source)
    status, out, err = fold(source, target, '--size', 96, 128)
    assert status == 0, err
    assert 'for 96 x 128' in out and 'inference_form=True' in out
    state = read_checkpoint(target)['state_dict']
    assert state['backbone.layers.0.0.op.k_exp'].shape[:2] == (24, 32)
    assert 'head.fc.weight' in state


def test_terminated_command_cleans_up(tmp_path):
    torch.save({'model': golden_state('tiny_like')}, tmp_path / 'in.pth')
    code = (
        'import os, runpy, signal, sys\n'
        'os.fsync = lambda _: os.kill(os.getpid(), signal.SIGTERM)\n'
        'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")\n'
    )
    argv = [sys.executable, '-c', code, str(TOOL), 'in.pth', 'out.pth', '--size', '64']
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert os.listdir(tmp_path) == ['in.pth']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['none.pth', 'out.pth', '--size', '64'], 'none.pth'),
        (['in.pth', 'out.pth', '--size', '64', '64', '3'], 'expected N or H W'),
        (['in.pth', 'out.pth', '--size', '-4'], "'-4' is not a number|expected"),
        (['in.pth', 'in.pth', '--size', '64', '--force'], 'is the source'),
    ],
)
def test_mistakes_get_one_line(tmp_path, fold, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    torch.save({'model': golden_state('tiny_like')}, 'in.pth')
    status, _, err = fold(*arguments)
    assert status == 2
    assert len(err.splitlines()) == 1 and err.startswith('error:')
    assert re.search(message, err)
    assert not Path('out.pth').exists()
