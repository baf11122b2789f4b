import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden import golden_npz, golden_state
from in_process import load_script

from mmvheat.checkpoint import read_checkpoint
from mmvheat.cli.command import run_command

SCRIPT = Path(__file__).parents[1] / 'interpolate4downstream.py'


@pytest.fixture(scope='module')
def main():
    module = load_script(SCRIPT)
    return lambda argv: run_command(lambda: module.main(argv))


@pytest.fixture
def source(tmp_path):
    state = {k: v for k, v in golden_state('tiny_like').items() if not k.startswith('outnorm')}
    average = {name: tensor + 1 for name, tensor in state.items()}
    path = tmp_path / 'in.pth'
    torch.save({'model': state, 'model_ema': average, 'optimizer': {'lr': 1}, 'epoch': 300}, path)
    return path


def command(source, target, *more, pt_size=('64',), tg_size=('128',)):
    flags = ['--pt_pth', str(source), '--pt_size', *pt_size, '--tg_pth', str(target)]
    return [*flags, '--tg_size', *tg_size, *more]


def exit_status(main, argv):
    try:
        return main(argv)
    except SystemExit as stop:
        return stop.code


def test_golden_as_a_command(source, tmp_path):
    argv = command(source, tmp_path / 'out.pth', '--mode', 'pad')
    done = subprocess.run([sys.executable, SCRIPT, *argv], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'resized backbone.freq_embed.0 16 x 16 -> 32 x 32' in ' '.join(done.stdout.split())
    assert 'classifier.3.*' in done.stdout and 'model_ema, optimizer, epoch' in done.stdout
    assert done.stdout.splitlines()[-1] == f'wrote {tmp_path / "out.pth"}'
    checkpoint = read_checkpoint(tmp_path / 'out.pth')
    assert checkpoint['meta'] == {
        'source': 'in.pth',
        'key': 'model',
        'source_size': [64, 64],
        'target_size': [128, 128],
        'mode': 'pad',
        'task': 'downstream',
    }
    for name, array in golden_npz('converter_64_to_128').items():
        assert torch.equal(checkpoint['state_dict'][f'backbone.{name}'], torch.from_numpy(array))


def test_mistake_as_a_command(source, tmp_path):
    argv = command(source, tmp_path / 'out.pth', pt_size=['224'])
    done = subprocess.run([sys.executable, SCRIPT, *argv], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith(f'error: {source}: source size 224 x 224')
    assert done.stderr.count('\n') == 1


def test_terminated_command_cleans_up(source, tmp_path):
    code = (
        'import os, runpy, signal, sys\n'
        'os.fsync = lambda _: os.kill(os.getpid(), signal.SIGTERM)\n'
        'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")\n'
    )
    argv = [sys.executable, '-c', code, SCRIPT, *command(source, tmp_path / 'out.pth')]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=SCRIPT.parent)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert os.listdir(tmp_path) == ['in.pth']


def test_interrupt(main, source, tmp_path, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', interrupt)
    assert main(command(source, tmp_path / 'out.pth')) == 130
    assert capsys.readouterr().err == 'error: interrupted\n'
    assert os.listdir(tmp_path) == ['in.pth']


def test_options_reach_the_file(main, source, tmp_path, capsys):
    target = tmp_path / 'out.safetensors'
    more = ['--key', 'model_ema', '--task', 'classification', '--mode', 'frequency']
    assert main(command(source, target, *more, pt_size=['64', '61'], tg_size=['96', '160'])) == 0
    assert 'classifier.0.* -> backbone.outnorm3.*' in capsys.readouterr().out
    checkpoint = read_checkpoint(target)
    state = golden_state('tiny_like')
    assert checkpoint['state_dict']['backbone.freq_embed.1'].shape == (12, 20, 16)
    assert torch.equal(checkpoint['state_dict']['head.fc.bias'], state['classifier.3.bias'] + 1)
    assert checkpoint['meta']['mode'] == 'frequency'
    # What it wrote is a source again.
    again = command(target, tmp_path / 'again.pth', pt_size=['96', '160'], tg_size=['96', '160'])
    assert main([*again, '--task', 'classification']) == 0
    written = read_checkpoint(tmp_path / 'again.pth')['state_dict']
    assert written.keys() == checkpoint['state_dict'].keys()
    assert all(torch.equal(written[k], v) for k, v in checkpoint['state_dict'].items())


def test_in_place_needs_force(main, source, capsys):
    before = source.read_bytes()
    assert main(command(source, source)) == 2
    assert 'in.pth exists: give --force' in capsys.readouterr().err
    assert source.read_bytes() == before
    assert main(command(source, source, '--force')) == 0
    assert read_checkpoint(source)['state_dict']['backbone.freq_embed.3'].shape == (4, 4, 64)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def without(state, text):
    return {name: tensor for name, tensor in state.items() if text not in name}


BAD_FILES = {
    'missing': (None, 'does not exist'),
    'no checkpoint': (lambda p, s: p.write_text('hello'), "starts with b'hello'"),
    'empty': (lambda p, s: p.write_bytes(b''), 'is empty'),
    'folder': (lambda p, s: p.mkdir(), 'is a folder'),
    'code': (lambda p, s: torch.save({'model': Evil(p.parent / 'ran')}, p), "wants to load '"),
    'code in a pickle': (
        lambda p, s: p.write_bytes(pickle.dumps(Evil(p.parent / 'ran'))),
        "wants to load '",
    ),
    'no embeddings': (
        lambda p, s: torch.save({'model': without(s, 'freq_embed')}, p),
        'without frequency embeddings',
    ),
    'another model': (
        lambda p, s: torch.save(torch.nn.Linear(2, 2).state_dict(), p),
        'another model than vHeat',
    ),
    'folded': (
        lambda p, s: torch.save(
            {'model': {**without(s, 'freq_embed'), 'layers.0.0.op.k_exp': torch.ones(16, 16, 8)}}, p
        ),
        'layers.0.0.op.k_exp',
    ),
}


def check_refused(main, capsys, argv, says, folder):
    before = {path: path.is_file() and path.read_bytes() for path in folder.iterdir()}
    assert exit_status(main, argv) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('error: ') and err.endswith('\n') and err.count('\n') == 1
    assert says in err
    assert {path: path.is_file() and path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize('name', BAD_FILES)
def test_bad_files(main, capsys, tmp_path, name):
    make, says = BAD_FILES[name]
    path = tmp_path / 'bad.pth'
    if make:
        make(path, golden_state('tiny_like'))
    check_refused(main, capsys, command(path, tmp_path / 'out.pth'), says, tmp_path)


@pytest.mark.parametrize('share', [0.01, 0.5, 0.99])
def test_truncated_file(main, capsys, source, tmp_path, share):
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * share)])
    argv = command(source, tmp_path / 'out.pth')
    check_refused(main, capsys, argv, f'{source} is truncated', tmp_path)


