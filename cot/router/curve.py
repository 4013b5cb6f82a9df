"""What a router is worth: its exact curve of accuracy against calls and tokens, its bounds, and areas under it.

Definitions of RouteLLM (arXiv 2406.18665) for two routes, weak and strong: PGR is the share of the accuracy between
both that is recovered, APGR its mean over the share of strong calls, CPT(x) the share of strong calls that recovers x.
Its code interpolates over 10 thresholds; here every distinct score is one. The token versions have tokens on the axis.

Every figure takes how often each question counts, for many resampled sets at once: ``weights`` (draws, questions) give
arrays with a leading axis of draws. Without them every question counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eval_math.statistics import Bootstrap, Interval, bootstrap_bounds

from .table import Floats, RouteTable

DRAWS = 2000
_CHUNK_VALUES = 2_000_000
Figure = Callable[[Floats], Floats]
"""From weights (draws, questions) to one value per draw."""


@dataclass(frozen=True)
class Curve:
    """Points (..., points) from all weak to all strong."""

    calls: Floats
    """Share of strong calls."""
    tokens: Floats
    """Mean tokens."""
    accuracy: Floats


@dataclass(frozen=True)
class Step:
    """A question's move to a dearer route: what it gains and costs."""

    question: int
    gain: float
    cost: float
    last: bool
    """It leads to the dearest route."""


def curve_of(score: Floats, table: RouteTable, weights: Floats | None = None) -> Curve:
    """The strong (last) route for the highest scores first; equal scores go together, along a straight line."""
    gain, cost = table.success[:, -1] - table.success[:, 0], table.tokens[:, -1] - table.tokens[:, 0]
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    counted = _counted(weights, len(score))
    total = counted.sum(1)

    def running(values: Floats, start: Floats) -> Floats:
        sums = np.add.reduceat(counted[:, order] * values[order], starts, axis=1).cumsum(1)
        found = np.hstack([np.zeros((len(total), 1)), sums]) / total[:, None] + (counted @ start / total)[:, None]
        return found if weights is not None else found[0]

    nothing = np.zeros(len(score))
    return Curve(
        running(np.ones(len(score)), nothing), running(cost, table.tokens[:, 0]), running(gain, table.success[:, 0])
    )


def oracle_of(table: RouteTable, weights: Floats | None = None) -> Curve:
    """The upper bound of every router at every mean of tokens, for any number of routes.

    It starts with the cheapest route of each question and buys the moves to dearer ones in order of gain per token, a
    move being split where tokens run out (the linear relaxation of the knapsack); moves that gain nothing are never
    bought, so it ends with the best route of each question.
    """
    starts = np.array([min(range(len(row)), key=lambda at: (row[at], -table.success[q, at])) for q, row in
                       enumerate(table.tokens)])  # fmt: skip
    rows = np.arange(len(starts))
    steps = sorted((step for q in rows for step in _steps(table, int(q), int(starts[q]))), key=_worth)
    at = np.array([step.question for step in steps], dtype=np.int64)
    counted = _counted(weights, len(rows))
    total = counted.sum(1)

    def running(values: list[float] | list[bool], start: Floats) -> Floats:
        sums = (counted[:, at] * np.array(values, dtype=np.float64)).cumsum(1)
        found = (np.hstack([np.zeros((len(total), 1)), sums]) + (counted @ start)[:, None]) / total[:, None]
        return found if weights is not None else found[0]

    last = (starts == len(table.routes) - 1).astype(np.float64)
    return Curve(
        running([step.last for step in steps], last),
        running([step.cost for step in steps], table.tokens[rows, starts]),
        running([step.gain for step in steps], table.success[rows, starts]),
    )


