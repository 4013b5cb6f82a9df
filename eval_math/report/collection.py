"""Runs brought together for a report: grouped by benchmark, each with its baseline, its figures and a short name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..equality import MARGIN
from ..errors import BadInput
from ..paired import Comparison, compare_tables
from ..runtable import RunTable, read_run
from ..statistics import STANDARD, Bootstrap
from ..summary import SummaryRow, figures_json, summarise_table, summary_json
from .names import short_names

logger = logging.getLogger(__name__)

PLAIN = ("none", "baseline", "plain")


@dataclass(frozen=True)
class Entry:
    """One run of a report. ``comparison`` is None for the baseline and where no problem is shared with it."""

    name: str
    table: RunTable
    row: SummaryRow
    is_baseline: bool
    comparison: Comparison | None


@dataclass(frozen=True)
class Group:
    """The runs on one benchmark, the baseline first."""

    benchmark: str
    entries: tuple[Entry, ...]

    @property
    def baseline(self) -> Entry:
        """The run that the others are compared with."""
        return self.entries[0]

    @property
    def shortest_fair(self) -> int | None:
        """Position of the run that saves most thinking tokens among those not clearly less accurate than the baseline
        (the interval of the paired difference reaches zero); None if there is none."""
        saved = {
            position: entry.comparison.thinking_saving.value
            for position, entry in enumerate(self.entries)
            if entry.comparison
            and entry.comparison.thinking_saving.value > 0
            and entry.comparison.accuracy_difference.high >= 0
        }
        return max(saved, key=lambda position: saved[position], default=None)


@dataclass(frozen=True)
class Collection:
    """All that a report shows but the traces."""

    groups: tuple[Group, ...]

    @property
    def entries(self) -> list[Entry]:
        """All runs, by group."""
        return [entry for group in self.groups for entry in group.entries]

    @property
    def rows(self) -> list[SummaryRow]:
        """Figures of all runs."""
        return [entry.row for entry in self.entries]

    @property
    def comparisons(self) -> list[Comparison]:
        """All comparisons with a baseline."""
        return [entry.comparison for entry in self.entries if entry.comparison]

    def to_json(self) -> dict[str, Any]:
        """``{"schema", "rows", "comparisons"}``."""
        return {**summary_json(self.rows), "comparisons": figures_json(self.comparisons)}


@dataclass(frozen=True)
class Terms:
    """On what terms runs are compared: how to resample, and what loss of accuracy still counts as equal."""

    bootstrap: Bootstrap = STANDARD
    margin: float = MARGIN


USUAL = Terms()


def collect(runs: Sequence[Path], *, baseline: str | None = None, terms: Terms = USUAL) -> Collection:
    """Read runs and compare each with the baseline of its benchmark.

    Args:
        baseline: method label or folder name of the baseline; without one it is the first run of plain generation,
            else the first run of a benchmark.

    Raises:
        BadInput: no run, one given twice, a damaged run folder, or no run is called ``baseline``.
    """
    if not runs:
        raise BadInput("no run folder given; `laconic eval` makes them")
    doubles = [str(run) for run, count in Counter(run.resolve() for run in runs).items() if count > 1]
    if doubles:
        raise BadInput(f"run folder given twice: {', '.join(doubles)}")
    tables = [read_run(run) for run in runs]
    if baseline is not None and not any(_is_called(table, baseline) for table in tables):
        known = ", ".join(sorted({table.method for table in tables} | {table.name for table in tables}))
        raise BadInput(f"no run is called {baseline!r}; methods and folders given: {known}")
    benchmarks = dict.fromkeys(table.benchmark for table in tables)
    return Collection(tuple(_group([t for t in tables if t.benchmark == name], baseline, terms) for name in benchmarks))


def _is_called(table: RunTable, name: str) -> bool:
    return name in (table.method, table.method.partition(":")[0], table.name)


def _group(tables: list[RunTable], baseline: str | None, terms: Terms) -> Group:
    first = _baseline(tables, baseline)
    ordered = [first, *(table for table in tables if table is not first)]
    names = _names(ordered)
    entries = [Entry(names[0], first, summarise_table(first), True, None)]
    for name, table in zip(names[1:], ordered[1:], strict=True):
        entries.append(Entry(name, table, summarise_table(table), False, _comparison(first, table, terms)))
    return Group(first.benchmark, tuple(entries))


def _baseline(tables: list[RunTable], name: str | None) -> RunTable:
    wanted = (name,) if name is not None else PLAIN
    return next((table for table in tables if any(_is_called(table, each) for each in wanted)), tables[0])


def _comparison(baseline: RunTable, table: RunTable, terms: Terms) -> Comparison | None:
    try:
        return compare_tables(baseline, table, terms.bootstrap, margin=terms.margin)
    except BadInput as error:
        logger.warning("%s", error)
        return None


def _names(tables: list[RunTable]) -> list[str]:
    """Short names, with the model and at last the folder added where they would be the same."""
    names = short_names([table.method for table in tables])
    for extra in (lambda table: Path(table.model).name, lambda table: table.name, lambda table: str(table.folder)):
        count = Counter(names)
        names = [
            f"{name} ({extra(table)})" if count[name] > 1 else name for name, table in zip(names, tables, strict=True)
        ]
    return names
