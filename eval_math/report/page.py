"""The report as one HTML file that needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from ..files import write_atomic
from ..records import Json
from ..statistics import STANDARD, Interval
from .collection import Collection, Entry, Group, collect
from .figure import NARROW, WIDE, Point, draw
from .names import model_name
from .numbers import accuracy_of, between, percent, points
from .tables import endings_table, figures_table, paired_section, samples_section
from .terminal import number
from .traces import traces_json

TRACED_PROBLEMS = 300
STYLES = ("colours.css", "figure.css", "page.css")


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    baseline: str | None = None,
    max_traces: int = TRACED_PROBLEMS,
) -> Collection:
    """Make the report of ``runs`` and return its figures.

    Args:
        title: heading of the page; by default it names the benchmarks.
        baseline: see `collect`.
        max_traces: problems per benchmark whose traces the page carries.

    Raises:
        BadInput: see `collect`.
        StoreError: the page cannot be written.
    """
    collection = collect(runs, baseline=baseline)
    write_page(collection, out, title=title, max_traces=max_traces)
    return collection


def write_page(
    collection: Collection, out: Path, *, title: str | None = None, max_traces: int = TRACED_PROBLEMS
) -> None:
    """Write the page of runs that have been collected; an earlier page is replaced in one step."""
    style, script = "".join(map(page_part, STYLES)), page_part("page.js")
    page = Template(page_part("page.html")).substitute(
        title=escape(title or _title(collection)),
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:",
        style=style,
        script=script,
        lead="".join(f'<p class="lead">{_lead(group)}</p>' for group in collection.groups),
        figures="".join(_figures(group, i) for i, group in enumerate(collection.groups)),
        bootstrap=_resampling(collection),
        tables="".join(figures_table(group) for group in collection.groups),
        endings="".join(endings_table(group) for group in collection.groups),
        samples=samples_section(collection),
        paired=paired_section(collection),
        provenance=_provenance(collection.entries),
        data=traces_json(collection, max_traces),
    )
    # Half of a surrogate pair, which a model may emit, cannot be written as UTF-8.
    write_atomic(out, page.encode("utf-8", "replace").decode("utf-8"))


def page_part(name: str) -> str:
    """A file that pages are made of: markup, style or script."""
    return (files("eval_math.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _title(collection: Collection) -> str:
    names = ", ".join(dict.fromkeys(group.benchmark for group in collection.groups))
    return f"How much thinking does {names} need?"


def _resampling(collection: Collection) -> str:
    used = next((comparison.bootstrap for comparison in collection.comparisons), STANDARD)
    return f"bootstrap of {used.draws:,} draws, seed {used.seed}"


def _lead(group: Group) -> str:
    """What the figure shows, in one or two sentences; no verdict, only figures with their intervals."""
    baseline, row = group.baseline, group.baseline.row
    if not row.n:
        return f"{escape(baseline.name)} has no traces on {escape(group.benchmark)} yet."
    right, tokens = percent(accuracy_of(baseline), range_=False), number(row.thinking_tokens_mean)
    start = (
        f"On <b>{escape(group.benchmark)}</b> ({row.n_problems:,} problems, model {escape(model_name(row.model))}), "
        f"{escape(baseline.name)} is right on {right} and thinks for {tokens} tokens."
    )
    position = group.shortest_fair
    best = group.entries[position] if position is not None else None
    if best is None or best.comparison is None:
        return start
    saved, change = best.comparison.thinking_saving, best.comparison.accuracy_difference
    start = start.replace(f"{escape(baseline.name)} is right", "the baseline is right")
    return (
        f"{start} <b>{escape(best.name)}</b> thinks with <b>{percent(saved, range_=False)} fewer tokens</b> "
        f"{_interval_of(saved)} while accuracy changes by <b>{points(change, range_=False)} points</b> "
        f"({between(change, '+')})."
    )


def _interval_of(saved: Interval) -> str:
    return f"(95% interval {between(saved)})" if math.isfinite(saved.low) else "(one problem)"


def _figures(group: Group, position: int) -> str:
    shown = figure_points(group)
    wide = draw(shown, size=WIDE, name=f"wide{position}")
    narrow = draw(shown, size=NARROW, name=f"narrow{position}")
    heading = f"<h3>{escape(group.benchmark)}, {group.baseline.row.n_problems:,} problems</h3>"
    return f'<figure>{heading}<div class="wide">{wide}</div><div class="narrow">{narrow}</div></figure>'


def figure_points(group: Group) -> list[Point]:
    """What the figure of a benchmark shows, one point per run."""
    return [
        Point(
            entry.name,
            Interval(entry.row.thinking_tokens_mean, entry.row.thinking_tokens_low, entry.row.thinking_tokens_high),
            accuracy_of(entry),
            entry.is_baseline and len(group.entries) > 1,
        )
        for entry in group.entries
    ]


def _provenance(entries: Sequence[Entry]) -> str:
    """What all runs share once, then what is particular to each."""
    flat = [_flat({k: v for k, v in entry.table.info.items() if k != "schema"}) for entry in entries]
    shared = {key: value for key, value in flat[0].items() if all(each.get(key) == value for each in flat)}
    parts = []
    if len(entries) > 1:
        parts.append(_facts("Common to all runs", shared))
    for entry, facts in zip(entries, flat, strict=True):
        own = {k: v for k, v in facts.items() if k not in shared} if len(entries) > 1 else facts
        parts.append(_facts(f"{entry.name} on {entry.row.benchmark}", {"folder": entry.row.run, **own}))
    return "".join(parts)


def _facts(heading: str, facts: Mapping[str, str]) -> str:
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f"<details><summary>{escape(heading)}</summary><dl>{lines}</dl></details>"


def _flat(info: Mapping[str, Json], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in info.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            found |= _flat({str(i): item for i, item in enumerate(value, 1)}, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found
