"""`laconic report`: a page, a table or a figure from run folders, with the same figures in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Report:
    """One HTML page from run folders: accuracy against thinking tokens, tables, paired view, traces side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, as `laconic eval` and `laconic demo` leave them."""
    out: Path | None = None
    """File to write; an earlier one is replaced. Its ending chooses the format. Default: report.html."""
    format: Literal["html", "md", "csv", "json", "svg"] | None = None
    """html is the page; md, csv and json are the figures; svg is the plot, one file per benchmark."""
    baseline: str | None = None
    """Method or folder name to compare with; by default the run without a method, else the first."""
    margin: float = 2.0
    """Points of accuracy that a method may lose and still count as equally accurate."""
    title: str | None = None
    """Heading of the page."""
    max_traces: int = 300
    """Problems per benchmark whose traces the page carries, gained and lost ones first."""
    json: str | None = None
    """File for all figures as one JSON object; - for standard output."""


def run(command: Report) -> int:
    """Write the file and print the table."""
    import sys

    from eval_math.errors import BadInput
    from eval_math.report import Terms, collect, format_of, format_table, write_export

    from .command import write_figures

    if command.max_traces < 0:
        raise BadInput(f"--max-traces {command.max_traces}: a number from 0 is expected")
    if not 0 <= command.margin <= 100:
        raise BadInput(f"--margin {command.margin}: points of accuracy from 0 to 100 are expected")
    out = command.out or Path(f"report.{command.format or 'html'}")
    if not out.resolve().parent.is_dir():
        raise BadInput(f"--out {out}: the folder does not exist; make it first")
    kind = format_of(out, command.format)
    collection = collect(list(command.runs), baseline=command.baseline, terms=Terms(margin=command.margin / 100))
    page = {"title": command.title, "max_traces": command.max_traces} if kind == "html" else {}
    written = write_export(collection, out, kind, **page)
    # With --json - the figures alone stand on standard output.
    talk = sys.stderr if command.json == "-" else sys.stdout
    print(format_table(collection.rows, collection.comparisons), file=talk)
    print(f"\nwrote {', '.join(map(str, written))}", file=talk)
    write_figures(command.json, collection.to_json())
    return 0
