"""A router against what it has to beat: single routes and mixes of them, length, category, and an oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from eval_math.report.curve import Axes, draw_curves
from eval_math.statistics import Interval, difference_interval, saving_interval

from .calibration import Bin, brier, calibration_error, reliability
from .curve import (
    DRAWS,
    Curve,
    Figure,
    accuracy_at,
    apgr,
    auroc,
    cpt,
    curve_of,
    oracle_of,
    resampled,
    tokens_for,
)
from .fitted import FittedRouter, Judged
from .policy import Held, decided, turning_points
from .table import Floats, RouteTable

LOSSES = (0.005, 0.01)
"""Losses of accuracy against the dearest route at which tokens saved are told."""
_DRAWN_POINTS = 300


@dataclass(frozen=True)
class Rule:
    """A way to choose routes and what it brings."""

    name: str
    accuracy: float
    tokens: float
    saved: float
    """Share of the dearest route's tokens."""


@dataclass(frozen=True)
class Honesty:
    """Of one route's predicted success."""

    brier: float
    error: Interval
    """Expected calibration error, 15 bins of equal mass."""
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class RouterReport:
    """What `report_on` finds."""

    n: int
    dearest: str
    rules: tuple[Rule, ...]
    routes: Mapping[str, int]
    """Questions sent down each route."""
    loss: Interval
    """Accuracy lost against the dearest route, paired by question."""
    saved: Interval
    areas: Mapping[str, Interval]
    """APGR over calls and tokens of the router and of what it has to beat; AUROC; CPT."""
    saved_at: Mapping[str, Interval]
    """Tokens saved at a loss, the price chosen in hindsight: what the predictions would allow at best."""
    honesty: Mapping[str, Honesty]
    token_error: Interval
    """Expected over real mean tokens of the chosen routes, minus 1."""
    truncated: Mapping[str, float]
    """Share of cut-off answers by route; they count as wrong."""
    fallbacks: Mapping[str, int]
    """Questions that could not be judged, by reason."""
    oracle_share: float
    """Saved tokens over those that an oracle saves at the same accuracy."""


def report_on(table: RouteTable, judged: Judged, router: FittedRouter, draws: int = DRAWS) -> RouterReport:
    """Figures on the questions of ``table``, whose routes are those of the router.

    Raises:
        BadInput: a table of other routes.
    """
    table = table.in_order(router.routes)
    rows, dear = np.arange(len(table.ids)), table.tokens[:, -1]
    accuracy, tokens = table.success[rows, judged.at], table.tokens[rows, judged.at]
    rules = [_rule(f"always {name}", table.success[:, at], table.tokens[:, at], dear)
             for at, name in enumerate(table.routes)]  # fmt: skip
    rules.append(_rule("router", accuracy, tokens, dear))
    rules += [replace(rules[-1], name=f"{name}, equal tokens", accuracy=accuracy_at(curve, float(tokens.mean())))
              for name, curve in _rivals(table, router).items()]  # fmt: skip
    best = tokens_for(oracle_of(table), float(accuracy.mean()))
    rules.append(Rule("oracle, equal accuracy", float(accuracy.mean()), best, 1 - best / float(dear.mean())))
    change, saved = difference_interval(table.success[:, -1], accuracy), saving_interval(dear, tokens)
    expected = judged.held.tokens[rows, judged.at]
    return RouterReport(
        len(rows),
        table.routes[-1],
        tuple(rules),
        {name: int((judged.at == at).sum()) for at, name in enumerate(table.routes)},
        Interval(-change.value, -change.high, -change.low),
        saved,
        {name: resampled(figure, len(rows), draws) for name, figure in _areas(table, judged.held, router).items()},
        {f"{100 * loss:g}": resampled(_saved_at(table, judged.held, loss), len(rows), draws) for loss in LOSSES},
        {name: _honesty(judged.held.success[:, at], table.success[:, at], draws)
         for at, name in enumerate(table.routes)},
        resampled(lambda w: w @ expected / (w @ tokens) - 1, len(rows), draws),
        dict(zip(table.routes, table.truncated.mean(0).tolist(), strict=True)) if table.truncated.size else {},
        dict(Counter(each for each in judged.fallback if each)),
        saved.value / rules[-1].saved if rules[-1].saved > 0 else float("nan"),
    )  # fmt: skip