def apgr(curve: Curve, axis: str = "calls") -> Floats:
    """Mean recovered share over the axis (calls or tokens); NaN where the strong route is not better."""
    along = curve.calls if axis == "calls" else curve.tokens
    first, gap = curve.accuracy[..., 0], curve.accuracy[..., -1] - curve.accuracy[..., 0]
    span = along[..., -1] - along[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        area = np.trapezoid(curve.accuracy, (along - along[..., :1]) / span[..., None], axis=-1)
        return np.where((gap > 0) & (span > 0), (area - first) / gap, np.nan)[()]


def cpt(curve: Curve, share: float) -> Floats:
    """Least share of strong calls that recovers ``share`` of the gap; the first crossing, between points linear."""
    goal = curve.accuracy[..., 0] + share * (curve.accuracy[..., -1] - curve.accuracy[..., 0])
    above = curve.accuracy >= goal[..., None] - 1e-12
    at = np.maximum(above.argmax(-1), 1)[..., None]
    low, high = (np.take_along_axis(curve.accuracy, at - back, -1)[..., 0] for back in (1, 0))
    left, right = (np.take_along_axis(curve.calls, at - back, -1)[..., 0] for back in (1, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = left + (goal - low) / (high - low) * (right - left)
    return np.where(above[..., 0], 0.0, between)[()]


def accuracy_at(curve: Curve, tokens: float) -> float:
    """Accuracy for mean ``tokens``, between points linear."""
    order = np.argsort(curve.tokens, kind="stable")
    return float(np.interp(tokens, curve.tokens[order], curve.accuracy[order]))


def tokens_for(curve: Curve, accuracy: float) -> float:
    """Fewest mean tokens at which a rising curve is as accurate; its end where it never is."""
    return float(np.interp(accuracy, curve.accuracy, curve.tokens))


def auroc(score: Floats, positive: Floats, weights: Floats | None = None) -> Floats:
    """Chance that a positive scores higher than a negative; ties count half; NaN where one kind is missing."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    counted, wanted = _counted(weights, len(score))[:, order], positive.astype(bool)[order]
    hits = np.add.reduceat(counted * wanted, starts, axis=1)
    misses = np.add.reduceat(counted * ~wanted, starts, axis=1)
    pairs = (hits * (misses.cumsum(1) - misses / 2)).sum(1)
    every = hits.sum(1) * misses.sum(1)
    found = np.divide(pairs, every, out=np.full(len(pairs), np.nan), where=every > 0)
    return found if weights is not None else found[0]


def resampled(figure: Figure, n: int, draws: int = DRAWS, seed: int = 0) -> Interval:
    """A figure of the questions' weights with its percentile bootstrap interval over ``n`` questions."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_VALUES // n)
    found = [figure(_drawn(rng, n, min(step, draws - start))) for start in range(0, draws, step)]
    low, high = bootstrap_bounds(np.concatenate(found), Bootstrap(draws, seed), n)
    return Interval(float(figure(np.ones((1, n)))[0]), low, high)


def _drawn(rng: np.random.Generator, n: int, draws: int) -> Floats:
    """How often each question is drawn (draws, n)."""
    chosen = rng.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def _counted(weights: Floats | None, n: int) -> Floats:
    return np.ones((1, n)) if weights is None else weights


def _worth(step: Step) -> float:
    return -step.gain / step.cost


def _steps(table: RouteTable, question: int, start: int) -> list[Step]:
    """Moves along the upper hull of a question's routes, best first."""
    success, tokens = table.success[question], table.tokens[question]
    steps, at = [], start
    while True:
        dearer = [to for to in range(len(tokens)) if tokens[to] > tokens[at] and success[to] > success[at]]
        if not dearer:
            return steps
        slopes = {to: (success[to] - success[at]) / (tokens[to] - tokens[at]) for to in dearer}
        to = max(dearer, key=lambda each: (slopes[each], tokens[each]))
        steps.append(Step(question, float(success[to] - success[at]), float(tokens[to] - tokens[at]),
                          to == len(tokens) - 1))  # fmt: skip
        at = to
