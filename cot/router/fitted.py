"""A fitted router: features, heads, calibration and a price of tokens; how it is fitted, and how it decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput
from eval_math.records import Json, digest

from .calibration import Calibration, Kind, calibrate, logistic
from .decision import Decision
from .features import SURFACE, TextEncoder, open_encoder, shortened, surface
from .heads import Linear, Part, cross_fitted, fit_log_tokens, fit_success, folds_of, least, log_loss, parts_of
from .policy import Aim, Held, Places, choose_price, decided
from .table import Floats, RouteTable

FAR = 99.0
"""Questions further from the training questions than this percentile of theirs are not judged."""
FALLBACKS = ("", "empty", "features are no numbers", "unlike the training questions")


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
    calibration: Kind = "platt"

    def __post_init__(self) -> None:
        good = {"max_loss": 0 <= self.value < 1, "min_accuracy": 0 <= self.value <= 1, "budget": self.value > 0,
                "price": 0 <= self.value < math.inf}  # fmt: skip
        if not good.get(self.aim, False):
            raise BadInput(f"aim={self.aim}, value={self.value}: max_loss and min_accuracy are shares, budget tokens")


@dataclass(frozen=True)
class Scale:
    """How features are made comparable, and how far from the middle training questions lie."""

    mean: Floats
    """Of the surface features."""
    deviation: Floats
    shares: Floats
    """Of the categories: stands for one that is not known."""
    middle: Floats
    """Mean of the encoder's vectors."""
    far: float


@dataclass(frozen=True)
class FittedRouter:
    """See the module."""

    config: RouterConfig
    routes: tuple[str, ...]
    """Cheapest first."""
    methods: Mapping[str, str]
    categories: tuple[str, ...]
    scale: Scale
    success: Linear
    calibration: Calibration
    log_tokens: Linear
    by_category: Floats
    """Mean success (categories, routes): the rule that a router has to beat."""
    seen: npt.NDArray[np.int64]
    """Marks of the questions it was fitted on, see `marks_of`."""
    price: float | None
    """None: the dearest route for every question."""
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

    def predicted(self, x: Floats) -> Held:
        """Calibrated success and expected tokens of features (n, d)."""
        return Held(self.calibration(self.success(x)), np.exp(self.log_tokens(x)))

    def chosen(self, held: Held) -> Places:
        """Index of the route of each question; ties go to the cheaper."""
        return decided(held, self.price, self.dearest)


@dataclass(frozen=True)
class Judged:
    """Predictions of many questions, the index of the route of each, and why it was not judged ("" if it was)."""

    held: Held
    at: Places
    fallback: tuple[str, ...]


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
        judged = self.judge([question], [category or ""])
        if judged.fallback[0]:
            return Decision(self.fallback, {}, {}, judged.fallback[0])
        named = [
            dict(zip(self.routes, map(float, row[0]), strict=True)) for row in (judged.held.success, judged.held.tokens)
        ]
        return Decision(self.routes[int(judged.at[0])], named[0], named[1])

    def judge(self, questions: Sequence[str], categories: Sequence[str]) -> Judged:
        """The routes of many questions at once."""
        fitted, texts = self.fitted, [shortened(question) for question in questions]
        vectors = self._encoder.encode(texts)
        x = _features(vectors, texts, categories, fitted.categories, fitted.scale)
        empty = np.array([not text.strip() for text in texts])
        broken = ~np.isfinite(x).all(1)
        far = _distance(vectors, fitted.scale.middle) > fitted.scale.far
        held = fitted.predicted(np.where(broken[:, None], 0.0, x))
        reasons = np.select([empty, broken, far], [1, 2, 3], 0)
        at = np.where(reasons > 0, len(fitted.routes) - 1, fitted.chosen(held))
        return Judged(held, at, tuple(FALLBACKS[reason] for reason in reasons))


@dataclass(frozen=True)
class Fit:
    """A router, and what its folds say of the questions it was fitted on."""

    router: FittedRouter
    held: Held


