"""From features to a probability of success and to expected tokens: two linear heads per route, cross-fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput
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


@dataclass(frozen=True)
class Span:
    """Features as coordinates ``inner`` (n, r) in the space of their rows, and the way ``back`` (d, r), orthonormal.

    Under an l2 term weights lie in that space, so a fit costs by the smaller of n and d.
    """

    inner: Floats
    back: Floats | None
    """None where ``inner`` are the features themselves."""

    @classmethod
    def of(cls, x: Floats) -> Span:
        """The span of ``x`` (n, d)."""
        if x.shape[1] <= x.shape[0]:
            return cls(x, None)
        values, vectors = np.linalg.eigh(x @ x.T)
        kept = values > 1e-9 * max(1.0, float(values[-1]))
        root = np.sqrt(values[kept])
        return cls(vectors[:, kept] * root, x.T @ (vectors[:, kept] / root))

    def weights(self, inner: Floats) -> Floats:
        """Weights (d, columns) of those of the coordinates (r, columns)."""
        return inner if self.back is None else self.back @ inner


@dataclass(frozen=True)
class Part:
    """One fold: ``inside`` is predicted by a fit on ``outside``."""

    inside: npt.NDArray[np.int64]
    outside: npt.NDArray[np.int64]
    span: Span
    """Of the features outside."""


def folds_of(names: Sequence[str], folds: int = FOLDS, seed: int = 0) -> npt.NDArray[np.int64]:
    """A fold for each question, by the hash of its name: the order of questions changes nothing.

    Equal names share a fold, so that doubled questions cannot leak; folds have equally many names.

    Raises:
        BadInput: fewer than two different names.
    """
    order = sorted(set(names), key=lambda name: digest([seed, name]))
    if len(order) < 2:
        raise BadInput("all questions are the same one; a router needs different questions to learn from")
    place = {name: at % folds for at, name in enumerate(order)}
    return np.array([place[name] for name in names])


def parts_of(x: Floats, folds: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[Part, ...]:
    """The folds with what their fits share.

    Raises:
        BadInput: a question lies in two folds, so that it would be predicted by a fit that saw it.
    """
    place: dict[str, int] = {}
    for name, fold in zip(names, folds.tolist(), strict=True):
        if place.setdefault(name, fold) != fold:
            raise BadInput(f"question {name[:60]!r} lies in two folds; give equal questions one fold")
    pairs = [(np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)) for fold in np.unique(folds)]
    return tuple(Part(inside, outside, Span.of(x[outside])) for inside, outside in pairs)


def cross_fitted(fit: Callable[[Part], Linear], x: Floats, parts: Sequence[Part]) -> Floats:
    """Predictions for every question by a fit on the other folds."""
    predicted = [(part.inside, fit(part)(x[part.inside])) for part in parts]
    found = np.zeros((len(x), predicted[0][1].shape[1]))
    for inside, values in predicted:
        found[inside] = values
    return found


def fit_success(x: Floats | Span, y: Floats, weights: Floats, strength: float) -> Linear:
    """Logistic regression of shares ``y`` (n, columns) in [0, 1] by Newton's method.

    Args:
        weights: (n, columns), samples behind each share.
        strength: of the l2 term; the bias is free.
    """
    span = x if isinstance(x, Span) else Span.of(x)
    columns = np.stack([_logistic(span.inner, y[:, at], weights[:, at], strength) for at in range(y.shape[1])], 1)
    return Linear(span.weights(columns[:-1]), columns[-1])


def fit_log_tokens(x: Floats | Span, tokens: Floats, strength: float) -> Linear:
    """Ridge of log tokens; the bias is corrected so that the mean of exp(prediction) is that of the tokens."""
    span = x if isinstance(x, Span) else Span.of(x)
    target = np.log(np.maximum(tokens, 1.0))
    centre, middle = span.inner.mean(0), target.mean(0)
    centred = span.inner - centre
    gram = centred.T @ centred + strength * np.eye(centred.shape[1])
    inner = np.linalg.solve(gram, centred.T @ (target - middle))
    bias = middle - centre @ inner
    correction = np.log(np.maximum(tokens, 1.0).mean(0) / np.exp(span.inner @ inner + bias).mean(0))
    return Linear(span.weights(inner), bias + correction)


def least(loss: Callable[[float], float]) -> float:
    """The strength with the least loss, the stronger of two equal ones."""
    return min(reversed(STRENGTHS), key=loss)


def log_loss(logits: Floats, y: Floats, weights: Floats) -> float:
    """Mean negative log-likelihood of shares."""
    return float((weights * (np.logaddexp(0, logits) - y * logits)).mean())


def _logistic(x: Floats, y: Floats, weights: Floats, strength: float) -> Floats:
    """Weights and bias (d + 1,); steps that would raise the loss are halved."""
    padded = np.hstack([x, np.ones((len(x), 1))])
    penalty = np.append(np.full(x.shape[1], strength), 1e-6)

    def loss(beta: Floats) -> float:
        logits = padded @ beta
        return float(weights @ (np.logaddexp(0, logits) - y * logits) + penalty @ beta**2 / 2)

    beta = np.zeros(padded.shape[1])
    value = loss(beta)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(padded @ beta, -30, 30)))
        gradient = padded.T @ (weights * (p - y)) + penalty * beta
        hessian = (padded * (weights * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ padded
        hessian[np.diag_indices_from(hessian)] += penalty
        step = np.linalg.solve(hessian, gradient)
        while (after := loss(beta - step)) > value + 1e-10 * abs(value) and np.abs(step).max() > 1e-7:
            step = step / 2
        beta, value = beta - step, after
        if np.abs(step).max() < 1e-7:
            break
    return beta
