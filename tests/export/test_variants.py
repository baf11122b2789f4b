"""Files of the backbone's variants compute what torch computes, or one line refuses them."""

from pathlib import Path

import pytest
from tiny_variants import VARIANTS
from torch import nn

from mmvheat.errors import UserError
from mmvheat.export import Metadata
from mmvheat.export.graph import Shape
from mmvheat.export.metadata import FORMATS
from mmvheat.export.wrappers import ExportedClassifier, Input
from mmvheat.export.write import write_exported
from mmvheat.models import VHeatClassifier

pytest.importorskip('onnxruntime')

SLOW = pytest.mark.slow


def export(variant: str, format: str, folder: Path, size: tuple[int, int] | None) -> list[float]:
    """Export a small classifier whose mixing matters; give the differences from torch."""
    arch = dict(depths=(1,), dims=8) | VARIANTS[variant]
    model = VHeatClassifier(arch, num_classes=3, img_size=(48, 64))
    for name, parameter in model.named_parameters():
        if any(part in name for part in ('mixer', 'to_k', 'freq_embed', 'head')):
            nn.init.normal_(parameter)
        elif 'linear.weight' in name:
            nn.init.normal_(parameter, std=0.5)
    normalise = Input([0.0] * 3, [1.0] * 3, preprocess=False, bgr=False)
    module = ExportedClassifier(normalise, model).eval()
    told = Metadata(
        task=module.task, outputs=module.output_names, format=format, opset=20, size=size
    )
    path, sizes = folder / f'model{FORMATS[format]}', [size] if size else [(64, 80), (71, 64)]
    checks = write_exported(module, path, Shape(size, None), told, sizes)
    assert path.is_file() and len(checks) == 4 * len(sizes)
    return [check.difference for check in checks]


@pytest.mark.parametrize('format', ['torch-export', pytest.param('onnx', marks=SLOW)])
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_file_of_one_size(variant: str, format: str, tmp_path: Path):
    """Of another than the learned values are for."""
    assert max(export(variant, format, tmp_path, (64, 80))) < 1e-5


@SLOW
@pytest.mark.parametrize('variant', [name for name in VARIANTS if name != 'global_filter'])
def test_a_file_of_any_size(variant: str, tmp_path: Path):
    assert max(export(variant, 'onnx', tmp_path, None)) < 1e-5


def test_a_fourier_filter_has_one_size(tmp_path: Path):
    with pytest.raises(UserError, match='cannot be exported for open sizes.* give --size H W'):
        export('global_filter', 'onnx', tmp_path, None)
    assert not list(tmp_path.iterdir())