@pytest.mark.parametrize(
    'more, sizes, says',
    [
        ([], dict(pt_size=['224']), '224 x 224 contradicts freq_embed.0, which is 16 x 16'),
        ([], dict(pt_size=['64', '128']), 'it fits --pt_size 64 64'),
        (['--mode', 'pad'], dict(tg_size=['32']), "'pad' cannot shrink"),
        (['--mode', 'pad'], dict(tg_size=['128', '32']), 'from 64 x 64 to 128 x 32'),
        (['--key', 'ema'], {}, "key 'ema' is not in it; choose one with --key: model, model_ema"),
        (['--key', 'epoch'], {}, "key 'epoch' holds no state dict"),
        (['--mode', 'nearest'], {}, "invalid choice: 'nearest'"),
        (['--task', 'pose'], {}, "invalid choice: 'pose'"),
        (['--size', '3'], {}, '--size'),
        ([], dict(tg_size=['0']), "'0' is not a number of pixels in 1..4096"),
        ([], dict(tg_size=['-5']), '-5'),
        ([], dict(tg_size=['99999']), "'99999'"),
        ([], dict(tg_size=['12.5']), "'12.5'"),
        ([], dict(tg_size=['²']), "'²'"),
        ([], dict(pt_size=['large']), "'large'"),
        ([], dict(tg_size=['1', '2', '3']), '--tg_size: expected N or H W, got 3'),
        ([], dict(tg_size=[]), '--tg_size'),
    ],
)
def test_bad_options(main, capsys, source, tmp_path, more, sizes, says):
    argv = command(source, tmp_path / 'out.pth', *more, **sizes)
    check_refused(main, capsys, argv, says, tmp_path)


@pytest.mark.parametrize('flag', ['--pt_pth', '--pt_size', '--tg_pth', '--tg_size'])
def test_missing_options(main, capsys, source, tmp_path, flag):
    argv = command(source, tmp_path / 'out.pth')
    at = argv.index(flag)
    check_refused(main, capsys, argv[:at] + argv[at + 2 :], flag, tmp_path)


def test_bad_outputs(main, capsys, source, tmp_path):
    (tmp_path / 'old.pth').write_bytes(b'old')
    for target, says in {
        tmp_path / 'old.pth': 'old.pth exists: give --force',
        tmp_path: 'is a folder',
        tmp_path / 'none' / 'out.pth': 'make the folder',
        tmp_path / 'old.pth' / 'out.pth': 'cannot be written',
        Path('/proc/out.pth'): '/proc/out.pth cannot be written',
    }.items():
        check_refused(main, capsys, command(source, target), says, tmp_path)
