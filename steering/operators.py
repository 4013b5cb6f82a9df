"""What steering does to a state: add a step, or change its projection on a direction.

Every operator returns the *change* of the states, in float32, so that it can be added to what a block returned. With
r the unit vector of the step and p = <h, r>:

| mode | new state |
|---|---|
| add | h + w s |
| add_preserve_norm | the same, scaled to the norm of h (as in Fractional Reasoning, arXiv 2506.15882) |
| ablate | h - w p r; w = 1 takes the direction out (Manifold Steering, arXiv 2505.22411) |
| clamp | h with p raised to w |s| where it is below |
| replace | h with p set to w |s| |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Mode = Literal["add", "add_preserve_norm", "ablate", "clamp", "replace"]
MODES: tuple[Mode, ...] = get_args(Mode)
STILL_AT_ZERO: frozenset[Mode] = frozenset({"add", "add_preserve_norm", "ablate"})
"""Modes that change nothing at strength 0; the others set a projection to 0 then."""


def change(mode: Mode, states: torch.Tensor, steps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The change (states, hidden) float32 of ``states`` (states, hidden) float32.

    Args:
        steps: (hidden,) or (states, hidden) float32, not zero.
        weights: (states, 1) float32.
    """
    return _CHANGES[mode](states, steps, weights)


def _add(states: torch.Tensor, steps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weights * steps


def _add_preserving(states: torch.Tensor, steps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    moved = states + weights * steps
    norms = states.norm(dim=-1, keepdim=True), moved.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return moved * (norms[0] / norms[1]) - states


def _ablate(states: torch.Tensor, steps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    unit = _unit(steps)
    return -weights * _projection(states, unit) * unit


def _clamp(states: torch.Tensor, steps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    unit = _unit(steps)
    missing = weights * steps.norm(dim=-1, keepdim=True) - _projection(states, unit)
    return missing.clamp(min=0) * unit


def _replace(states: torch.Tensor, steps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    unit = _unit(steps)
    return (weights * steps.norm(dim=-1, keepdim=True) - _projection(states, unit)) * unit


def _unit(steps: torch.Tensor) -> torch.Tensor:
    return steps / steps.norm(dim=-1, keepdim=True)


def _projection(states: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    return (states * unit).sum(-1, keepdim=True)


_CHANGES: Mapping[Mode, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": _add,
    "add_preserve_norm": _add_preserving,
    "ablate": _ablate,
    "clamp": _clamp,
    "replace": _replace,
}
