"""A training stops at the first NaN or inf, and no checkpoint holds spoiled weights."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from ranks import run_in_ranks
from tiny_runner import NotingModel, tiny_runner

from mmvheat.checkpoint import read_checkpoint
from mmvheat.engine.finite_hook import FiniteHook
from mmvheat.errors import UserError

BAD = 7  # the iteration that is spoiled, in the second of epochs of four


class _LossModel(NotingModel):
    """The loss of a step becomes what it is told."""

    def __init__(self, value: float, step: int = BAD) -> None:
        super().__init__()
        self.value, self.step = value, step

    def spoil(self, loss, step):
        return loss * self.value if step == self.step else loss


class _GradientModel(_LossModel):
    """The loss of a step is finite, its gradient is not."""

    def spoil(self, loss, step):
        # The square root of 0 has an infinite slope.
        return (loss * 0).sqrt() + 1 if step == self.step else loss


class _SpoilingPreprocessor(BaseDataPreprocessor):
    """The images of a step get values that are not finite."""

    def __init__(self, step: int = BAD) -> None:
        super().__init__()
        self.step, self.calls = step, 0

    def forward(self, data, training=False):
        self.calls += training
        if training and self.calls == self.step:
            data['inputs'][1] = math.inf
        return data


class _FailingModel(NotingModel):
    """Fails where its inputs are not finite, as scipy's matching does."""

    def forward(self, inputs, mode='tensor'):
        if not inputs.isfinite().all():
            raise ValueError('matrix contains invalid numeric entries')
        return super().forward(inputs, mode)


class _LossScaler(OptimWrapper):
    """Leaves out the steps whose gradients are not finite, as a loss scaler does."""

    def step(self, **kwargs):
        if all(weight.grad.isfinite().all() for weight in self.optimizer.param_groups[0]['params']):
            super().step(**kwargs)


def _gpu(monkeypatch):
    """Look only now and then, as on a GPU."""
    monkeypatch.setattr(FiniteHook, '_every', lambda self: self.interval)


def _train(tmp_path, model, **changes):
    runner = tiny_runner(tmp_path, model, **changes)
    with pytest.raises(UserError) as error:
        runner.train()
    line = str(error.value)
    assert '\n' not in line
    for path in tmp_path.glob('*.pth'):
        assert read_checkpoint(path)['state_dict']['weight'].isfinite().all(), path
    return line, sorted(path.name for path in tmp_path.glob('*.pth'))


@pytest.mark.parametrize('looks', ['always', 'now and then'])
@pytest.mark.parametrize('flexible', [False, True])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_loss(tmp_path, monkeypatch, value, flexible, looks):
    changes = dict(flexible=flexible)
    if flexible:
        changes['strategy'] = dict(type='SingleDeviceStrategy')
    if looks != 'always':
        _gpu(monkeypatch)
    line, kept = _train(tmp_path, _LossModel(value), **changes)
    assert line.startswith(f'training stops at iteration 7 (epoch 2): loss is {value}: lower the ')
    assert kept == ['epoch_1.pth']


def test_a_part_of_the_loss_is_named(tmp_path):
    class Model(_LossModel):
        def forward(self, inputs, mode='tensor'):
            losses = super().forward(inputs, mode)
            if mode == 'loss':
                losses = dict(loss_cls=losses['loss'], loss_bbox=self.weight.sum(), acc=self.weight)
            return losses

    line, _ = _train(tmp_path, Model(math.nan), by_epoch=False, length=16)
    assert line.startswith('training stops at iteration 7: loss_cls is nan: ')


@pytest.mark.parametrize('model', [NotingModel, _FailingModel])
@pytest.mark.parametrize('looks', ['always', 'now and then'])
def test_images(tmp_path, monkeypatch, looks, model):
    model = model()
    model.data_preprocessor = _SpoilingPreprocessor()
    if looks != 'always':
        _gpu(monkeypatch)
    line, kept = _train(tmp_path, model)
    assert line.startswith(
        'training stops at iteration 7 (epoch 2): 1 of the 2 images of a batch hold NaN or inf '
        '(2 values) behind model.data_preprocessor: '
    )
    assert kept == ['epoch_1.pth']
    assert len(model.steps) == 6 + (looks != 'always' and type(model) is NotingModel) * 2


@pytest.mark.parametrize('save_best', [None, 'auto'])
def test_weights_are_looked_at_before_they_are_saved(tmp_path, save_best):
    """The last step of an epoch spoils them: the next loss would tell, after the checkpoint."""
    hook = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, rule='greater')
    hooks = dict(checkpoint=dict(hook, save_best=save_best))
    model = _GradientModel(0.0, step=8)
    line, kept = _train(tmp_path, model, default_hooks=hooks, val_interval=1)
    assert line.startswith(
        'training stops after iteration 8 (epoch 2): the weights hold NaN or inf'
    )
    assert '(weight)' in line
    assert kept == ['best_tiny_score_epoch_1.pth'] * (save_best is not None) + ['epoch_1.pth']


def test_gradients_that_a_loss_scaler_leaves_out_stop_nothing(tmp_path):
    model = _GradientModel(0.0)
    optim_wrapper = dict(type=_LossScaler, optimizer=dict(type='SGD', lr=1e-3))
    tiny_runner(tmp_path, model, optim_wrapper=optim_wrapper).train()
    assert len(model.steps) == 16


def test_only_training_is_looked_at(tmp_path):
    class Preprocessor(_SpoilingPreprocessor):
        def forward(self, data, training=False):
            return data if training else dict(inputs=data['inputs'] * math.nan)

    model = NotingModel()
    model.data_preprocessor = Preprocessor()
    tiny_runner(tmp_path, model, val_interval=2).train()
    assert (len(model.steps), model.validations) == (16, 2)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for(tmp_path):
    """Between two looks nothing of the hook's waits for the device."""
    hook = FiniteHook()
    hook._iteration = 5
    losses = torch.tensor([1.0, math.nan], device='cuda')
    images = torch.full((2, 3, 4, 4), math.inf, device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        hook._note_losses(('loss_cls', 'loss_bbox'), list(losses))
        hook._note_images(None, (), dict(inputs=images))
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert hook._images.tolist() == [5, 96, 2, 2]


def spoil_one_rank(work_dir):
    """Train where rank 1 alone meets a NaN; return the error of this rank."""
    from mmengine.dist import get_rank

    from mmvheat.engine.distributed import end_group

    errors = []
    for kind in ('loss', 'images', 'sharded'):
        model = _LossModel(math.nan, step=3 if kind != 'images' else 99)
        changes = {}
        if kind == 'sharded':
            changes.update(flexible=True, strategy=dict(type='mmvheat.FSDPStrategy'))
        runner = tiny_runner(Path(work_dir, kind), model, samples=16, launcher='pytorch', **changes)
        if get_rank() == 0:
            model.step = 99
        elif kind == 'images':
            model.data_preprocessor = _SpoilingPreprocessor(step=3)
        try:
            runner.train()
        except UserError as error:
            errors.append(str(error))
    del runner, model
    end_group()
    return errors


@pytest.mark.slow
def test_all_ranks_stop_with_one_message(tmp_path):
    ours, theirs = run_in_ranks(__file__, 'spoil_one_rank', tmp_path, str(tmp_path))
    assert ours == theirs
    assert [line.partition(': ')[2][:12] for line in ours] == [
        'loss is nan:',
        '1 of the 2 i',
        'loss is nan:',
    ]
    assert all(line.startswith('training stops at iteration 3 (epoch 1): ') for line in ours)
