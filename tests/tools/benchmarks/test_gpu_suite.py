"""The suite for a GPU, tried out on the CPU: all parts run and leave their files."""

import json
from pathlib import Path

import pytest

SUITE = ('bash', Path(__file__).parents[3] / 'tools' / 'benchmarks' / 'gpu_suite.sh')

PARTS = (
    'heat_operator',
    'backbone',
    'resolution',
    'detection',
    'heat_operator_compiled',
    'backbone_compiled',
    'training_compiled',
)


@pytest.mark.slow
def test_all_parts_run(start, tmp_path):
    out = tmp_path / 'made' / 'here'
    done = start(*SUITE, DEVICE='cpu', QUICK='1', OUT=str(out))
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    for part in PARTS:
        assert json.loads((out / f'{part}.json').read_text())['complete']
        assert (out / f'{part}.png').stat().st_size > 5_000
        assert f'======== {part} ========' in done.stdout
    assert 'Inference over the resolution' in done.stdout
    assert f'JSON and pictures are in {out}' in done.stdout


def test_a_limit_ends_a_part_and_the_later_ones_say_so(start, tmp_path):
    done = start(*SUITE, DEVICE='cpu', QUICK='1', OUT=str(tmp_path), LIMIT='1')
    assert done.returncode == 1
    assert (tmp_path / 'heat_operator.txt').read_text().startswith('stopped after 1 s')
    assert (tmp_path / 'training_compiled.txt').read_text() == 'no time was left for it\n'


@pytest.mark.parametrize(
    ('environment', 'said'),
    [
        ({'LIMIT': 'long'}, "LIMIT is a number of seconds, got 'long'"),
        ({'DEVICE': 'tpu'}, "DEVICE is cpu or cuda[:N], got 'tpu'"),
        ({'PUBLISHED': 'nowhere'}, 'no classification/models/vHeat.py in nowhere'),
        ({}, 'torch finds no CUDA GPU: DEVICE=cpu QUICK=1'),
    ],
)
def test_mistakes_are_one_line(start, tmp_path, environment, said):
    done = start(*SUITE, OUT=str(tmp_path), **environment)
    assert done.returncode == 2
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1, done.stderr
    assert said in done.stderr
