"""What policy-gradient methods share: advantages within a group, the clipped loss on log-probabilities and a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Averaging = Literal["sequence", "token"]
EPSILON = 1e-8


def group_advantages(rewards: Tensor, size: int) -> Tensor:
    """Rewards (B,) against mean and (unbiased) standard deviation of their group of ``size`` neighbours.

    They sum to 0 in each group; a group of equal rewards gives zeros.
    """
    groups = rewards.float().view(-1, size)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + EPSILON)).flatten()


@dataclass(frozen=True)
class Clip:
    """How far a ratio counts, and over what the loss is averaged."""

    epsilon: float = 0.2
    averaging: Averaging = "sequence"
    """Over each sequence's actions first, so that a short one weighs as much as a long one; or over all actions."""


USUAL = Clip()


def clipped_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, how: Clip = USUAL) -> Tensor:
    """The clipped surrogate (Schulman et al. 2017, equation 7), negated; a scalar.

    Args:
        new: log-probabilities (B, T) of the actions, with gradient.
        old: those of the policy that took them.
        advantages: (B,).
        mask: (B, T), 1 where there is an action.
    """
    ratio = torch.exp((new - old) * mask)
    gain = advantages[:, None] * torch.stack([ratio, ratio.clamp(1 - how.epsilon, 1 + how.epsilon)])
    each = -gain.min(0).values * mask
    if how.averaging == "token":
        return each.sum() / mask.sum().clamp(min=1)
    return (each.sum(1) / mask.sum(1).clamp(min=1)).mean()


def clipped_share(new: Tensor, old: Tensor, mask: Tensor, clip: float) -> float:
    """Share of actions whose ratio lies outside the clip."""
    outside = ((new - old).exp() - 1).abs() > clip
    return float((outside & mask.bool()).sum() / mask.sum().clamp(min=1))
