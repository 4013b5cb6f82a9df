"""A router against what it has to beat: single routes, chance, length, category, and an oracle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput
from eval_math.report.curve import Axes, draw_curves
from eval_math.statistics import Interval, difference_interval, saving_interval

from .curve import apgr, auroc, calibration_error, cpt, curve_of, oracle_of, resampled
from .features import shortened
from .fitted import LiveRouter, features
from .table import Floats, RouteTable


@dataclass(frozen=True)
class Rule:
    """A way to choose routes and what it brings."""

    name: str
    accuracy: float
    tokens: float
    saved: float
    """Share of the dearest route's tokens."""


@dataclass(frozen=True)
class RouterReport:
    """What `evaluate_router` finds."""

    n: int
    dearest: str
    rules: tuple[Rule, ...]
    loss: Interval
    """Accuracy lost against the dearest route, paired by question."""
    saved: Interval
    areas: Mapping[str, Interval]
    """APGR over calls and tokens of the router, of length and of category; oracle; AUROC; CPT; calibration error."""
    fallbacks: int
    oracle_share: float
    """Saved tokens over those an oracle saves at the same accuracy."""


def evaluate_router(table: RouteTable, live: LiveRouter, draws: int = 2000) -> RouterReport:
    """Figures on the questions of ``table``.

    Raises:
        BadInput: a table of other routes.
    """
    if table.routes != tuple(live.routes):
        raise BadInput(f"the table has routes {', '.join(table.routes)}, the router {', '.join(live.routes)}")
    rows = np.arange(len(table.ids))
    at, fallbacks = decisions(table, live)
    accuracy, tokens = table.success[rows, at], table.tokens[rows, at]
    dear = table.tokens[:, -1]
    rules = [_rule(f"always {name}", table.success[:, j], table.tokens[:, j], dear) for j, name in
             enumerate(table.routes)]  # fmt: skip
    rules.append(_rule("router", accuracy, tokens, dear))
    best = _oracle_at(table, float(accuracy.mean()))
    rules.append(Rule("oracle", best[0], best[1], 1 - best[1] / float(dear.mean())))
    change = difference_interval(table.success[:, -1], accuracy)
    saved = saving_interval(dear, tokens)
    share = saved.value / rules[-1].saved if rules[-1].saved > 0 else float("nan")
    loss = Interval(-change.value, -change.high, -change.low)
    return RouterReport(len(rows), table.routes[-1], tuple(rules), loss, saved, _areas(table, live, draws), fallbacks,
                        share)  # fmt: skip


def decisions(table: RouteTable, live: LiveRouter) -> tuple[npt.NDArray[np.int64], int]:
    """Index of the route of each question, and how many could not be judged."""
    found = [live.decide(q, c) for q, c in zip(table.questions, table.categories, strict=True)]
    places = np.array([table.routes.index(each.route) for each in found])
    return places, sum(bool(each.fallback) for each in found)


def scores_of(table: RouteTable, live: LiveRouter) -> tuple[Floats, Floats]:
    """Predicted gain of the dearest over the cheapest route per question, and the successes (n, routes)."""
    texts = [shortened(question) for question in table.questions]
    x = features(live.fitted, live.fitted.encoder().encode(texts), texts, table.categories)
    success, _ = live.fitted.judged(x)
    return success[:, -1] - success[:, 0], success


def draw_curve(table: RouteTable, live: LiveRouter) -> str:
    """Accuracy against mean tokens as SVG: the router's scores, the oracle, the straight line of chance."""
    score, _ = scores_of(table, live)
    lines = {}
    for name, curve in (("router", curve_of(score, table)), ("oracle", oracle_of(table))):
        lines[name] = [(float(x), 100 * float(y)) for x, y in zip(curve.tokens, curve.accuracy, strict=True)]
    ends = [lines["router"][0], lines["router"][-1]]
    return draw_curves({**lines, "chance": ends}, Axes("Router", "mean tokens", "accuracy %"))


def _areas(table: RouteTable, live: LiveRouter, draws: int) -> dict[str, Interval]:
    score, success = scores_of(table, live)
    length = np.array([len(question) for question in table.questions], dtype=np.float64)
    wanted = (table.success[:, -1] > table.success[:, 0]).astype(np.float64)
    found = {
        "APGR, calls": lambda i: apgr(curve_of(score[i], table.rows(i))),
        "APGR, tokens": lambda i: apgr(curve_of(score[i], table.rows(i)), "tokens"),
        "APGR, length alone": lambda i: apgr(curve_of(length[i], table.rows(i))),
        "APGR, oracle": lambda i: apgr(oracle_of(table.rows(i))),
        "AUROC, gain": lambda i: auroc(score[i], wanted[i]),
        "CPT(50%)": lambda i: cpt(curve_of(score[i], table.rows(i)), 0.5),
        "CPT(80%)": lambda i: cpt(curve_of(score[i], table.rows(i)), 0.8),
        "ECE, cheapest": lambda i: calibration_error(success[i, 0], table.success[i, 0]),
        "ECE, dearest": lambda i: calibration_error(success[i, -1], table.success[i, -1]),
    }
    return {name: resampled(figure, len(score), draws) for name, figure in found.items()}


def _rule(name: str, accuracy: Floats, tokens: Floats, dear: Floats) -> Rule:
    return Rule(name, float(accuracy.mean()), float(tokens.mean()), float(1 - tokens.mean() / dear.mean()))


def _oracle_at(table: RouteTable, accuracy: float) -> tuple[float, float]:
    """Accuracy and tokens of one who knows what every route brings: the fewest tokens at which it is as accurate.

    By Lagrange: each question takes the route with the highest success minus a price for its tokens; the highest price
    that is accurate enough is found by bisection.
    """
    rows = np.arange(len(table.ids))

    def bought(log_price: float) -> tuple[float, float]:
        at = (table.success - np.exp(log_price) * table.tokens).argmax(1)
        return float(table.success[rows, at].mean()), float(table.tokens[rows, at].mean())

    low, high = np.log(1e-9), np.log(10.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if bought(middle)[0] >= accuracy - 1e-12 else (low, middle)
    return bought(low)
