"""`laconic report`: one HTML page from run folders, with the same figures in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Report:
    """One HTML page from run folders: accuracy against thinking tokens, table, traces side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, as `laconic eval` and `laconic demo` leave them."""
    out: Path = Path("report.html")
    """File to write; an earlier one is replaced."""
    baseline: str | None = None
    """Method or folder name to compare with; by default the run without a method, else the first."""
    title: str | None = None
    """Heading of the page."""
    max_traces: int = 300
    """Problems per benchmark whose traces the page carries, gained and lost ones first."""
    json: str | None = None
    """File for all figures as one JSON object; - for standard output."""


def run(command: Report) -> int:
    """Write the page and print the table."""
    import sys

    from eval_math.errors import BadInput
    from eval_math.report import format_table, write_report

    from .command import write_figures

    if command.max_traces < 0:
        raise BadInput(f"--max-traces {command.max_traces}: a number from 0 is expected")
    if not command.out.resolve().parent.is_dir():
        raise BadInput(f"--out {command.out}: the folder does not exist; make it first")
    collection = write_report(
        list(command.runs),
        command.out,
        title=command.title,
        baseline=command.baseline,
        max_traces=command.max_traces,
    )
    # With --json - the figures alone stand on standard output.
    talk = sys.stderr if command.json == "-" else sys.stdout
    print(format_table(collection.rows, collection.comparisons), file=talk)
    print(f"\nwrote {command.out}", file=talk)
    write_figures(command.json, collection.to_json())
    return 0
