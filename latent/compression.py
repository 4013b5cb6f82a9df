"""How much of a thought its latents hold: the effective compression rate (arXiv 2510.15522).

The paper's exact definition was not found; this one is reconstructed, and not to be compared with its figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .labels import SoftLabels
from .layout import Parts, group_bounds

DEPTHS = (1, 5, 10)


def effective_rates(labels: SoftLabels, rows: Sequence[Parts], rate: int) -> dict[str, float]:
    """Of each depth K: tokens of a latent's own chunk among its K heaviest, and the share of latents that have any.

    Args:
        rows: the rows that ``labels`` were made of, in their order.
        rate: tokens per latent.
    """
    figures: dict[str, float] = {"latents": len(labels.ids)}
    for depth in DEPTHS:
        if depth <= labels.ids.shape[1]:
            found = np.fromiter(_hits(labels, rows, rate, depth), np.int64)
            figures[f"effective_rate_{depth}"] = float(found.mean())
            figures[f"hit_share_{depth}"] = float((found > 0).mean())
    return figures


def _hits(labels: SoftLabels, rows: Sequence[Parts], rate: int, depth: int) -> Iterator[int]:
    for number, row in enumerate(rows):
        ids, weights = labels.row(number)
        heaviest = np.take_along_axis(ids, np.argsort(-weights, axis=-1, kind="stable")[:, :depth], -1)
        for latent, (start, stop) in zip(heaviest, group_bounds(len(row.thought), rate), strict=True):
            yield len(set(latent.tolist()) & set(row.thought[start:stop]))
