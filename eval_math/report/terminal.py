"""The table of a report as plain text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..paired import Comparison
from ..statistics import Interval
from ..summary import SummaryRow
from .names import model_name, short_names

HEADS = (
    ("method", ""),
    ("n", ""),
    ("accuracy %", "[95%]"),
    ("thinking", "mean"),
    ("", "p95"),
    ("answer", "mean"),
    ("cut", "off"),
    ("loops", ""),
    ("no", "answer"),
    ("tokens per", "correct"),
    ("change vs baseline", "points [95%]"),
    ("thinking saved", "% [95%]"),
    ("accuracy", "vs margin"),
)
FIXED = 10
"""Columns that are there without a comparison too."""


def format_table(rows: Sequence[SummaryRow], comparisons: Sequence[Comparison] = ()) -> str:
    """Rows as an aligned table, one block per benchmark, with the paired comparisons that belong to them.

    "no answer" counts unparsable answers, timeouts of the grader and engine errors.
    """
    blocks = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        found = {(c.run, c.method): c for c in comparisons if c.benchmark == benchmark}
        block = [row for row in rows if row.benchmark == benchmark]
        names = short_names([row.method for row in block])
        body = [[name, *_cells(row, found.get((row.run, row.method)))] for name, row in zip(names, block, strict=True)]
        blocks.append("\n".join([_heading(benchmark, block, list(found.values())), "", *_aligned(body)]))
    return "\n\n".join(blocks)


def format_comparison(comparison: Comparison, *, most_problems: int = 20) -> str:
    """Two runs problem by problem, in lines of plain text."""
    c = comparison
    margin = f"{100 * c.margin:g} points"
    verdict = {
        "kept": f"kept: the whole interval lies above -{margin}",
        "lost": f"lost: the whole interval lies below -{margin}",
        "open": f"not decided at a margin of {margin}: more problems are needed",
    }[c.equal_accuracy]
    chance = f", p = {c.mcnemar_p:.2g} (McNemar, exact)" if c.mcnemar_p is not None else ""
    lines = {
        "accuracy": f"{_percent(c.accuracy_difference, sign='+')} points{chance}",
        "": f"{verdict}",
        "problems": f"{c.both_right:,} right in both, {len(c.gained):,} gained, {len(c.lost):,} lost, "
        f"{c.both_wrong:,} wrong in both",
        "thinking": f"{_percent(c.thinking_saving)} % of the tokens saved",
        "all tokens": f"{_percent(c.total_saving)} % saved",
        "AES": _score(c.aes),
        "power": _power(c),
    }
    head = f"{c.method} against {c.baseline} on {c.benchmark}, {c.n_problems:,} problems"
    if c.unmatched:
        head += f" ({c.unmatched:,} that only one of them has are left out)"
    body = [f"  {name:<11} {text}" for name, text in lines.items()]
    return "\n".join([head, "", *body, *_named(c, most_problems)])


def _score(interval: Interval) -> str:
    if not math.isfinite(interval.value):
        return "-"
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}] (weights 1, 3, 5; baseline 0)"


def _power(c: Comparison) -> str:
    if math.isnan(c.smallest_visible):
        return "too few problems to say what they could show, or several samples for each"
    needed = c.problems_for_a_point
    more = f"; one point would take {needed:,} problems" if needed and needed > c.n_problems else ""
    return f"4 of 5 studies of this size see a change of {100 * c.smallest_visible:.1f} points{more}"


def _named(c: Comparison, most: int) -> list[str]:
    lines = []
    for kind, ids in (("gained", c.gained), ("lost", c.lost)):
        if ids and most:
            more = f", and {len(ids) - most:,} more" if len(ids) > most else ""
            lines.append(f"  {kind:<11} {', '.join(ids[:most])}{more}")
    return lines


def _heading(benchmark: str, rows: Sequence[SummaryRow], comparisons: Sequence[Comparison]) -> str:
    models = ", ".join(dict.fromkeys(model_name(row.model) for row in rows))
    problems = max(row.n_problems for row in rows)
    against = dict.fromkeys(c.baseline for c in comparisons)
    paired = ""
    if against:
        margin = f"accuracy kept or lost by {100 * comparisons[0].margin:g} points"
        paired = f"; changes are paired by problem, against {', '.join(against)}; {margin}"
    return f"{benchmark}, {problems:,} problems, model {models}{paired}"


def _cells(row: SummaryRow, comparison: Comparison | None) -> list[str]:
    accuracy = Interval(row.accuracy, row.accuracy_low, row.accuracy_high)
    return [
        f"{row.n:,}",
        _percent(accuracy),
        number(row.thinking_tokens_mean),
        number(row.thinking_tokens_p95),
        number(row.answer_tokens_mean),
        str(row.truncated),
        str(row.looping),
        str(row.unparsable + row.timeouts + row.errors),
        number(row.tokens_per_correct),
        _percent(comparison.accuracy_difference, sign="+") if comparison else "",
        _percent(comparison.thinking_saving) if comparison else "",
        comparison.equal_accuracy if comparison else "",
    ]


def _percent(interval: Interval, sign: str = "") -> str:
    if math.isnan(interval.value):
        return "-"
    value = f"{100 * interval.value:{sign}.1f}"
    return value if math.isnan(interval.low) else f"{value} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def number(value: float) -> str:
    """One decimal below 1,000, none above; a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def _aligned(body: Sequence[Sequence[str]]) -> list[str]:
    """Two lines of heads, a rule, the body; the first column to the left, the others to the right."""
    used = [i for i in range(len(HEADS)) if i < FIXED or any(cells[i] for cells in body)]
    grid = [[HEADS[i][line] for i in used] for line in (0, 1)] + [[cells[i] for i in used] for cells in body]
    widths = [max(len(cells[i]) for cells in grid) for i in range(len(used))]
    lines = [
        "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in grid
    ]
    return [line.rstrip() for line in [*lines[:2], "-" * len(lines[0]), *lines[2:]]]