def draw_curve(table: RouteTable, judged: Judged, router: FittedRouter) -> str:
    """Accuracy against mean tokens as SVG: the router at every price, the oracle, the best mix of single routes."""
    table = table.in_order(router.routes)
    accuracy, tokens = _at_prices(table, judged.held)
    curves = {
        "router": Curve(tokens.mean(1), tokens.mean(1), accuracy.mean(1)),
        "oracle": oracle_of(table),
        "mix": _mix(table),
    }
    lines = {name: list(zip(each.tokens.tolist(), (100 * each.accuracy).tolist(), strict=True))
             for name, each in curves.items()}  # fmt: skip
    kept = {name: line[:: max(1, len(line) // _DRAWN_POINTS)] + line[-1:] for name, line in lines.items()}
    return draw_curves(kept, Axes("Router", "mean tokens", "accuracy %"))


def _rivals(table: RouteTable, router: FittedRouter) -> dict[str, Curve]:
    """What needs no router: mixes of single routes; between two routes, length and category."""
    found = {"mix": _mix(table)}
    if len(table.routes) == 2:
        found["length"] = curve_of(_length(table), table)
        found |= {"category": curve_of(_category(table, router), table)} if router.categories else {}
    return found


def _mix(table: RouteTable) -> Curve:
    """The best random mix of single routes: the upper hull of their means."""
    means = (table.success.mean(0)[None], table.tokens.mean(0)[None], np.ones((1, len(table.routes))))
    return oracle_of(RouteTable(("",), ("",), ("",), table.routes, *means, {}))


def _areas(table: RouteTable, held: Held, router: FittedRouter) -> dict[str, Figure]:
    gain = held.success[:, -1] - held.success[:, 0]
    cost = held.tokens[:, -1] - held.tokens[:, 0]
    bargain = gain / np.maximum(cost, 1e-9 * held.tokens[:, -1])
    wanted = (table.success[:, -1] > table.success[:, 0]).astype(np.float64)
    failed = (table.success[:, 0] < 0.5).astype(np.float64)
    truth = table.success[:, -1] - table.success[:, 0]

    def area(score: Floats, axis: str = "calls") -> Figure:
        return lambda w: apgr(curve_of(score, table, w), axis)

    found: dict[str, Figure] = {
        "APGR, calls": area(gain),
        "APGR, tokens": area(bargain, "tokens"),
        "APGR, length alone": area(_length(table)),
        **({"APGR, category alone": area(_category(table, router))} if router.categories else {}),
        "APGR, cheapest fails": area(-held.success[:, 0]),
        "APGR, oracle": area(truth),
        "AUROC, gain": lambda w: auroc(gain, wanted, w),
        "AUROC, cheapest fails": lambda w: auroc(-held.success[:, 0], failed, w),
    }
    for share in (0.2, 0.5, 0.8):
        found[f"CPT({100 * share:.0f}%)"] = lambda w, share=share: cpt(curve_of(gain, table, w), share)
    return found


def _saved_at(table: RouteTable, held: Held, loss: float) -> Figure:
    """Most tokens saved at any price (or with the dearest route alone) whose loss is within ``loss``."""
    accuracy, tokens = _at_prices(table, held)

    def figure(weights: Floats) -> Floats:
        total = weights.sum(1, keepdims=True)
        right, spent = weights @ accuracy.T / total, weights @ tokens.T / total
        allowed = right >= right[:, -1:] - loss - 1e-12
        return np.where(allowed, 1 - spent / spent[:, -1:], -np.inf).max(1)

    return figure


def _at_prices(table: RouteTable, held: Held) -> tuple[Floats, Floats]:
    """Success and tokens (prices, questions) at falling prices, the dearest route alone at the end."""
    rows, dearest = np.arange(len(table.ids)), float(table.tokens[:, -1].mean())
    prices: list[float | None] = [float("inf"), *turning_points(held, dearest)[::-1].tolist(), None]
    chosen = [decided(held, price, dearest) for price in prices]
    return np.array([table.success[rows, at] for at in chosen]), np.array([table.tokens[rows, at] for at in chosen])


def _honesty(p: Floats, y: Floats, draws: int) -> Honesty:
    return Honesty(
        brier(p, y), resampled(lambda w: calibration_error(p, y, w), len(p), draws), reliability(p, y)
    )  # fmt: skip


def _length(table: RouteTable) -> Floats:
    return np.array([len(question) for question in table.questions], dtype=np.float64)


def _category(table: RouteTable, router: FittedRouter) -> Floats:
    gains = router.by_category[:, -1] - router.by_category[:, 0]
    known = dict(zip(router.categories, gains.tolist(), strict=True))
    return np.array([known.get(each, float(gains.mean())) for each in table.categories])


def _rule(name: str, accuracy: Floats, tokens: Floats, dear: Floats) -> Rule:
    return Rule(name, float(accuracy.mean()), float(tokens.mean()), float(1 - tokens.mean() / dear.mean()))
