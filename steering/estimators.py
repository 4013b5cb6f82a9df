"""From per-pair differences to one direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def mean_difference(rows: torch.Tensor) -> torch.Tensor:
    """(pairs, hidden) -> (hidden,) float32; summed in float64, so that the order of pairs does not matter."""
    return rows.double().mean(0).float()


ESTIMATORS: Mapping[str, Callable[[Any], Any]] = {"mean_diff": mean_difference}
