"""A tiny embedded data set, made once for all tests that only read it."""

import pytest
from digits import prepare_digits

TINY = {
    'num_train_scenes': 6,
    'num_val_scenes': 3,
    'num_train_digits': 24,
    'num_val_digits': 20,
    'train_renders': 2,
    'val_renders': 1,
}


@pytest.fixture(scope='session')
def tiny():
    """Sizes of the tiny data set, as arguments of prepare_digits."""
    return dict(TINY)


@pytest.fixture(scope='session')
def digits_root(tmp_path_factory):
    """Root of a tiny data set; read only."""
    return prepare_digits(tmp_path_factory.mktemp('data') / 'digits', **TINY)
