"""Accuracy and tokens in one figure: AES, tokens per correct answer, the area under accuracy within a budget.

Inputs are one value per problem: accuracy in [0, 1] (the mean over samples) and mean generated tokens. Intervals are
percentile bootstraps over problems, paired where two runs are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import BadInput
from .statistics import STANDARD, Bootstrap, Floats, Interval, bootstrap_bounds, bootstrap_means

Values = Sequence[float] | npt.NDArray[np.generic]


@dataclass(frozen=True)
class AesWeights:
    """Weights of the accuracy-efficiency score. Papers differ (some use 1, 5, 10): state them with the number."""

    length: float = 1.0
    gain: float = 3.0
    loss: float = 5.0


AES = AesWeights()


def aes(
    accuracy: float, tokens: float, *, base_accuracy: float, base_tokens: float, weights: AesWeights = AES
) -> float:
    """Accuracy-efficiency score of O1-Pruner (arXiv 2501.12570); 0 for the baseline, higher is better.

    With relative changes dL = (L0 - L) / L0 and dA = (A - A0) / A0 it is ``length * dL + gain * dA`` for a gain in
    accuracy and ``length * dL - loss * |dA|`` for a loss. (The first version of that paper prints some rows with a
    plus for losses; the formula in its text, which is this one, has a minus.) NaN where the baseline is 0.
    """
    return float(_aes(np.array([accuracy, tokens, base_accuracy, base_tokens], float), weights))


def aes_interval(
    base: tuple[Values, Values],
    other: tuple[Values, Values],
    weights: AesWeights = AES,
    bootstrap: Bootstrap = STANDARD,
) -> Interval:
    """`aes` of one run against another, each given as (accuracy, tokens) by problem in the same order."""
    columns = np.stack([np.asarray(values, float) for values in (*other, *base)])
    if columns.shape[1] == 0 or 0 in columns.mean(axis=1)[2:]:
        return Interval(math.nan, math.nan, math.nan)
    pool = np.append(columns, _imagined(columns), axis=1)
    draws = _aes(bootstrap_means(pool, bootstrap).T, weights)
    value = float(_aes(columns.mean(axis=1), weights))
    return Interval(value, *bootstrap_bounds(draws, bootstrap, pool.shape[1]))


def _imagined(columns: Floats) -> Floats:
    """One problem gained and one lost, of mean length: see `difference_interval`."""
    after, before = columns[1].mean(), columns[3].mean()
    return np.array([[1.0, 0.0], [after, after], [0.0, 1.0], [before, before]])


def tokens_per_correct(accuracy: Values, tokens: Values, bootstrap: Bootstrap = STANDARD) -> Interval:
    """Generated tokens, those of wrong answers included, for each correct answer; NaN if none is correct.

    Two imagined problems of mean length, solved by a quarter and by three quarters, are drawn along, as in
    `share_interval`: few correct answers would otherwise claim too much.
    """
    columns = np.stack([np.asarray(accuracy, float), np.asarray(tokens, float)])
    if columns.shape[1] == 0 or columns[0].sum() == 0 or columns[1].sum() == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = columns[1].mean()
    pool = np.append(columns, [[0.25, 0.75], [mean, mean]], axis=1)
    right, spent = bootstrap_means(pool, bootstrap).T
    # Correct answers per token are finite in every draw, also where none is correct.
    low, high = bootstrap_bounds(right / spent, bootstrap, pool.shape[1])
    bounds = (1 / high, 1 / low if low > 0 else math.inf)
    return Interval(float(columns[1].sum() / columns[0].sum()), *bounds)


def accuracy_within(correct: Values, tokens: Values, budgets: Sequence[float]) -> Floats:
    """Share of answers that are correct and took no more than each budget, (budgets,); one value per sample."""
    right, spent = np.asarray(correct, float), np.asarray(tokens, float)
    return np.array([float((right * (spent <= budget)).mean()) if right.size else math.nan for budget in budgets])


def accuracy_token_area(accuracy: Values, tokens: Values, budget: float, bootstrap: Bootstrap = STANDARD) -> Interval:
    """Area under `accuracy_within` from 0 to ``budget``, as a share: mean of z * max(0, 1 - T / budget).

    Give one value per sample, not means over samples: the area is not linear in them.

    1 would be all correct with no token, 0 nothing correct within the budget. With a budget of 32,768 it is
    TokenSqueeze's AUC (arXiv 2511.13223); areas of different budgets are not comparable.

    Raises:
        BadInput: a budget that is not positive.
    """
    if not budget > 0:
        raise BadInput(f"accuracy_token_area: budget {budget}; a positive number of tokens is expected")
    values = np.asarray(accuracy, float) * np.maximum(0, 1 - np.asarray(tokens, float) / budget)
    if values.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    draws = bootstrap_means(values[None, :], bootstrap)[:, 0]
    return Interval(float(values.mean()), *bootstrap_bounds(draws, bootstrap, values.size))


def _aes(figures: Floats, weights: AesWeights) -> Floats:
    """Of (4, ...): accuracy, tokens, accuracy and tokens of the baseline."""
    accuracy, tokens, base_accuracy, base_tokens = figures
    with np.errstate(divide="ignore", invalid="ignore"):
        shorter = np.where(base_tokens > 0, (base_tokens - tokens) / base_tokens, np.nan)
        change = np.where(base_accuracy > 0, (accuracy - base_accuracy) / base_accuracy, np.nan)
        return weights.length * shorter + np.where(change >= 0, weights.gain * change, weights.loss * change)
