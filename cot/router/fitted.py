"""A fitted router: features, heads, calibration and a price of tokens; how it decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput
from eval_math.records import Json

from .calibration import Calibration, Kind
from .decision import Decision
from .features import SURFACE, TextEncoder, open_encoder, shortened, surface
from .heads import Linear
from .policy import Aim, Held, Places, decided
from .table import Floats

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
        x = features_of(vectors, texts, categories, fitted.categories, fitted.scale)
        empty = np.array([not text.strip() for text in texts])
        broken = ~np.isfinite(x).all(1)
        far = distance_of(vectors, fitted.scale.middle) > fitted.scale.far
        held = fitted.predicted(np.where(broken[:, None], 0.0, x))
        reasons = np.select([empty, broken, far], [1, 2, 3], 0)
        at = np.where(reasons > 0, len(fitted.routes) - 1, fitted.chosen(held))
        return Judged(held, at, tuple(FALLBACKS[reason] for reason in reasons))


def features_of(
    vectors: Floats, texts: Sequence[str], given: Sequence[str], categories: Sequence[str], scale: Scale
) -> Floats:
    """Encoder's vector, scaled surface features, category; (n, d)."""
    counted = (surface(texts) - scale.mean) / scale.deviation
    known = {name: row for name, row in zip(categories, np.eye(len(categories)), strict=True)}
    one_hot = np.array([known.get(each, scale.shares) for each in given]).reshape(len(texts), -1)
    # Counts and vectors weigh alike under one l2 term.
    return np.hstack([vectors * np.sqrt(len(SURFACE)), counted, one_hot])


def scale_of(vectors: Floats, texts: Sequence[str], given: Sequence[str], categories: Sequence[str]) -> Scale:
    """The scale of training questions."""
    counted = surface(texts)
    middle = vectors.mean(0)
    far = float(np.percentile(distance_of(vectors, middle), FAR))
    deviation = counted.std(0)
    shares = np.array([given.count(name) for name in categories], dtype=np.float64) / max(1, len(given))
    return Scale(counted.mean(0), np.where(deviation > 0, deviation, 1.0), shares, middle, far)


def distance_of(vectors: Floats, middle: Floats) -> Floats:
    """Of vectors (n, d) from the middle of the training questions."""
    return np.linalg.norm(vectors - middle, axis=1)
