"""A small backbone whose decays matter, and what is logged."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger

from mmvheat.models import VHeat


@pytest.fixture
def model() -> VHeat:
    """Two stages for 32 x 32 images, in eval mode, with loud embeddings and diffusivities."""
    arch = dict(depths=[1, 2], dims=8, post_norm=True, layer_scale_init_value=0.5)
    model = VHeat(arch, img_size=32, out_indices=(0, 1)).eval()
    for name, parameter in model.named_parameters():
        if 'to_k' in name or 'freq_embed' in name:
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def log():
    """Messages that reach mmengine's current logger."""
    logger, messages = MMLogger.get_current_instance(), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
