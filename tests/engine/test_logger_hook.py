import json

import pytest
import torch
from mmengine.hooks import LoggerHook
from tiny_runner import NotingModel, tiny_runner

from mmvheat.engine import MainLoggerHook, logger_hook


@pytest.mark.parametrize('is_main', [True, False])
def test_the_main_process_alone_writes_the_metrics_of_a_test(tmp_path, monkeypatch, is_main):
    runner = tiny_runner(
        tmp_path,
        NotingModel(),
        test_dataloader=dict(
            batch_size=1,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=[dict(inputs=torch.ones(2))] * 3,
        ),
        test_cfg={},
        test_evaluator=[],
    )
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, LoggerHook))
    assert type(hook) is MainLoggerHook
    monkeypatch.setattr(logger_hook, 'is_main_process', lambda: is_main)
    runner.test()
    written = [json.loads(path.read_text()) for path in tmp_path.glob('*/*.json')]
    assert len(written) == is_main
