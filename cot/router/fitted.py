"""A fitted router: features, heads, calibration and a price of tokens; how it decides, and how it is fitted.

A question goes down the route with the highest ``p - price * tokens / C0``, C0 the mean tokens of the dearest route;
ties go to the cheaper one. The price is chosen on predictions of questions that the heads did not see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput
from eval_math.records import Json
from eval_math.statistics import Bootstrap, difference_interval

from .decision import Decision
from .features import SURFACE, TextEncoder, open_encoder, shortened, surface
from .heads import Linear, choose_strength, cross_fitted, fit_log_tokens, fit_success, folds_of
from .table import Floats, RouteTable

Aim = Literal["max_loss", "budget", "min_accuracy", "price"]
PRICES = 100
FAR = 99.0
"""Questions further from the training questions than this percentile of theirs are not judged."""


@dataclass(frozen=True)
class RouterConfig:
    """How a router is fitted and what it aims at."""

    encoder: str = "hashed"
    """hashed, minilm, or a model folder or hub id."""
    aim: Aim = "max_loss"
    """max_loss: accuracy lost against the dearest route; budget: mean tokens; min_accuracy; or price itself."""
    value: float = 0.01
    """Of the aim."""
    seed: int = 0

    def __post_init__(self) -> None:
        good = {"max_loss": 0 <= self.value < 1, "min_accuracy": 0 <= self.value <= 1, "budget": self.value > 0,
                "price": self.value >= 0}  # fmt: skip
        if not good.get(self.aim, False):
            raise BadInput(f"aim={self.aim}, value={self.value}: max_loss and min_accuracy are shares, budget tokens")


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of the surface features, and how far training questions lie from the middle."""

    mean: Floats
    deviation: Floats
    middle: Floats
    far: float


@dataclass(frozen=True)
class FittedRouter:
    """See the module; ``Decides`` is its protocol."""

    config: RouterConfig
    routes: tuple[str, ...]
    """Cheapest first."""
    methods: Mapping[str, str]
    categories: tuple[str, ...]
    scale: Scale
    success: Linear
    platt: Floats
    """Slope and offset of each route's calibration (2, routes)."""
    log_tokens: Linear
    price: float
    dearest: float
    """C0, mean tokens of the dearest route."""
    figures: Mapping[str, Json] = field(default_factory=dict)

    @property
    def fallback(self) -> str:
        """The dearest route."""
        return self.routes[-1]

    def encoder(self) -> TextEncoder:
        """A fresh one."""
        return open_encoder(self.config.encoder)

    def judged(self, x: Floats) -> tuple[Floats, Floats]:
        """Calibrated success and expected tokens (n, routes) of features (n, d)."""
        logits = self.success(x) * self.platt[0] + self.platt[1]
        return 1 / (1 + np.exp(-logits)), np.exp(self.log_tokens(x))

    def chosen(self, success: Floats, tokens: Floats, price: float | None = None) -> npt.NDArray[np.int64]:
        """Index of the route of each question; ties go to the cheaper."""
        worth = success - (self.price if price is None else price) * tokens / self.dearest
        return worth.argmax(1)


class LiveRouter:
    """A fitted router with its encoder loaded: what the proxy and the method ask."""

    def __init__(self, fitted: FittedRouter) -> None:
        self.fitted, self._encoder = fitted, fitted.encoder()

    @property
    def routes(self) -> Sequence[str]:
        """Names, cheapest first."""
        return self.fitted.routes

    @property
    def fallback(self) -> str:
        """The route of questions that cannot be judged."""
        return self.fitted.fallback

    def decide(self, question: str, category: str | None = None) -> Decision:
        """The route of one question."""
        if not question.strip():
            return Decision(self.fallback, {}, {}, "empty")
        vectors = self._encoder.encode([shortened(question)])
        x = features(self.fitted, vectors, [question], [category or ""])
        if not np.isfinite(x).all():
            return Decision(self.fallback, {}, {}, "features are no numbers")
        if float(_distance(vectors, self.fitted.scale.middle)[0]) > self.fitted.scale.far:
            return Decision(self.fallback, {}, {}, "unlike the training questions")
        success, tokens = self.fitted.judged(x)
        at = int(self.fitted.chosen(success, tokens)[0])
        named = [dict(zip(self.routes, map(float, row[0]), strict=True)) for row in (success, tokens)]
        return Decision(self.routes[at], named[0], named[1])


def features(router: FittedRouter, vectors: Floats, questions: Sequence[str], categories: Sequence[str]) -> Floats:
    """Encoder's vector, scaled surface features, category; (n, d)."""
    return _features(vectors, questions, categories, router.categories, router.scale)


@dataclass(frozen=True)
class Held:
    """Predictions (n, routes) for questions that the heads did not see."""

    success: Floats
    tokens: Floats


