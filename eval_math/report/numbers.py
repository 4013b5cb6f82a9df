"""How figures are written in a page: rates as percent, differences as points, both with their intervals."""

from __future__ import annotations

import math

from ..statistics import Interval
from .collection import Entry

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def accuracy_of(entry: Entry) -> Interval:
    """The run's accuracy with its interval."""
    return Interval(entry.row.accuracy, entry.row.accuracy_low, entry.row.accuracy_high)


def percent(interval: Interval, *, unit: str = "%", range_: bool = True) -> str:
    """A fraction as percent, its interval in small print."""
    if not math.isfinite(interval.value):
        return DASH
    value = f"{100 * interval.value:.1f}{unit}".replace("-", MINUS)
    if not range_ or not math.isfinite(interval.low):
        return value
    return f'{value} <span class="range">{between(interval)}</span>'


def points(interval: Interval, *, range_: bool = True) -> str:
    """A difference of fractions as signed points."""
    if not math.isfinite(interval.value):
        return DASH
    value = f"{100 * interval.value:+.1f}".replace("-", MINUS)
    if not range_ or not math.isfinite(interval.low):
        return value
    return f'{value} <span class="range">{between(interval, "+")}</span>'


def between(interval: Interval, sign: str = "") -> str:
    """The bounds of an interval of fractions, in percent."""
    low, high = (f"{100 * bound:{sign}.1f}".replace("-", MINUS) for bound in (interval.low, interval.high))
    return f"{low} to {high}"


def score(interval: Interval) -> str:
    """A score without unit, two decimals."""
    if not math.isfinite(interval.value):
        return DASH
    value, low, high = (f"{v:+.2f}".replace("-", MINUS) for v in (interval.value, interval.low, interval.high))
    return f'{value} <span class="range">{low} to {high}</span>'


def chance(p: float | None) -> str:
    """McNemar's p, or nothing."""
    if p is None:
        return ""
    return "p &lt; 0.001" if p < 0.001 else f"p = {p:.2g}"


def count(number: int, n: int) -> str:
    """A count whose share shows on hovering."""
    return f'<span title="{100 * number / n:.1f}% of {n:,}">{number:,}</span>' if n else "0"
