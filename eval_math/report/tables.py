"""The tables of a page: figures, how outputs ended, several samples, and the paired view of each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..equality import Equality
from ..paired import Comparison
from ..statistics import Interval
from ..votes import RepeatedRow
from .collection import Collection, Entry, Group
from .numbers import DASH, accuracy_of, chance, count, percent, points, score
from .terminal import number

MOST_IDS = 60
"""Problems named in the page for each of gained and lost; the run folders hold all."""

EQUALITIES: dict[Equality, str] = {
    "kept": "accuracy kept",
    "lost": "accuracy lost",
    "open": "not decided: more problems are needed",
}


@dataclass(frozen=True)
class _Column:
    """A column of a simple table: its head, and what each entry shows in it."""

    head: str
    cells: Sequence[str]
    shown: bool = True


def figures_table(group: Group) -> str:
    """Accuracy, change against the baseline, tokens and speed of each run."""
    latent = any(entry.row.latent_steps_mean > 0 for entry in group.entries)
    probes = any(entry.row.probe_tokens_mean > 0 for entry in group.entries)
    extra = [name for name, shown in (("probe tokens", probes), ("latent steps", latent)) if shown]
    heads = "".join(f'<th scope="col" rowspan="2">{name}</th>' for name in extra)
    lines = "".join(_line(entry, probes, latent) for entry in group.entries)
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="figures of {escape(group.benchmark)}"><table>
<caption>{_caption(group)}</caption>
<thead><tr><th scope="col" rowspan="2">method</th><th scope="col" rowspan="2">n</th>
<th scope="col" rowspan="2">accuracy, %</th><th scope="colgroup" colspan="2">against {escape(group.baseline.name)}</th>
<th scope="colgroup" colspan="2">thinking tokens</th><th scope="colgroup" colspan="2">answer tokens</th>{heads}
<th scope="col" rowspan="2">tokens per correct answer</th>
<th scope="col" rowspan="2">tokens/s</th><th scope="col" rowspan="2">seconds</th></tr>
<tr><th scope="col">accuracy, points</th><th scope="col">thinking saved, %</th>
<th scope="col">mean</th><th scope="col">p95</th><th scope="col">mean</th><th scope="col">p95</th></tr></thead>
<tbody>{lines}</tbody></table></div>"""


def _line(entry: Entry, probes: bool, latent: bool) -> str:
    row, paired = entry.row, entry.comparison
    cells = [
        f"{row.n:,}",
        percent(accuracy_of(entry), unit=""),
        points(paired.accuracy_difference) if paired else _none(entry),
        percent(paired.thinking_saving, unit="") if paired else _none(entry),
        number(row.thinking_tokens_mean),
        number(row.thinking_tokens_p95),
        number(row.answer_tokens_mean),
        number(row.answer_tokens_p95),
        *([number(row.probe_tokens_mean)] if probes else []),
        *([number(row.latent_steps_mean)] if latent else []),
        _tokens(Interval(row.tokens_per_correct, row.tokens_per_correct_low, row.tokens_per_correct_high)),
        number(row.tokens_per_second),
        number(row.seconds),
    ]
    return _row(entry, cells)


def endings_table(group: Group) -> str:
    """Every class of verdict, and how outputs went wrong; classes that never occur are left out, but the first two."""
    rows = [entry.row for entry in group.entries]

    def counted(head: str, attribute: str, always: bool = False) -> _Column:
        values = [int(getattr(row, attribute)) for row in rows]
        cells = [count(value, row.n) for value, row in zip(values, rows, strict=True)]
        return _Column(head, cells, always or any(values))

    lengths = [
        f"{number(row.thinking_tokens_correct)} / {number(row.thinking_tokens_wrong)}".replace("-", DASH)
        for row in rows
    ]
    columns = [
        _Column("n", [f"{row.n:,}" for row in rows]),
        counted("correct", "correct", always=True),
        counted("incorrect", "incorrect", always=True),
        counted("no answer found", "unparsable", always=True),
        counted("grader timeout", "timeouts"),
        counted("engine error", "errors"),
        counted("reference unreadable", "gold_unparsable"),
        counted("not graded", "ungraded"),
        counted("cut off", "truncated", always=True),
        counted("loops", "looping", always=True),
        counted("answer guessed", "fallback"),
        _Column("thinking when right / wrong", lengths),
    ]
    return _simple(group, f"how the outputs of {group.benchmark} ended", columns)


def samples_section(collection: Collection) -> str:
    """Estimates over several samples per problem; empty where each problem has one."""
    groups = [group for group in collection.groups if any(entry.row.repeated for entry in group.entries)]
    if not groups:
        return ""
    return f"""<section aria-labelledby="samples-heading"><h2 id="samples-heading">Several samples per problem</h2>
<p class="note">Means over problems of unbiased estimates; k is the number of samples every problem has.
<b>any</b> is pass@k, <b>majority</b> maj@k (equal answers by the grader, ties share), <b>half</b> G-Pass@k at 0.5,
<b>all</b> pass^k, <b>stable</b> mG-Pass@k.</p>{"".join(map(_samples_table, groups))}</section>"""


def _samples_table(group: Group) -> str:
    found = [entry.row.repeated for entry in group.entries]

    def column(head: str, attribute: str) -> _Column:
        return _Column(head, [_share(row, attribute) for row in found])

    columns = [_Column("k", [str(row.k) if row else DASH for row in found])]
    columns += [column(name, name) for name in ("average", "any", "majority", "half", "all", "stable")]
    return _simple(group, f"several samples on {group.benchmark}, %", columns)


def _share(row: RepeatedRow | None, attribute: str) -> str:
    return percent(getattr(row, attribute), unit="") if row else DASH


