"""`laconic grade`: grade a file of outputs, whoever made them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from eval_math.grading import Verdict


@dataclass(frozen=True)
class GradeFile:
    """Grade rows {id, gold, output}; rows may also carry benchmark, source, and the label correct."""

    file: tyro.conf.Positional[Path]
    """JSON lines (.jsonl, .jsonl.gz); output may also be called prediction or pred, gold may be called answer."""
    out: Path | None = None
    """Write {id, status, extracted, rule, tier, reason} per row to this file."""
    benchmark: str = "auto"
    """Policy: auto, gsm8k, gsm-hard, svamp, embedded, math, math500, aime24, aime25; a row's own benchmark wins."""
    limit: int | None = None
    """Only the first rows."""
    workers: int = 2
    """Symbolic comparisons beside each other."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: GradeFile) -> int:
    """Grade the file, print the table."""
    from eval_math.errors import BadInput
    from eval_math.graded_files import FileTask, grade_file

    from .command import write_figures

    for name in ("limit", "workers"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise BadInput(f"--{name} {value}: a number from 1 is expected")
    if command.out is not None and command.out.exists() and command.out.samefile(command.file):
        raise BadInput(f"--out {command.out}: is the file to be graded; choose another one")
    task = FileTask(command.file, command.out, command.benchmark, command.limit, command.workers)
    figures = grade_file(task, _bar())
    # With --json - the figures alone stand on standard output.
    talk = sys.stderr if command.json == "-" else sys.stdout
    print(table(figures), file=talk)
    if command.out is not None:
        print(f"\nwrote {command.out}", file=talk)
    write_figures(command.json, figures)
    return 0


def table(figures: Mapping[str, Any]) -> str:
    """Counts by source; agreement with the rows' labels where they have any."""
    head = ["source", "n", "correct", "incorrect", "unparsable", "timeout", "gold unparsable", "truncated"]
    labelled = figures["labelled"] > 0
    head += ["agreement", "false pos.", "false neg."] if labelled else ["accuracy", "95% interval"]
    sources = figures["sources"]
    rows = [_row(name, sources[name], labelled) for name in sources]
    if len(rows) > 1 and not labelled:
        rows.append(_row("all", figures, labelled))
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(_aligned(row, widths)) for row in [head, *rows]]
    counts = {kind: ", ".join(f"{name} {n}" for name, n in figures[kind].items()) for kind in ("rules", "tiers")}
    speed = f"{figures['n']} answers in {figures['seconds']:.1f} s ({figures['answers_per_second']:,.0f}/s)"
    return "\n".join([*lines, "", f"rules: {counts['rules']}", f"tiers: {counts['tiers']}", speed])


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _row(name: str, figures: Mapping[str, Any], labelled: bool) -> list[str]:
    statuses = figures["statuses"]
    cells = [name, str(figures["n"]), *(str(statuses[status]) for status in statuses), str(figures["truncated"])]
    if not labelled:
        interval = f"{figures['accuracy_low']:.3f} to {figures['accuracy_high']:.3f}"
        return [*cells, f"{figures['accuracy']:.4f}", interval]
    if not figures["labelled"]:
        return [*cells, "-", "-", "-"]
    wrong = (str(figures["false_positives"]), str(figures["false_negatives"]))
    return [*cells, f"{figures['agreement']:.4f}", *wrong]


def _bar() -> Callable[[int, Verdict], None] | None:
    if not sys.stderr.isatty():
        return None
    started = last = time.monotonic()

    def show(done: int, verdict: Verdict) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.5:
            last = now
            print(f"\r{done} graded, {done / (now - started):,.0f}/s ", end="", file=sys.stderr, flush=True)

    return show
