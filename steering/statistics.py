"""How well a vector is determined: agreement of its pairs with each other and with their mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .vector import SteeringVector

HALVES = 20


@dataclass(frozen=True)
class BlockStatistics:
    """One block's direction. Without per-pair rows only ``norm`` and ``relative_norm`` are known."""

    block: int
    norm: float
    relative_norm: float | None
    """Norm of the direction over the mean norm of the states."""
    rows: int = 0
    row_norm_mean: float | None = None
    cos_row_mean: float | None = None
    """Cosine of a row with the mean: average, and worst below."""
    cos_row_min: float | None = None
    split_half_cos: float | None = None
    """Cosine of the means of two random halves of the pairs, averaged over splits."""


def block_statistics(vector: SteeringVector, seed: int = 0) -> Mapping[int, BlockStatistics]:
    """Statistics of each block's direction; ``seed`` draws the halves."""
    return {block: _statistics(vector, block, seed) for block in sorted(vector.directions)}


def _statistics(vector: SteeringVector, block: int, seed: int) -> BlockStatistics:
    import torch
    from torch.nn.functional import cosine_similarity

    direction = vector.directions[block]
    norm, resid = float(direction.norm()), vector.resid_norm.get(block)
    relative = norm / resid if resid else None
    if block not in vector.pairs or len(vector.pairs[block]) == 0:
        return BlockStatistics(block, norm, relative)
    rows = vector.pairs[block].float()
    cosines = cosine_similarity(rows, direction[None], dim=1)
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for _ in range(HALVES if len(rows) > 1 else 0):
        order = torch.randperm(len(rows), generator=generator)
        first, second = rows[order[: len(rows) // 2]].mean(0), rows[order[len(rows) // 2 :]].mean(0)
        halves.append(float(cosine_similarity(first, second, dim=0)))
    return BlockStatistics(
        block=block,
        norm=norm,
        relative_norm=relative,
        rows=len(rows),
        row_norm_mean=float(rows.norm(dim=1).mean()),
        cos_row_mean=float(cosines.mean()),
        cos_row_min=float(cosines.min()),
        split_half_cos=sum(halves) / len(halves) if halves else None,
    )
