"""What the ablation's models cost: parameters, FLOPs, and time on this processor."""

import os
from pathlib import Path
from typing import Any

import torch
from benchmarks.timing import Spread, measure
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmvheat.cli.config import load_config
from mmvheat.models import VHeat
from mmvheat.models.counting import count_model

from . import peers  # noqa: F401, registers them
from .grid import ARMS, backbones
from .records import digest_of, write_json
from .train_one import machine

__all__ = ['build_models', 'count_costs', 'measure_costs']

_ROUNDS, _BATCH = 25, 64


def build_models(config: str, names: list[str]) -> dict[str, nn.Module]:
    """Build classifiers of the ablation.

    Args:
        config: Path of its config.
        names: Rows of it.
    """
    models = {}
    for name in names:
        cfg = load_config(config, dict(backbones()[name]))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            models[name] = MODELS.build(cfg.model).eval()
    return models


def count_costs(model: nn.Module, size: int) -> dict[str, float]:
    """Count a classifier in the form that is trained, and in that for inference.

    Args:
        model: It is moved to the meta device.
        size: Side of the images.
    """
    model = model.to('meta')
    trained = count_model(model, (size, size))
    can_fold = isinstance(model.backbone, VHeat) and model.backbone.arch.has_decays
    used = count_model(model, (size, size), inference_form=True) if can_fold else trained
    return {
        'parameters': trained.parameters,
        'flops': trained.flops,
        'inference_parameters': used.parameters,
        'inference_flops': used.flops,
    }


def measure_costs(path: Path, top: Path, rounds: int = _ROUNDS) -> None:
    """Count and time the ablation's models in one thread, in rounds of all; write what came of it.

    Args:
        path: JSON file to write.
        top: Folder that the paths of configs are relative to.
        rounds: How often each is timed.
    """
    os.chdir(top)
    torch.set_num_threads(1)
    config = next(arm.config for arm in ARMS if arm.study == 'ablation')
    models = build_models(config, list(backbones()))
    images = torch.rand(_BATCH, 1, 32, 32)
    with torch.inference_mode():
        runs = {
            name: lambda model=model: model.extract_feat(images) for name, model in models.items()
        }
        samples = measure(runs, rounds)
    rows: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        spread = Spread.of([1000 * one / _BATCH for one in samples[name]])
        rows[name] = count_costs(model, 32) | {
            'milliseconds': [round(one, 5) for one in (spread.median, spread.low, spread.high)]
        }
    content = {'batch': _BATCH, 'rounds': rounds, 'machine': machine(top), 'models': rows}
    write_json(path, content | {'fingerprint': digest_of(backbones())})
