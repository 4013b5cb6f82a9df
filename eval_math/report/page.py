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
from .terminal import number
from .traces import traces_json

TRACED_PROBLEMS = 300
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


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
    style, script = _part("page.css"), _part("page.js")
    page = Template(_part("page.html")).substitute(
        title=escape(title or _title(collection)),
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:",
        style=style,
        script=script,
        lead="".join(f'<p class="lead">{_lead(group)}</p>' for group in collection.groups),
        figures="".join(_figures(group, i) for i, group in enumerate(collection.groups)),
        bootstrap=_resampling(collection),
        tables="".join(_table(group) for group in collection.groups),
        provenance=_provenance(collection.entries),
        data=traces_json(collection, max_traces),
    )
    # Half of a surrogate pair, which a model may emit, cannot be written as UTF-8.
    write_atomic(out, page.encode("utf-8", "replace").decode("utf-8"))


def _part(name: str) -> str:
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
    right, tokens = _percent(_accuracy(baseline), range_=False), number(row.thinking_tokens_mean)
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
        f"{start} <b>{escape(best.name)}</b> thinks with <b>{_percent(saved, range_=False)} fewer tokens</b> "
        f"(95% interval {_range(saved)}) while accuracy changes by <b>{_points(change, range_=False)} points</b> "
        f"({_range(change, '+')})."
    )


def _figures(group: Group, position: int) -> str:
    points = [
        Point(
            entry.name,
            Interval(entry.row.thinking_tokens_mean, entry.row.thinking_tokens_low, entry.row.thinking_tokens_high),
            _accuracy(entry),
            entry.is_baseline and len(group.entries) > 1,
        )
        for entry in group.entries
    ]
    wide = draw(points, size=WIDE, name=f"wide{position}")
    narrow = draw(points, size=NARROW, name=f"narrow{position}")
    heading = f"<h3>{escape(group.benchmark)}, {group.baseline.row.n_problems:,} problems</h3>"
    return f'<figure>{heading}<div class="wide">{wide}</div><div class="narrow">{narrow}</div></figure>'


def _table(group: Group) -> str:
    latent = any(entry.row.latent_steps_mean > 0 for entry in group.entries)
    probes = any(entry.row.probe_tokens_mean > 0 for entry in group.entries)
    extra = [name for name, shown in (("probe tokens", probes), ("latent steps", latent)) if shown]
    heads = "".join(f'<th scope="col" rowspan="2">{name}</th>' for name in extra)
    lines = "".join(_line(entry, probes, latent) for entry in group.entries)
    problems = max(entry.row.n_problems for entry in group.entries)
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="figures of {escape(group.benchmark)}"><table>
<caption>{escape(group.benchmark)}, {problems:,} problems</caption>
<thead><tr><th scope="col" rowspan="2">method</th><th scope="col" rowspan="2">n</th>
<th scope="col" rowspan="2">accuracy, %</th><th scope="colgroup" colspan="2">against {escape(group.baseline.name)}</th>
<th scope="colgroup" colspan="2">thinking tokens</th><th scope="colgroup" colspan="2">answer tokens</th>{heads}
<th scope="col" rowspan="2">cut off</th><th scope="col" rowspan="2">no answer</th>
<th scope="col" rowspan="2">tokens/s</th><th scope="col" rowspan="2">seconds</th></tr>
<tr><th scope="col">accuracy, points</th><th scope="col">thinking saved, %</th>
<th scope="col">mean</th><th scope="col">p95</th><th scope="col">mean</th><th scope="col">p95</th></tr></thead>
<tbody>{lines}</tbody></table></div>"""


def _line(entry: Entry, probes: bool, latent: bool) -> str:
    row, paired = entry.row, entry.comparison
    head, _, rest = entry.name.partition(" ")
    cells = [
        f"{row.n:,}",
        _percent(_accuracy(entry), unit=""),
        _points(paired.accuracy_difference) + _chance(paired.mcnemar_p) if paired else _none(entry),
        _percent(paired.thinking_saving, unit="") if paired else _none(entry),
        number(row.thinking_tokens_mean),
        number(row.thinking_tokens_p95),
        number(row.answer_tokens_mean),
        number(row.answer_tokens_p95),
        *([number(row.probe_tokens_mean)] if probes else []),
        *([number(row.latent_steps_mean)] if latent else []),
        _count(row.truncated, row.n),
        _without_answer(entry),
        number(row.tokens_per_second),
        number(row.seconds),
    ]
    mark = ' <span class="tag">baseline</span>' if entry.is_baseline else ""
    name = f'{escape(head)}{mark}<span class="range">{escape(rest)}</span>'
    values = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row" title="{escape(row.method)}">{name}</th>{values}</tr>'


def _none(entry: Entry) -> str:
    return "" if entry.is_baseline else '<span class="range">no common problem</span>'


def _chance(p: float | None) -> str:
    if p is None:
        return ""
    text = "p &lt; 0.001" if p < 0.001 else f"p = {p:.2g}"
    return f' <span class="range" title="McNemar, exact">{text}</span>'


def _count(count: int, n: int) -> str:
    return f'<span title="{100 * count / n:.1f}% of {n:,}">{count:,}</span>' if n else "0"


def _without_answer(entry: Entry) -> str:
    row = entry.row
    kinds = {
        "unparsable": row.unparsable,
        "grader timeouts": row.timeouts,
        "engine errors": row.errors,
        "reference not readable": row.gold_unparsable,
        "not graded": row.ungraded,
    }
    found = "; ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count) or "none"
    left_out = row.gold_unparsable + row.ungraded
    note = f' <span class="range">+{left_out:,} left out</span>' if left_out else ""
    return f'<span title="{found}">{row.unparsable + row.timeouts + row.errors:,}</span>{note}'


def _accuracy(entry: Entry) -> Interval:
    return Interval(entry.row.accuracy, entry.row.accuracy_low, entry.row.accuracy_high)


def _percent(interval: Interval, *, unit: str = "%", range_: bool = True) -> str:
    if not math.isfinite(interval.value):
        return DASH
    value = f"{100 * interval.value:.1f}{unit}".replace("-", MINUS)
    if not range_ or not math.isfinite(interval.low):
        return value
    return f'{value} <span class="range">{_range(interval)}</span>'


def _points(interval: Interval, *, range_: bool = True) -> str:
    if not math.isfinite(interval.value):
        return DASH
    value = f"{100 * interval.value:+.1f}".replace("-", MINUS)
    return f'{value} <span class="range">{_range(interval, "+")}</span>' if range_ else value


def _range(interval: Interval, sign: str = "") -> str:
    low, high = (f"{100 * bound:{sign}.1f}".replace("-", MINUS) for bound in (interval.low, interval.high))
    return f"{low} to {high}"


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
