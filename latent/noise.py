"""Noise that a seed and a step number decide, whatever decodes beside it: the same in every engine and batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SEEDS = 4096
"""Seeds that can be told apart where a seed has to fit into a token id."""
_STEP_BITS = 20


def noise_seed(seed: int) -> int:
    """A unit's seed as one of `SEEDS`."""
    return seed % SEEDS


def normal_noise(places: Sequence[tuple[int, int]], size: int) -> Tensor:
    """Standard normal numbers (rows, size), float32 on the CPU; a place is a row's seed and the number of its step."""
    rows = [torch.randn(size, generator=_generator(*place)) for place in places]
    return torch.stack(rows) if rows else torch.empty(0, size)


def gumbel_noise(places: Sequence[tuple[int, int]], size: int) -> Tensor:
    """Standard Gumbel numbers (rows, size), float32 on the CPU."""
    rows = [torch.empty(size).exponential_(generator=_generator(*place)) for place in places]
    return -torch.stack(rows).log() if rows else torch.empty(0, size)


def uniform_noise(places: Sequence[tuple[int, int]]) -> Tensor:
    """Numbers (rows,) in [0, 1), float64 on the CPU, apart from those of `normal_noise`."""
    shifted = [torch.rand(1, dtype=torch.float64, generator=_generator(seed + SEEDS, step)) for seed, step in places]
    return torch.cat(shifted) if shifted else torch.empty(0, dtype=torch.float64)


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed << _STEP_BITS) + step)
