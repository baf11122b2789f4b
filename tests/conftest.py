"""What all tests share: one seed, one thread, no uninitialised memory that happens to be zero."""

import os
import random
from pathlib import Path

# Without a GPU, Triton's kernels run in its interpreter, which is chosen when it is imported.
if not Path('/dev/nvidiactl').exists():
    os.environ.setdefault('TRITON_INTERPRET', '1')
# What cuBLAS needs to be deterministic, which the tests of the core ask for.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

import numpy as np
import pytest
import torch
from in_process import forget_runs

torch.set_num_threads(1)

CORE = {'ops', 'kernels', 'layers', 'models', 'mmcv_ops'}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; put files with slow tests first.

    Workers take whole files: a long one at the end would leave the others without work.
    """
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker('gpu'):
                item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest):
    """``torch.empty`` gives NaN in the tests of the core, so that forgetting to write shows."""
    if request.path.parent.name not in CORE or request.node.get_closest_marker('gpu'):
        yield
        return
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fresh_mmengine():
    """No test sees another's logger, visualizer or default scope, which mmengine keeps by name."""
    yield
    forget_runs()


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in the formats of the three libraries, see ``tiny_data.make_tiny_data``."""
    # Imported here: the tests of the core run without cv2.
    from tiny_data import make_tiny_data

    root = tmp_path_factory.mktemp('tiny')
    make_tiny_data(root)
    return root
