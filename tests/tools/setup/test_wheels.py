"""The cache of compiled mmcv wheels."""

import sys
import zipfile

import pytest


@pytest.fixture
def wheels(scripts):
    return scripts('wheels')


def test_wheel_is_kept_by_all_that_it_depends_on(wheels, monkeypatch):
    def key(mmcv='2.1.0', torch='2.11.0', python=(3, 11, 7), ops='cpu', platform='linux-x86_64'):
        monkeypatch.setattr(sys, 'version_info', python)
        monkeypatch.setattr(wheels, 'SOURCE', f'mmcv=={mmcv} --hash=sha256:00\n')
        monkeypatch.setattr(wheels.sysconfig, 'get_platform', lambda: platform)
        name = wheels.wheel_folder(torch, ops).name
        monkeypatch.undo()
        return name

    # What earlier versions compiled is found again.
    assert key() == 'mmcv-2.1.0_torch-2.11.0_cp311_linux-x86_64_cpu'
    others = [
        key(mmcv='2.0.1'),
        key(torch='2.10.0'),
        key(python=(3, 12, 1)),
        key(ops='cu130'),
        key(platform='linux-aarch64'),
    ]
    assert len({key(), *others}) == 6


def test_both_kinds_of_mmcv_have_one_version(wheels, scripts):
    assert wheels.SOURCE.split()[0] == f'mmcv=={scripts("packages").pins()["mmcv-lite"]}'


def test_damaged_wheel_is_dropped(wheels, tmp_path):
    whole, cut = tmp_path / 'mmcv-b.whl', tmp_path / 'mmcv-a.whl'
    with zipfile.ZipFile(whole, 'w') as archive:
        archive.writestr('mmcv/version.py', 'x' * 9999)
    cut.write_bytes(whole.read_bytes()[:-40])
    assert wheels.cached_wheel(tmp_path) == whole
    assert not cut.exists()
    whole.unlink()
    assert wheels.cached_wheel(tmp_path) is None
