import pytest
from in_process import load_script

from mmvheat.cli.command import run_command


@pytest.fixture(scope='module')
def main():
    return load_script('tools/prepare_digits.py').main


@pytest.fixture
def sizes(tiny):
    return [f'--{name.replace("_", "-")}={value}' for name, value in tiny.items()]


def test_makes_then_reuses_then_forces(main, sizes, tmp_path, capsys):
    root = tmp_path / 'digits'
    arguments = ['--data-root', str(root), *sizes]
    runs = (([], 'made 77 images'), ([], 'already complete'), (['--force'], 'made 77 images'))
    for extra, expected in runs:
        main(arguments + extra)
        assert f'{root}: {expected}' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--num-train-scenes', '-3'], 'num_train_scenes must be at least 1, got -3'),
        (['--data-root', 'taken'], "data root 'taken' is a file, expected a folder"),
        (['--data-root', 'taken/digits'], "cannot write data root 'taken/digits'"),
    ],
)
def test_bad_input_is_one_line(main, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'taken').write_text('precious')
    assert run_command(lambda: main(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and error.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['taken']
    assert (tmp_path / 'taken').read_text() == 'precious'


def test_interrupt_is_one_line(main, monkeypatch, tmp_path, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setitem(main.__globals__, 'prepare_digits', interrupted)
    assert run_command(lambda: main(['--data-root', str(tmp_path / 'digits')])) == 130
    assert capsys.readouterr().err == 'error: interrupted: the data root is as it was\n'
