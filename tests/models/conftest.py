"""A small backbone whose decays matter."""

import pytest
import torch

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
