"""What a router is worth: its exact curve of accuracy against calls and tokens, its bounds, and areas under it.

Definitions of RouteLLM (arXiv 2406.18665) for two routes, weak and strong: PGR is the share of the accuracy between
both that is recovered, APGR its mean over the share of strong calls, CPT(x) the share of strong calls that recovers x.
Its code interpolates over 10 thresholds; here every distinct score is one. The token versions have tokens on the axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eval_math.statistics import Interval

from .table import Floats, RouteTable


@dataclass(frozen=True)
class Curve:
    """Points from all weak to all strong."""

    calls: Floats
    """Share of strong calls."""
    tokens: Floats
    """Mean tokens."""
    accuracy: Floats


def curve_of(score: Floats, table: RouteTable) -> Curve:
    """The strong (last) route for the highest scores first; equal scores go together, along a straight line."""
    gain, cost = table.success[:, -1] - table.success[:, 0], table.tokens[:, -1] - table.tokens[:, 0]
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) + 1
    n = len(score)

    def running(values: Floats, start: float) -> Floats:
        return start + np.append(0.0, np.cumsum(values[order])[ends - 1]) / n

    return Curve(
        np.append(0.0, ends) / n,
        running(cost, float(table.tokens[:, 0].mean())),
        running(gain, float(table.success[:, 0].mean())),
    )


def oracle_of(table: RouteTable) -> Curve:
    """The upper bound: questions in order of gain per token, those that the strong route hurts last."""
    gain, cost = table.success[:, -1] - table.success[:, 0], table.tokens[:, -1] - table.tokens[:, 0]
    worth = np.where(gain > 0, gain / np.maximum(cost, 1e-9), np.where(gain < 0, gain, 0.0))
    return curve_of(np.asarray(worth + 1e-12 * np.arange(len(worth)), dtype=np.float64), table)


def apgr(curve: Curve, axis: str = "calls") -> float:
    """Mean recovered share over the axis (calls or tokens); NaN where the strong route is not better."""
    gap = curve.accuracy[-1] - curve.accuracy[0]
    along = curve.calls if axis == "calls" else curve.tokens
    span = along[-1] - along[0]
    if gap <= 0 or span <= 0:
        return float("nan")
    area = np.trapezoid(curve.accuracy, (along - along[0]) / span)
    return float((area - curve.accuracy[0]) / gap)


def cpt(curve: Curve, share: float) -> float:
    """Least share of strong calls that recovers ``share`` of the gap; the first crossing, between points linear."""
    goal = curve.accuracy[0] + share * (curve.accuracy[-1] - curve.accuracy[0])
    above = np.flatnonzero(curve.accuracy >= goal)
    if not len(above):
        return float("nan")
    at = int(above[0])
    if at == 0:
        return 0.0
    low, high = curve.accuracy[at - 1], curve.accuracy[at]
    part = (goal - low) / (high - low)
    return float(curve.calls[at - 1] + part * (curve.calls[at] - curve.calls[at - 1]))


def auroc(score: Floats, positive: Floats) -> float:
    """Chance that a positive scores higher than a negative; ties count half."""
    wanted = positive.astype(bool)
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = ((ends - counts + 1 + ends) / 2)[inverse]
    hits, misses = int(wanted.sum()), int((~wanted).sum())
    if not hits or not misses:
        return float("nan")
    return float((ranks[wanted].sum() - hits * (hits + 1) / 2) / (hits * misses))


def calibration_error(p: Floats, y: Floats, bins: int = 15) -> float:
    """Expected calibration error over bins of equal mass."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(part) * abs(p[part].mean() - y[part].mean()) for part in parts) / len(p))


def resampled(figure: Callable[[np.ndarray], float], n: int, draws: int = 2000, seed: int = 0) -> Interval:
    """A figure of question indices with its percentile bootstrap interval."""
    rng = np.random.default_rng(seed)
    values = np.array([figure(rng.integers(0, n, n)) for _ in range(draws)])
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (float("nan"), float("nan"))
    return Interval(figure(np.arange(n)), float(low), float(high))
