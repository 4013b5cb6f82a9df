"""Interleaved pairs: A B, B A, A B ... in one process, so that a drifting machine moves both alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from cot.environment import hardware


@dataclass(frozen=True)
class Ratio:
    """Median of the paired ratios with its 95% interval (bootstrap over pairs), held against a goal."""

    name: str
    ratio: float
    low: float
    high: float
    goal: float
    holds: bool
    pairs: int
    hardware: str


def measure(name: str, first: Callable[[], float], second: Callable[[], float], *, pairs: int, goal: float) -> Ratio:
    """Ratio of what ``first`` returns to what ``second`` returns (a rate, larger is better), pair by pair."""
    first()
    second()
    ratios = []
    for index in range(pairs):
        if index % 2 == 0:
            a, b = first(), second()
        else:
            b, a = second(), first()
        ratios.append(a / b)
        print(f"  pair {index + 1}/{pairs}: {a:,.0f} against {b:,.0f}, ratio {a / b:.3f}", flush=True)
    draws = np.random.default_rng(0).choice(np.array(ratios), size=(10_000, pairs))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    median = float(np.median(ratios))
    return Ratio(name, median, float(low), float(high), goal, median >= goal, pairs, hardware())


def show(ratio: Ratio, target: str | None) -> int:
    """Print one line, write the JSON object if asked; exit code 1 where the goal is missed."""
    from scripts.command import write_figures

    verdict = "holds" if ratio.holds else "MISSED"
    print(f"{ratio.name}: {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], goal {ratio.goal}: {verdict}")
    write_figures(target, asdict(ratio))
    return 0 if ratio.holds else 1
