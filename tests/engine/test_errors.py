import time

import pytest

from mmvheat.engine.errors import CommandLineError, config_errors, run_command


def test_a_mistake_is_one_line_and_status_2(capsys):
    def main():
        with config_errors('config.py'):
            raise KeyError('VHaet is not in the\nmmdet::model registry.')

    assert run_command(main) == 2
    assert capsys.readouterr().err == (
        'error: config.py: KeyError: VHaet is not in the mmdet::model registry. '
        '(MMVHEAT_TRACEBACK=1 shows where)\n'
    )


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (FileNotFoundError(2, 'No such file', 'data/x.json'), 'loader: data/x.json does not exist'),
        (CommandLineError('no samples in data'), 'loader: no samples in data'),
        (CommandLineError('loader has 3 classes'), 'loader has 3 classes'),
    ],
)
def test_a_line_says_where_once(error, said):
    with pytest.raises(CommandLineError) as raised, config_errors('loader'):
        raise error
    assert str(raised.value).startswith(said)


def test_the_traceback_can_be_had(monkeypatch):
    monkeypatch.setenv('MMVHEAT_TRACEBACK', '1')
    with pytest.raises(TypeError), config_errors('config.py'):
        raise TypeError


def test_programming_errors_stay_errors():
    with pytest.raises(AttributeError), config_errors('config.py'):
        raise AttributeError


def test_the_first_of_several_processes_speaks_first(monkeypatch, capsys):
    waits = []
    monkeypatch.setattr(time, 'sleep', waits.append)
    monkeypatch.setenv('RANK', '1')

    def main():
        raise CommandLineError('no')

    assert run_command(main) == 2
    assert waits and waits[0] > 5
