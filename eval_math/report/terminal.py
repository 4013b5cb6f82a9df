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
    ("no", "answer"),
    ("tokens", "/s"),
    ("change vs baseline", "points [95%]"),
    ("thinking saved", "% [95%]"),
)


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


def _heading(benchmark: str, rows: Sequence[SummaryRow], comparisons: Sequence[Comparison]) -> str:
    models = ", ".join(dict.fromkeys(model_name(row.model) for row in rows))
    problems = max(row.n_problems for row in rows)
    against = dict.fromkeys(c.baseline for c in comparisons)
    paired = f"; changes are paired by problem, against {', '.join(against)}" if against else ""
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
        str(row.unparsable + row.timeouts + row.errors),
        number(row.tokens_per_second),
        _percent(comparison.accuracy_difference, sign="+") if comparison else "",
        _percent(comparison.thinking_saving) if comparison else "",
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
    used = [i for i in range(len(HEADS)) if i < 9 or any(cells[i] for cells in body)]
    grid = [[HEADS[i][line] for i in used] for line in (0, 1)] + [[cells[i] for i in used] for cells in body]
    widths = [max(len(cells[i]) for cells in grid) for i in range(len(used))]
    lines = [
        "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in grid
    ]
    return [line.rstrip() for line in [*lines[:2], "-" * len(lines[0]), *lines[2:]]]