def fit_router(table: RouteTable, config: RouterConfig, encoder: TextEncoder | None = None) -> Fit:
    """Fit heads, calibration and price.

    Raises:
        BadInput: an aim that no price reaches.
    """
    encoder = encoder or open_encoder(config.encoder)
    found = _cross_fit(table, config, encoder)
    price = choose_price(table, found.held, config.aim, config.value)
    draft = FittedRouter(
        config,
        table.routes,
        table.methods,
        found.categories,
        found.scale,
        fit_success(found.x, table.success, table.samples, found.strengths[0]),
        found.calibration,
        fit_log_tokens(found.x, table.tokens, found.strengths[1]),
        _by_category(table, found.categories),
        marks_of(table.questions),
        price.price,
        float(table.tokens[:, -1].mean()),
    )
    facts: dict[str, Json] = {
        "laconic": metadata.version("laconic"),
        "model": table.model,
        "questions": len(table.ids),
        "data": table.fingerprint(),
        "encoder": encoder.fingerprint(),
        "strengths": list(found.strengths),
        "truncated": dict(zip(table.routes, table.truncated.mean(0).tolist(), strict=True)) if table.truncated.size
        else None,
        "held_out": asdict(price),
    }  # fmt: skip
    return Fit(replace(draft, figures=facts), found.held)


def recalibrate(router: FittedRouter, table: RouteTable, config: RouterConfig | None = None) -> Fit:
    """Keep the heads; fit calibration and price to the results of another model or mix (about 200 questions do).

    Raises:
        BadInput: other routes, the questions of the fit, or an aim that no price reaches.
    """
    check_table(router, table)
    config = replace(router.config, **{} if config is None else {"aim": config.aim, "value": config.value,
                                                               "calibration": config.calibration})  # fmt: skip
    x, _, _ = _table_features(table, router.encoder(), router.categories, router.scale)
    logits = router.success(x)
    calibration = calibrate(config.calibration, logits, table.success, table.samples)
    tokens = np.exp(router.log_tokens(x))
    offset = np.log(table.tokens.mean(0) / tokens.mean(0))
    log_tokens = Linear(router.log_tokens.weights, router.log_tokens.bias + offset)
    held = Held(calibration(logits), tokens * np.exp(offset))
    price = choose_price(table, held, config.aim, config.value)
    facts: dict[str, Json] = {"recalibrated_on": table.fingerprint(), "held_out": asdict(price)}
    seen = np.union1d(router.seen, marks_of(table.questions))
    changed = replace(router, config=config, calibration=calibration, log_tokens=log_tokens, seen=seen,
                      price=price.price, dearest=float(table.tokens[:, -1].mean()),
                      figures={**router.figures, **facts})  # fmt: skip
    return Fit(changed, held)


def held_out(table: RouteTable, config: RouterConfig, encoder: TextEncoder | None = None) -> Held:
    """Predictions of every question by a router fitted on the other folds, l2 term and calibration included.

    Unlike the predictions inside a fit, whose l2 terms and calibration are chosen over all folds together, nothing here
    has seen the question: what a figure of a router's worth needs.
    """
    encoder = encoder or open_encoder(config.encoder)
    x, scale, categories = _table_features(table, encoder)
    names = table.fold_names
    success, tokens = np.zeros_like(table.success), np.zeros_like(table.tokens)
    for part in parts_of(x, folds_of(names, seed=config.seed + 1), names):
        inner = _cross_fit_features(table.rows(part.outside), x[part.outside], config)
        rest = table.rows(part.outside)
        head = fit_success(part.span, rest.success, rest.samples, inner.strengths[0])
        success[part.inside] = inner.calibration(head(x[part.inside]))
        tokens[part.inside] = np.exp(fit_log_tokens(part.span, rest.tokens, inner.strengths[1])(x[part.inside]))
    return Held(success, tokens)


def marks_of(questions: Sequence[str]) -> npt.NDArray[np.int64]:
    """63-bit hashes of questions, white space aside, sorted."""
    return np.unique([int(digest(" ".join(shortened(each).split()))[:16], 16) >> 1 for each in questions])


def check_table(router: FittedRouter, table: RouteTable, *, allow_seen: bool = False) -> None:
    """Refuse a table that says nothing about a router.

    Raises:
        BadInput: other routes, or questions that it was fitted on.
    """
    if table.routes != router.routes and set(table.routes) != set(router.routes):
        raise BadInput(f"the table has routes {', '.join(table.routes)}, the router {', '.join(router.routes)}")
    shared = np.intersect1d(router.seen, marks_of(table.questions))
    if len(shared) and not allow_seen:
        raise BadInput(
            f"the router was fitted on {len(shared)} of these {len(table.ids)} questions, so their figures would flatter "
            "it; give runs on other problems, or --allow-seen to look all the same"
        )