def paired_section(collection: Collection) -> str:
    """Each method against its baseline, problem by problem; empty without a comparison."""
    parts = [_paired(group, number_) for number_, group in enumerate(collection.groups)]
    if not any(parts):
        return ""
    margin = next(c.margin for c in collection.comparisons)
    least = percent(Interval(-margin or 0.0, 0, 0), unit="", range_=False)
    return f"""<section aria-labelledby="paired-heading"><h2 id="paired-heading">Problem by problem</h2>
<p class="note">The same problems, before and after. Accuracy counts as <b>kept</b> if the whole 95% interval of its
change lies above {least} points, as <b>lost</b> if all of it lies below. p is McNemar’s exact test. <b>AES</b> weighs
tokens saved against accuracy (1, 3, 5; arXiv 2501.12570), the baseline is 0.</p>
<div class="pairs">{"".join(parts)}</div></section>"""


def _paired(group: Group, group_number: int) -> str:
    return "".join(
        _pair(entry.name, entry.comparison, group, (group_number, run))
        for run, entry in enumerate(group.entries)
        if entry.comparison
    )


def _pair(name: str, paired: Comparison, group: Group, place: tuple[int, int]) -> str:
    chance_ = chance(paired.mcnemar_p)
    facts = [
        f"<b class='{paired.equal_accuracy}'>{EQUALITIES[paired.equal_accuracy]}</b>",
        f"{points(paired.accuracy_difference)} points" + (f", {chance_}" if chance_ else ""),
        f"{percent(paired.total_saving)} of all tokens saved",
        f"AES {score(paired.aes)}",
    ]
    changed = "".join(_changed(kind, ids, place) for kind, ids in (("gained", paired.gained), ("lost", paired.lost)))
    heading = escape(f"{name} against {group.baseline.name}, {group.benchmark}")
    return f"""<div class="paired"><h3>{heading}</h3>
<p class="facts">{" · ".join(facts)}</p>{_bar(paired)}<p class="note">{_power(paired)}</p>{changed}</div>"""


def _bar(paired: Comparison) -> str:
    parts = {
        "both right": paired.both_right,
        "gained": len(paired.gained),
        "lost": len(paired.lost),
        "both wrong": paired.both_wrong,
    }
    parts["other"] = paired.n_problems - sum(parts.values())
    shown = {name: size for name, size in parts.items() if size > 0}
    total, left = max(1, paired.n_problems), 0.0
    pieces = []
    for name, size in shown.items():
        width = 100 * size / total
        kind = name.replace(" ", "-")
        pieces.append(f'<rect class="{kind}" x="{left:.3f}" width="{width:.3f}" y="0" height="10"/>')
        left += width
    text = ", ".join(f"{size:,} {name}" for name, size in shown.items())
    legend = "".join(
        f'<span><i class="{name.replace(" ", "-")}"></i>{size:,} {name}</span>' for name, size in shown.items()
    )
    return (
        f'<svg class="split" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{text}">'
        f'{"".join(pieces)}</svg><div class="key">{legend}</div>'
    )


def _power(paired: Comparison) -> str:
    if not paired.gained and not paired.lost:
        return "No verdict differs."
    if math.isnan(paired.smallest_visible):
        return "Too few problems to see any change for sure."
    visible = f"{100 * paired.smallest_visible:.1f} points"
    needed = paired.problems_for_a_point
    more = f"; one point would take {needed:,} problems" if needed and needed > paired.n_problems else ""
    return f"With so many problems and differing verdicts, 4 of 5 studies see a change of {visible}{more}."


def _changed(kind: str, ids: Sequence[str], place: tuple[int, int]) -> str:
    if not ids:
        return ""
    buttons = "".join(
        f'<button type="button" data-open="{escape(problem)}" data-group="{place[0]}" data-run="{place[1]}">'
        f"{escape(problem)}</button>"
        for problem in ids[:MOST_IDS]
    )
    more = f'<span class="range">and {len(ids) - MOST_IDS:,} more</span>' if len(ids) > MOST_IDS else ""
    return f'<details class="changed"><summary>{len(ids):,} {kind}</summary><p>{buttons}{more}</p></details>'


def _simple(group: Group, caption: str, columns: Sequence[_Column]) -> str:
    shown = [column for column in columns if column.shown]
    heads = "".join(f'<th scope="col">{column.head}</th>' for column in shown)
    lines = "".join(_row(entry, [column.cells[place] for column in shown]) for place, entry in enumerate(group.entries))
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>
<caption>{escape(caption)}</caption><thead><tr><th scope="col">method</th>{heads}</tr></thead>
<tbody>{lines}</tbody></table></div>"""


def _row(entry: Entry, cells: Sequence[str]) -> str:
    head, _, rest = entry.name.partition(" ")
    mark = ' <span class="tag">baseline</span>' if entry.is_baseline else ""
    name = f'{escape(head)}{mark}<span class="range">{escape(rest)}</span>'
    values = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row" title="{escape(entry.row.method)}">{name}</th>{values}</tr>'


def _caption(group: Group) -> str:
    problems = max(entry.row.n_problems for entry in group.entries)
    return f"{escape(group.benchmark)}, {problems:,} problems"


def _none(entry: Entry) -> str:
    return "" if entry.is_baseline else '<span class="range">no common problem</span>'


def _tokens(interval: Interval) -> str:
    if math.isnan(interval.value):
        return DASH
    if math.isnan(interval.low):
        return number(interval.value)
    low, high = number(interval.low), number(interval.high) if math.isfinite(interval.high) else "any"
    return f'{number(interval.value)} <span class="range">{low} to {high}</span>'
