"""From features to a probability of success and to expected tokens: two linear heads per route, cross-fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval_math.records import digest

from .table import Floats

FOLDS = 5
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Candidate weights of the l2 term."""


@dataclass(frozen=True)
class Linear:
    """``x @ weights + bias`` for each column of targets."""

    weights: Floats
    """(d, columns)"""
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        """(n, columns)."""
        return x @ self.weights + self.bias


def folds_of(names: Sequence[str], folds: int = FOLDS, seed: int = 0) -> npt.NDArray[np.int64]:
    """A fold for each question; equal names share one, so that doubled questions cannot leak."""
    return np.array([int(digest([seed, name])[:8], 16) % folds for name in names])


def fit_success(x: Floats, y: Floats, weights: Floats, strength: float) -> Linear:
    """Logistic regression of shares ``y`` (n, columns) in [0, 1], Newton steps in the smaller of both spaces.

    Args:
        weights: (n, columns), samples behind each share.
        strength: of the l2 term; the bias is free.
    """
    gram, back = _space(x)
    columns = [_logistic(gram, y[:, at], weights[:, at], strength) for at in range(y.shape[1])]
    return Linear(back @ np.stack([each[:-1] for each in columns], 1), np.array([each[-1] for each in columns]))


def fit_log_tokens(x: Floats, tokens: Floats, strength: float) -> Linear:
    """Ridge of log tokens; the bias is corrected so that the mean of exp(prediction) is that of the tokens."""
    target = np.log(np.maximum(tokens, 1.0))
    centre, middle = x.mean(0), target.mean(0)
    gram, back = _space(x - centre)
    inner = gram.T @ gram + strength * np.eye(gram.shape[1])
    weights = back @ np.linalg.solve(inner, gram.T @ (target - middle))
    bias = middle - centre @ weights
    correction = np.log(np.maximum(tokens, 1.0).mean(0) / np.exp(x @ weights + bias).mean(0))
    return Linear(weights, bias + correction)


def cross_fitted(
    fit: Callable[[npt.NDArray[np.int64]], Callable[[Floats], Floats]], x: Floats, folds: npt.NDArray[np.int64]
) -> Floats:
    """Predictions for every question by a fit on the other folds."""
    parts = [(np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)) for fold in np.unique(folds)]
    predicted = [(inside, fit(outside)(x[inside])) for inside, outside in parts]
    found = np.zeros((len(x), predicted[0][1].shape[1]))
    for inside, values in predicted:
        found[inside] = values
    return found


def choose_strength(x: Floats, y: Floats, weights: Floats, folds: npt.NDArray[np.int64]) -> float:
    """The strength with the least cross-fitted log loss."""

    def loss(strength: float) -> float:
        logits = cross_fitted(lambda at: fit_success(x[at], y[at], weights[at], strength), x, folds)
        return float((weights * (np.logaddexp(0, logits) - y * logits)).mean())

    return min(STRENGTHS, key=loss)


def _space(x: Floats) -> tuple[Floats, Floats]:
    """Coordinates (n, r) in the span of the rows, and the way back (d, r); x itself where d is small."""
    if x.shape[1] <= x.shape[0]:
        return x, np.eye(x.shape[1])
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > 1e-9 * max(1.0, float(values[-1]))
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, x.T @ (vectors[:, kept] / root)


def _logistic(x: Floats, y: Floats, weights: Floats, strength: float) -> Floats:
    """Weights and bias (d + 1,) by damped Newton steps."""
    padded = np.hstack([x, np.ones((len(x), 1))])
    penalty = np.append(np.full(x.shape[1], strength), 1e-6)
    beta = np.zeros(padded.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(padded @ beta, -30, 30)))
        gradient = padded.T @ (weights * (p - y)) + penalty * beta
        hessian = (padded * (weights * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ padded + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        beta -= step
        if np.abs(step).max() < 1e-7:
            break
    return beta