@dataclass(frozen=True)
class _CrossFit:
    """What the folds of a table say."""

    x: Floats
    scale: Scale
    categories: tuple[str, ...]
    strengths: tuple[float, float]
    """l2 terms of success and of tokens."""
    calibration: Calibration
    held: Held


@dataclass(frozen=True)
class _Inner:
    strengths: tuple[float, float]
    calibration: Calibration
    held: Held


def _cross_fit(table: RouteTable, config: RouterConfig, encoder: TextEncoder) -> _CrossFit:
    x, scale, categories = _table_features(table, encoder)
    inner = _cross_fit_features(table, x, config)
    return _CrossFit(x, scale, categories, inner.strengths, inner.calibration, inner.held)


def _cross_fit_features(table: RouteTable, x: Floats, config: RouterConfig) -> _Inner:
    y, samples, log_tokens = table.success, table.samples, np.log(np.maximum(table.tokens, 1.0))
    parts = parts_of(x, folds_of(table.fold_names, seed=config.seed), table.fold_names)
    logits: dict[float, Floats] = {}
    costs: dict[float, Floats] = {}

    def success_of(part: Part, strength: float) -> Linear:
        return fit_success(part.span, y[part.outside], samples[part.outside], strength)

    def loss(strength: float) -> float:
        logits[strength] = cross_fitted(lambda part: success_of(part, strength), x, parts)
        return log_loss(logits[strength], y, samples)

    def cost_loss(strength: float) -> float:
        costs[strength] = cross_fitted(
            lambda part: fit_log_tokens(part.span, table.tokens[part.outside], strength), x, parts
        )
        return float(((costs[strength] - log_tokens) ** 2).mean())

    strengths = least(loss), least(cost_loss)
    found = logits[strengths[0]]
    calibration = calibrate(config.calibration, found, y, samples)
    return _Inner(strengths, calibration, Held(calibration(found), np.exp(costs[strengths[1]])))


def _table_features(
    table: RouteTable, encoder: TextEncoder, categories: tuple[str, ...] | None = None, scale: Scale | None = None
) -> tuple[Floats, Scale, tuple[str, ...]]:
    texts = [shortened(question) for question in table.questions]
    vectors = encoder.encode(texts)
    if categories is None:
        categories = tuple(sorted(set(table.categories) - {""}))
    scale = scale or _scale(vectors, texts, table.categories, categories)
    return _features(vectors, texts, table.categories, categories, scale), scale, categories


def _features(
    vectors: Floats, texts: Sequence[str], given: Sequence[str], categories: Sequence[str], scale: Scale
) -> Floats:
    """Encoder's vector, scaled surface features, category; (n, d)."""
    counted = (surface(texts) - scale.mean) / scale.deviation
    known = {name: row for name, row in zip(categories, np.eye(len(categories)), strict=True)}
    one_hot = np.array([known.get(each, scale.shares) for each in given]).reshape(len(texts), -1)
    # Counts and vectors weigh alike under one l2 term.
    return np.hstack([vectors * np.sqrt(len(SURFACE)), counted, one_hot])


def _scale(vectors: Floats, texts: Sequence[str], given: Sequence[str], categories: Sequence[str]) -> Scale:
    counted = surface(texts)
    middle = vectors.mean(0)
    far = float(np.percentile(_distance(vectors, middle), FAR))
    deviation = counted.std(0)
    shares = np.array([given.count(name) for name in categories], dtype=np.float64) / max(1, len(given))
    return Scale(counted.mean(0), np.where(deviation > 0, deviation, 1.0), shares, middle, far)


def _by_category(table: RouteTable, categories: Sequence[str]) -> Floats:
    given = np.array(table.categories)
    rows = [table.success[given == name].mean(0) for name in categories]
    return np.array(rows).reshape(len(categories), len(table.routes))


def _distance(vectors: Floats, middle: Floats) -> Floats:
    return np.linalg.norm(vectors - middle, axis=1)
