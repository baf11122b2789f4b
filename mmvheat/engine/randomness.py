"""Random states that are a function of a position in training, not of its history."""

import random

import numpy as np
import torch

__all__ = ['derive_seed', 'seed_generators']


def derive_seed(*position: int) -> int:
    """Mix integers >= 0, such as (seed, rank, iteration), into one seed of 32 bits."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seed the generators of python, numpy and torch (all devices) of this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
