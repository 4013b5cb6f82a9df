"""Muon for the matrices of the blocks, AdamW for embeddings and norms, one schedule, and averaged weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .recipe import Recipe


@dataclass
class OptimiserPair:
    """The two optimisers that share one schedule."""

    muon: torch.optim.Muon
    adam: torch.optim.AdamW
    recipe: Recipe

    def step(self, scale: float) -> None:
        """One update at `scale` times the base learning rates."""
        for optimiser, rate in ((self.muon, self.recipe.muon_lr), (self.adam, self.recipe.adam_lr)):
            for group in optimiser.param_groups:
                group["lr"] = rate * scale
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """State of both, for a checkpoint."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Restore `state_dict`."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def make_optimisers(model: torch.nn.Module, recipe: Recipe) -> OptimiserPair:
    """Muon on every two-dimensional block weight, AdamW on the rest (tied embeddings, norms)."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".layers." in name else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return OptimiserPair(muon, adam, recipe)


def learning_rate_scale(step: int, progress: float, warmup_steps: int, decay_share: float) -> float:
    """Linear warm-up by steps of a cycle, then 1, then linear decay to 0.02 over the last `decay_share` of it."""
    warm = min(1.0, (step + 1) / warmup_steps)
    left = max(0.0, 1.0 - progress) / decay_share
    return warm * max(0.02, min(1.0, left))


class WeightAverage:
    """Exponential moving average of the weights, quick at first and slow later."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Move the average towards the current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in model.named_parameters():
            self.weights[name].lerp_(value.detach(), 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Write the averaged weights into `model`."""
        for name, value in model.named_parameters():
            value.copy_(self.weights[name])
