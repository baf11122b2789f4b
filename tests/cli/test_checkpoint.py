"""The command line that looks at checkpoints and converts them."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from checkpoint_kinds import CLASSES, every_kind, mmengine, mmpretrain, published

from mmvheat.checkpoint import read_checkpoint
from mmvheat.cli.checkpoint import main
from mmvheat.cli.command import run_command


def run(capsys, *argv):
    """Run the command in this process."""
    try:
        status = run_command(lambda: main([str(word) for word in argv]))
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'in.pth'
    torch.save({'model': published(), 'config': {'a': 1}, 'epoch': 299}, path)
    return path


def test_as_a_process(source, tmp_path):
    command = [sys.executable, '-m', 'mmvheat.checkpoint']
    done = subprocess.run([*command, 'inspect', source], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    for says in (
        r'size +\d+\.\d kB \([\d,]+ bytes\)',
        f'sha256 +{hashlib.sha256(source.read_bytes()).hexdigest()}',
        'what +published classification checkpoint with its config',
        'entries +model: .* tensors, config: 1 entries, epoch: 299',
        'recorded +epoch 299',
        'model +classifier, 10 classes',
        'backbone +vHeat: depths 1, 1, 2, 1; dims 8, 16, 32, 64; MLP ratio 4; no layer scale; '
        'post_norm cannot be told',
        'form +training form',
        'images +64 x 64 .*61 to 64 x 61 to 64',
        'fits none of our configs',
    ):
        assert re.search(says, done.stdout), says
    argv = ['convert', source, tmp_path / 'out.safetensors', '--to', 'mmpretrain', '--size', '96']
    done = subprocess.run([*command, *argv], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'classifier.0.* -> backbone.outnorm3.*' in done.stdout
    assert done.stdout.splitlines()[-1] == f'wrote {tmp_path / "out.safetensors"}'
    state = read_checkpoint(tmp_path / 'out.safetensors')['state_dict']
    assert state.keys() == mmpretrain().keys()
    assert state['backbone.freq_embed.0'].shape == (24, 24, 8)


@pytest.mark.parametrize('kind', every_kind())
def test_json_says_the_same_of_every_kind(capsys, tmp_path, kind):
    checkpoint, key, origin, model = every_kind()[kind]
    path = tmp_path / 'x.pth'
    torch.save(checkpoint, path)
    more = ['--key', key] if key else []
    status, out, err = run(capsys, 'inspect', path, *more, '--json')
    record = json.loads(out)
    assert (status, err) == (0, '')
    assert (record['origin'], record['kind'], record['arch']) == (origin, model, None)
    assert record['bytes'] == path.stat().st_size
    assert record['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    status, out, _ = run(capsys, 'inspect', path, *more)
    assert status == 0 and origin in out and model in out
    assert ('folded for inference, this size alone' in out) == ('folded' in kind)
    assert ('those of wrappers for training' in out) == record['wrappers']


def test_averages_and_classes_are_named(capsys, tmp_path):
    torch.save(mmengine(mmpretrain()), tmp_path / 'x.pth')
    _, out, _ = run(capsys, 'inspect', tmp_path / 'x.pth')
    assert "'state_dict' is the average, 'ema_state_dict' the raw weights" in out
    assert f'10 classes ({", ".join(CLASSES[:4])} and 6 more)' in out
    assert 'epoch 12, iteration 345' in out


def test_other_models_are_no_error(capsys, tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / 'x.pth')
    status, out, _ = run(capsys, 'inspect', tmp_path / 'x.pth')
    assert status == 0 and 'no vHeat that can be told: another model than vHeat' in out
    assert 'bare state dict' in out and 'configs' not in out


def test_a_look_leaves_the_tensors_in_the_file(tmp_path, monkeypatch, capsys):
    import mmvheat.cli.inspection as command

    torch.save({'model': published()}, tmp_path / 'x.pth')
    asked = []

    def reading(path, mmap=False):
        asked.append(mmap)
        return read_checkpoint(path, mmap)

    monkeypatch.setattr(command, 'read_checkpoint', reading)
    assert run(capsys, 'inspect', tmp_path / 'x.pth')[0] == 0
    assert asked == [True]


@pytest.mark.parametrize(
    'argv, says',
    [
        (['inspect', 'none.pth'], 'none.pth does not exist'),
        (['inspect', '.'], 'is a folder'),
        (['inspect', 'text.pth'], "text.pth is not a checkpoint: it starts with b'hello'"),
        (['inspect', 'in.pth', '--key', 'ema'], "in.pth: key 'ema' is not in it.*--key: model"),
        (['inspect', 'in.pth', '--key', 'epoch'], "'epoch' holds no state dict"),
        (['inspect', 'empty.pth'], 'empty.pth: no state dict'),
        (['inspect'], 'required: FILE'),
        ([], 'required: COMMAND'),
        (['look', 'in.pth'], "invalid choice: 'look'"),
        (['convert', 'in.pth', 'out.pth'], 'required: --to'),
        (['convert', 'in.pth', 'out.pth', '--to', 'x'], "invalid choice: 'x'"),
        (['convert', 'in.pth', 'in.pth', '--to', 'backbone'], 'in.pth exists: give --force'),
        (
            ['convert', 'in.pth', 'out.pth', '--to', 'backbone', '--size', '0'],
            "'0' is not a number",
        ),
        (
            ['convert', 'in.pth', 'out.pth', '--to', 'downstream', '--pt_size', '224'],
            'source size 224 x 224 contradicts',
        ),
        (['convert', 'empty.pth', 'out.pth', '--to', 'backbone'], 'empty.pth: no state dict'),
        (['convert', 'in.pth', 'none/out.pth', '--to', 'backbone'], 'make the folder'),
    ],
)
def test_mistakes_are_one_line(capsys, source, tmp_path, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.pth').write_text('hello')
    torch.save({'epoch': 3}, 'empty.pth')
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir()}
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, '')
    assert err.startswith('error: ') and err.count('\n') == 1
    assert re.search(says, err)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir()} == before
