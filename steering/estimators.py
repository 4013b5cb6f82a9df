"""From per-pair differences to one direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def mean_difference(rows: torch.Tensor) -> torch.Tensor:
    """(pairs, hidden) -> (hidden,) float32; summed in float64, so that the order of pairs does not matter."""
    return rows.double().mean(0).float()


def median(rows: torch.Tensor) -> torch.Tensor:
    """(pairs, hidden) -> (hidden,) float32: the median of each coordinate, the lower one for an even number."""
    return rows.float().median(0).values


def first_component(rows: torch.Tensor) -> torch.Tensor:
    """(pairs, hidden) -> (hidden,) float32: the direction that all differences share most, as long as their mean on it.

    It is the first principal component of both sides centred on each pair's midpoint; its sign is the mean's.
    """
    import torch

    axis = torch.linalg.svd(rows.double(), full_matrices=False).Vh[0]
    return (axis * (rows.double().mean(0) @ axis)).float()


ESTIMATORS: Mapping[str, Callable[[Any], Any]] = {
    "mean_diff": mean_difference,
    "median": median,
    "pca_center": first_component,
}
