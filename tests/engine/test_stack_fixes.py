import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from mmvheat.engine import apply_stack_fixes


@pytest.fixture(autouse=True)
def fixes() -> None:
    apply_stack_fixes()
    apply_stack_fixes()


def test_mmengine_reads_its_own_checkpoints(tmp_path):
    history = HistoryBuffer()
    for loss in (2.0, 1.0):
        history.update(loss)
    checkpoint = {'message_hub': {'loss': history, 'lr': np.float64(0.1)}, 'state_dict': {}}
    torch.save(checkpoint, tmp_path / 'iter_2.pth')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'iter_2.pth'))
    assert loaded['message_hub']['loss'].mean() == 1.5
    assert loaded['message_hub']['lr'] == 0.1


def test_code_is_refused_all_the_same(tmp_path):
    torch.save({'state_dict': print}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match="wants to load 'print', which could run code"):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))


def test_mmengine_reads_safetensors(tmp_path):
    weight = torch.randn(2, 3)
    save_file({'backbone.weight': weight}, tmp_path / 'weights.safetensors')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'weights.safetensors'))
    assert torch.equal(loaded['state_dict']['backbone.weight'], weight)
