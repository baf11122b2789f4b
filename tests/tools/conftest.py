import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / 'configs'
# 7 is odd, so that one of two processes gets a padded sample; so is 5.
SAMPLES = {'train': 7, 'val': 5}


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Draw a square and a disc on noise: image, label map and the two masks."""
    image = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
    masks = []
    for shape in ('square', 'disc'):
        mask = np.zeros((64, 64), np.uint8)
        x, y, size = (int(n) for n in (*rng.integers(4, 40, 2), rng.integers(8, 20)))
        if shape == 'square':
            mask[y : y + size, x : x + size] = 1
        else:
            cv2.circle(mask, (x + size // 2, y + size // 2), size // 2, 1, -1)
        masks.append(mask)
        image[mask > 0] = rng.integers(150, 256, 3)
    return image, np.maximum(masks[0], 2 * masks[1]), masks


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in the formats of the three libraries."""
    root = tmp_path_factory.mktemp('tiny')
    rng = np.random.default_rng(0)
    for split, count in SAMPLES.items():
        for folder in ('scenes', 'labels', *(f'classes/{split}/{name}' for name in 'abc')):
            path = root / folder if folder.startswith('classes') else root / folder / split
            path.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in range(count):
            image, labels, masks = _scene(rng)
            name = f'{number:03}.png'
            cv2.imwrite(str(root / 'scenes' / split / name), image)
            cv2.imwrite(str(root / 'labels' / split / name), labels)
            cv2.imwrite(str(root / 'classes' / split / 'abc'[number % 3] / name), image)
            images.append(dict(id=number, file_name=name, width=64, height=64))
            for category, mask in enumerate(masks, start=1):
                outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number,
                        category_id=category,
                        bbox=[int(n) for n in cv2.boundingRect(mask)],
                        area=int(mask.sum()),
                        iscrowd=0,
                        segmentation=[outline[0].ravel().tolist()],
                    )
                )
        categories = [dict(id=1, name='square'), dict(id=2, name='disc')]
        coco = dict(images=images, annotations=annotations, categories=categories)
        (root / f'{split}.json').write_text(json.dumps(coco))
    return root


@pytest.fixture(scope='session')
def start(tiny_data: Path) -> Callable[..., subprocess.Popen]:
    """Start a tool, `start('train.py', ...)`, on the CPU with one thread."""

    def start(tool: str, *arguments: object, **environment: str) -> subprocess.Popen:
        interpreter = 'bash' if tool.endswith('.sh') else sys.executable
        env = dict(
            os.environ,
            TINY_DATA=str(tiny_data),
            PYTHON=sys.executable,
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS='1',
            CUDA_VISIBLE_DEVICES='-1',
            **environment,
        )
        for name in ('DISPLAY', 'WAYLAND_DISPLAY', 'RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
            env.pop(name, None)
        return subprocess.Popen(
            [interpreter, str(ROOT / 'tools' / tool), *map(str, arguments)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope='session')
def run(start: Callable[..., subprocess.Popen]) -> Callable[..., str]:
    """Run a tool to its end, which must be a success, and return what it printed."""

    def run(tool: str, *arguments: object, **environment: str) -> str:
        process = start(tool, *arguments, **environment)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-3000:] + out[-1000:]
        return out + err

    return run


def metrics(work_dir: Path) -> dict[str, float]:
    """Read the metrics of the last test in a work dir."""
    newest = max(work_dir.glob('2*/2*.json'), key=lambda path: path.stat().st_mtime_ns)
    found = json.loads(newest.read_text())
    return {name: value for name, value in found.items() if not name.endswith('time')}
