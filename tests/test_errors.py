import pytest
from torch import nn

from mmvheat.errors import UserError, config_errors
from mmvheat.models import VHeat
from mmvheat.ops import freq_embed


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (
            KeyError('VHaet is not in the\nmmdet::model registry.'),
            'loader: KeyError: VHaet is not in the mmdet::model registry. '
            '(MMVHEAT_TRACEBACK=1 shows where)',
        ),
        (FileNotFoundError(2, 'No such file', 'data/x.json'), 'loader: data/x.json does not exist'),
        (UserError('no samples in data'), 'loader: no samples in data'),
        (UserError('loader has 3 classes'), 'loader has 3 classes'),
    ],
)
def test_a_line_says_where_once(error, said):
    with pytest.raises(UserError) as raised, config_errors('loader'):
        raise error
    assert str(raised.value).startswith(said)


def test_programming_errors_stay_errors():
    with pytest.raises(AttributeError), config_errors('config.py'):
        raise AttributeError


@pytest.mark.parametrize('kind', [ValueError, TypeError, KeyError, FileNotFoundError])
def test_a_bug_of_ours_is_no_mistake_of_the_user(kind, monkeypatch):
    """What our own code raises while a config is built, and does not call the user's, is a bug."""
    monkeypatch.setattr(freq_embed.freq_embed_size, '__code__', _raises.__code__)
    monkeypatch.setitem(freq_embed.freq_embed_size.__globals__, 'planted', kind('planted'))
    with pytest.raises(kind, match='planted') as raised, config_errors('config.py'):
        VHeat('tiny')
    assert type(raised.value) is kind


def _raises(image_size, stage, stem_stride):
    raise planted  # noqa: F821


# The interpreter takes the place of a function from its code.
_raises.__code__ = _raises.__code__.replace(co_filename=freq_embed.__file__)


def test_what_torch_refuses_of_a_setting_is_the_users():
    with pytest.raises(UserError, match=r'config\.py: TypeError: .*MMVHEAT_TRACEBACK'):
        with config_errors('config.py'):
            nn.Conv2d('three', 4, 1)
