"""The examples of docs/plug_and_play.md: they run, print what they say, and can be trained."""

import re
from pathlib import Path

import pytest
import torch

from mmvheat.layers import HeatConduction2d

PAGE = Path(__file__).parents[1] / 'docs' / 'plug_and_play.md'
SECTIONS = {
    section.partition('\n')[0]: re.findall(r'^```python\n(.*?)^```', section, re.M | re.S)
    for section in re.split(r'^#+ ', PAGE.read_text(), flags=re.M)
}
WITH_CODE = [name for name, blocks in SECTIONS.items() if blocks]
NEEDED = {'timm': 'timm', 'segmentation_models_pytorch': 'segmentation_models_pytorch'}
IMAGES = {'ViT': (224, 224), 'Swin': (64, 64), 'ConvNeXt': (64, 96), 'U-Net': (64, 96)}


def run(name: str) -> dict:
    """Run a section as a reader does who comes from the top: imports and TokenHeat are there."""
    variables: dict = {}
    for earlier in WITH_CODE[: WITH_CODE.index(name)]:
        for block in SECTIONS[earlier]:
            kept = re.split(
                r'^(?=vit = |swin = |convnext = |unet = |heat = |k = )', block, flags=re.M
            )
            exec(kept[0], variables)
    for block in SECTIONS[name]:
        exec(compile(block, f'{PAGE.name}: {name}', 'exec'), variables)
    return variables


@pytest.fixture(params=WITH_CODE)
def section(request) -> str:
    name = request.param
    for word, library in NEEDED.items():
        if word in name:
            pytest.importorskip(library)
    return name


def test_an_example_prints_what_it_says(section, capsys):
    variables = run(section)
    promised = re.findall(r'^print.*  # (.*)$', SECTIONS[section][-1], re.MULTILINE)
    assert promised and capsys.readouterr().out.splitlines()[-len(promised) :] == promised
    model = variables.get('model')
    if model is None:
        return
    (size,) = [size for word, size in IMAGES.items() if word in section]
    out = model(torch.rand(2, 3, *size))
    out.square().mean().backward()
    heats = [module for module in model.modules() if isinstance(module, HeatConduction2d)]
    assert len(heats) > 4
    for heat in heats:
        for parameter in heat.parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all()
