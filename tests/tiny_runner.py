"""A Runner of ours around a model of one weight that notes what it sees and draws."""

from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from mmvheat.engine.fsdp import FlexibleRunner
from mmvheat.engine.runner import Runner

__all__ = ['NotingModel', 'tiny_runner']


class NotingModel(BaseModel):
    """Notes, for each training step, its samples and a random number; counts validations."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(1))
        self.steps: list[tuple[list[float], float]] = []
        self.validations = 0
        self.first_weight: float | None = None

    def spoil(self, loss: torch.Tensor, step: int) -> torch.Tensor:
        """Make something of the loss of a step, counted from 1."""
        return loss

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> Any:
        if mode == 'predict':
            self.validations += 1
            return [0]
        if self.first_weight is None:
            self.first_weight = self.weight.item()
        self.steps.append((inputs.flatten().tolist(), torch.rand(()).item()))
        loss = (self.weight * inputs).square().mean()
        return dict(loss=self.spoil(loss, len(self.steps)))


class _Samples(Dataset):
    """One number a sample, and one that the augmentation draws."""

    metainfo: dict = {}

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.tensor([float(index) + 1, torch.rand(()).item()]))


class _Metric(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return dict(score=len(results))


def tiny_runner(
    work_dir: Path,
    model: NotingModel | dict,
    by_epoch: bool = True,
    length: int = 4,
    val_interval: int = 100,
    samples: int = 8,
    flexible: bool = False,
    **changes: Any,
) -> Runner | FlexibleRunner:
    """Build a Runner that trains for ``length`` epochs or iterations, in batches of two.

    Args:
        work_dir: Where it logs and saves.
        model: What it trains, or its config.
        by_epoch: Whether it counts epochs.
        length: Their number, or that of iterations.
        val_interval: Epochs or iterations from one validation to the next.
        samples: Samples of the data set, on all ranks together.
        flexible: Whether to build a FlexibleRunner.
        changes: More arguments of the Runner, or others.
    """
    loader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'))
    sampler = dict(type='DefaultSampler', shuffle=True)
    arguments = dict(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(loader, sampler=sampler, dataset=_Samples(samples)),
        train_cfg=dict(
            by_epoch=by_epoch,
            val_interval=val_interval,
            **({'max_epochs': length} if by_epoch else {'max_iters': length}),
        ),
        val_dataloader=dict(loader, sampler=dict(sampler, shuffle=False), dataset=_Samples(2)),
        val_cfg={},
        val_evaluator=Evaluator(_Metric(prefix='tiny')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch)),
        randomness=dict(seed=3),
        experiment_name=str(work_dir),
        log_level='ERROR',
    )
    return (FlexibleRunner if flexible else Runner)(**{**arguments, **changes})
