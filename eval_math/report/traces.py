"""The traces that a report carries: a bounded choice, as JSON that is inert inside an HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from ..files import read_records
from ..records import Grade, Problem, Trace
from ..runtable import read_chosen, run_file
from .collection import Collection, Entry, Group
from .segments import segment

MOST_BYTES = 16_000_000
LONGEST_CHARACTERS = 24_000


@dataclass
class _Chosen:
    """A problem of the page with one sample of each run."""

    problem: Problem
    traces: dict[int, Trace] = field(default_factory=dict)
    grades: dict[int, Grade] = field(default_factory=dict)


def traces_json(collection: Collection, most_problems: int, *, most_bytes: int = MOST_BYTES) -> str:
    """The traces of at most ``most_problems`` problems per benchmark, problems gained or lost by a method first.

    Long texts lose their middle, and problems are left out from the end beyond ``most_bytes``. `<`, `>` and `&` are
    escaped, so that the text can stand in a ``<script>`` element whatever a model wrote.
    """
    share = most_bytes // max(1, len(collection.groups))
    groups = [_group(group, most_problems, share) for group in collection.groups]
    return _inert({"groups": groups})


def _group(group: Group, most_problems: int, most_bytes: int) -> dict[str, Any]:
    problems, size = [], 0
    for chosen in _read(group, _choose(group, most_problems)):
        entry = _problem(group, chosen)
        size += len(json.dumps(entry, ensure_ascii=False))
        if problems and size > most_bytes:
            break
        problems.append(entry)
    return {
        "benchmark": group.benchmark,
        "total": max(entry.row.n_problems for entry in group.entries),
        "runs": [
            {"name": entry.name, "method": entry.row.method, "changes": _changes(entry)} for entry in group.entries
        ],
        "start": group.shortest_fair or min(1, len(group.entries) - 1),
        "problems": problems,
    }


def _changes(entry: Entry) -> list[int] | None:
    return [len(entry.comparison.gained), len(entry.comparison.lost)] if entry.comparison else None


def _choose(group: Group, most: int) -> list[str]:
    """Ids of the problems to show, in the order of the page."""
    changed = [
        ids for entry in group.entries if entry.comparison for ids in (entry.comparison.lost, entry.comparison.gained)
    ]
    in_turn = (problem for turn in zip_longest(*changed) for problem in turn if problem is not None)
    rest = (problem for entry in group.entries for problem in entry.table.problem_ids)
    return list(dict.fromkeys(chain(in_turn, rest)))[:most]


def _read(group: Group, ids: list[str]) -> Iterable[_Chosen]:
    """The chosen problems with their traces and grades, read from the run folders."""
    found: dict[str, _Chosen] = {}
    for number, entry in enumerate(group.entries):
        folder, units = entry.table.folder, _first_samples(entry, ids)
        for problem in read_records(Problem, run_file(folder, "problems.jsonl"), torn_tail=True):
            if problem.id in units and problem.id not in found:
                found[problem.id] = _Chosen(problem)
        trace_rows = {int(entry.table.trace_row[unit]) for unit in units.values()}
        for _, trace in read_chosen(Trace, folder / "traces.jsonl", trace_rows):
            _chosen(found, trace.problem_id, group).traces[number] = trace
        grade_rows = {int(entry.table.grade_row[unit]) for unit in units.values()}
        for _, grade in read_chosen(Grade, folder / "grades.jsonl", grade_rows):
            _chosen(found, grade.problem_id, group).grades[number] = grade
    return [found[problem] for problem in ids if problem in found]


def _chosen(found: dict[str, _Chosen], problem: str, group: Group) -> _Chosen:
    """The entry of ``problem``; one without question if problems.jsonl does not have it."""
    return found.setdefault(problem, _Chosen(Problem(problem, group.benchmark, "", "")))


def _first_samples(entry: Entry, ids: list[str]) -> dict[str, int]:
    """Index of each problem's trace with the lowest sample number."""
    table = entry.table
    wanted = set(ids)
    first: dict[str, int] = {}
    for unit in np.argsort(table.sample, kind="stable"):
        problem = table.problem_ids[table.problem[unit]]
        if problem in wanted:
            first.setdefault(problem, int(unit))
    return first


def _problem(group: Group, chosen: _Chosen) -> dict[str, Any]:
    runs = [_trace(entry, chosen, number) for number, entry in enumerate(group.entries)]
    problem = chosen.problem
    return {"id": problem.id, "question": problem.question, "answer": problem.answer, "runs": runs}


def _trace(entry: Entry, chosen: _Chosen, number: int) -> dict[str, Any] | None:
    trace, grade = chosen.traces.get(number), chosen.grades.get(number)
    if trace is None:
        return None
    thinking = _shortened(trace.thinking or "")
    segments = segment(thinking.text)
    failed = trace.finish == "error"
    return {
        "verdict": "error" if failed else grade.status if grade else "not graded",
        "cut": trace.finish == "length" or bool(grade and grade.truncated),
        "extracted": grade.extracted if grade else None,
        "reason": trace.error if failed else grade.reason if grade else None,
        "tokens": [trace.n_thinking_tokens, trace.n_answer_tokens, trace.n_probe_tokens, trace.n_latent_steps],
        "sentences": segments.sentences,
        "reflections": segments.reflections,
        "omitted": thinking.omitted,
        "answer": _shortened(trace.answer_text).text,
        "change": _change(entry, trace.problem_id),
    }


def _change(entry: Entry, problem: str) -> str | None:
    if entry.comparison is None:
        return None
    if problem in entry.comparison.gained:
        return "gained"
    return "lost" if problem in entry.comparison.lost else None


@dataclass(frozen=True)
class _Shortened:
    text: str
    omitted: int


def _shortened(text: str) -> _Shortened:
    """The text, its middle replaced by a mark beyond `LONGEST_CHARACTERS`."""
    omitted = len(text) - LONGEST_CHARACTERS
    if omitted <= 0:
        return _Shortened(text, 0)
    half = LONGEST_CHARACTERS // 2
    return _Shortened(f"{text[:half]}\n[… {omitted:,} characters left out …]\n{text[-half:]}", omitted)


def _inert(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