def fit_router(table: RouteTable, config: RouterConfig, encoder: TextEncoder | None = None) -> FittedRouter:
    """Fit heads, calibration and price.

    Raises:
        BadInput: an aim that no price reaches.
    """
    encoder = encoder or open_encoder(config.encoder)
    found = _cross_fit(table, config, encoder)
    draft = FittedRouter(
        config,
        table.routes,
        table.methods,
        found.categories,
        found.scale,
        fit_success(found.x, table.success, table.samples, found.strength),
        found.platt,
        fit_log_tokens(found.x, table.tokens, found.strength),
        0.0,
        float(table.tokens[:, -1].mean()),
    )
    price = choose_price(draft, table, found.held)
    facts: dict[str, Json] = {"questions": len(table.ids), "strength": found.strength, "data": table.fingerprint(),
                              "encoder": encoder.fingerprint(), "price": price}  # fmt: skip
    return replace(draft, price=price, figures=facts)


def held_out(table: RouteTable, config: RouterConfig, encoder: TextEncoder | None = None) -> Held:
    """Cross-fitted, calibrated predictions of a table."""
    return _cross_fit(table, config, encoder or open_encoder(config.encoder)).held


@dataclass(frozen=True)
class _CrossFit:
    """Features of a table, and what its folds say."""

    x: Floats
    scale: Scale
    categories: tuple[str, ...]
    strength: float
    platt: Floats
    held: Held


def _cross_fit(table: RouteTable, config: RouterConfig, encoder: TextEncoder) -> _CrossFit:
    texts = [shortened(question) for question in table.questions]
    vectors = encoder.encode(texts)
    categories = tuple(sorted(set(table.categories) - {""}))
    scale = _scale(vectors, texts)
    x = _features(vectors, texts, table.categories, categories, scale)
    folds = folds_of(table.questions, seed=config.seed)
    strength = choose_strength(x, table.success, table.samples, folds)
    logits = cross_fitted(lambda at: fit_success(x[at], table.success[at], table.samples[at], strength), x, folds)
    tokens = cross_fitted(lambda at: fit_log_tokens(x[at], table.tokens[at], strength), x, folds)
    platt = _platt(logits, table)
    held = Held(1 / (1 + np.exp(-(logits * platt[0] + platt[1]))), np.exp(tokens))
    return _CrossFit(x, scale, categories, strength, platt, held)


def choose_price(router: FittedRouter, table: RouteTable, held: Held) -> float:
    """The price that meets the aim on held-out predictions.

    `max_loss` takes the highest price at which the upper 95% bound of the loss against the dearest route is met, the
    loss measured on what the questions brought; without one, 0.

    Raises:
        BadInput: no price meets a budget or an accuracy.
    """
    aim, value = router.config.aim, router.config.value
    if aim == "price":
        return value
    rows = np.arange(len(table.ids))
    prices = [0.0, *np.geomspace(1e-4, 10, PRICES)]
    best: float | None = 0.0 if aim == "max_loss" else None
    for price in prices:
        at = router.chosen(held.success, held.tokens, price)
        accuracy, tokens = table.success[rows, at], table.tokens[rows, at]
        if aim == "budget" and tokens.mean() <= value:
            return price
        if aim == "min_accuracy" and accuracy.mean() >= value:
            best = price
        if aim == "max_loss":
            change = difference_interval(table.success[:, -1], accuracy, Bootstrap(draws=500))
            best = price if -change.low <= value else best
    if best is None:
        raise BadInput(f"{aim}={value:g}: no price reaches it; the routes' means are {_means(table)}")
    return best


def _means(table: RouteTable) -> str:
    figures = zip(table.routes, table.success.mean(0), table.tokens.mean(0), strict=True)
    return ", ".join(f"{route}: {accuracy:.3f} at {tokens:.0f} tokens" for route, accuracy, tokens in figures)


def _features(
    vectors: Floats, texts: Sequence[str], given: Sequence[str], categories: Sequence[str], scale: Scale
) -> Floats:
    counted = (surface(texts) - scale.mean) / scale.deviation
    one_hot = np.array([[float(each == name) for name in categories] for each in given]).reshape(len(texts), -1)
    # Counts and vectors weigh alike under one l2 term.
    return np.hstack([vectors * np.sqrt(len(SURFACE)), counted, one_hot])


def _scale(vectors: Floats, texts: Sequence[str]) -> Scale:
    counted = surface(texts)
    middle = vectors.mean(0)
    far = float(np.percentile(_distance(vectors, middle), FAR))
    deviation = counted.std(0)
    return Scale(counted.mean(0), np.where(deviation > 0, deviation, 1.0), middle, far)


def _distance(vectors: Floats, middle: Floats) -> Floats:
    return np.linalg.norm(vectors - middle, axis=1)


def _platt(logits: Floats, table: RouteTable) -> Floats:
    """Slope and offset per route that make held-out scores probabilities (Platt 1999)."""
    columns = []
    for at in range(logits.shape[1]):
        found = fit_success(logits[:, at : at + 1], table.success[:, at : at + 1], table.samples[:, at : at + 1], 1e-3)
        columns.append([max(0.0, float(found.weights[0, 0])), float(found.bias[0])])
    return np.array(columns).T
