"""A stored run as columns of numbers.

A run is a folder with run.json, problems.jsonl, traces.jsonl and grades.jsonl. Files are streamed: memory holds a few
numbers per trace, never the texts. Where a problem and sample occur twice, the first line counts.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import BadInput
from .files import read_records
from .loops import is_looping
from .policies import FALLBACK_RULES
from .records import STATUSES, Grade, Json, R, Trace, from_json

logger = logging.getLogger(__name__)

Counted = Literal["thinking", "answer", "probe", "latent"]
COUNTED: tuple[Counted, ...] = ("thinking", "answer", "probe", "latent")
GENERATED: tuple[Counted, ...] = ("thinking", "answer")
"""What was generated in all; probes and latent steps are in thinking."""
UNGRADED = len(STATUSES)


@dataclass(frozen=True)
class RunTable:
    """A run as columns with one entry per trace. ``info`` is run.json."""

    folder: Path
    info: Mapping[str, Json]
    method: str
    benchmark: str
    model: str
    problem_ids: tuple[str, ...]
    problem: npt.NDArray[np.int64]
    """Index into `problem_ids`, which are in the order of first appearance."""
    sample: npt.NDArray[np.int64]
    tokens: Mapping[Counted, npt.NDArray[np.int64]]
    """``thinking`` is charged with probes and latent steps, each of which is a pass of the model while it thinks;
    ``probe`` and ``latent`` say how many there are. So no figure of a run can leave them out."""
    seconds: npt.NDArray[np.float64]
    failed: npt.NDArray[np.bool_]
    """The engine gave an error instead of an answer."""
    truncated: npt.NDArray[np.bool_]
    looping: npt.NDArray[np.bool_]
    """The text ends in a loop, see `is_looping`."""
    fallback: npt.NDArray[np.bool_]
    """The answer was guessed from its position: no box or phrase pointed at it."""
    status: npt.NDArray[np.int64]
    """Index into `STATUSES`, or `UNGRADED`."""
    trace_row: npt.NDArray[np.int64]
    """Which record of traces.jsonl, from 0, for `read_chosen`."""
    grade_row: npt.NDArray[np.int64]
    """Which record of grades.jsonl, -1 if there is none."""

    def having(self, status: str) -> npt.NDArray[np.bool_]:
        """Mask of the traces with that verdict."""
        return self.status == STATUSES.index(status)

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Mask of the traces that count for accuracy: graded or failed, with a reference answer that can be read."""
        return (self.failed | (self.status != UNGRADED)) & ~self.having("gold_unparsable")

    @property
    def one_sample(self) -> bool:
        """True if no problem has a second sample."""
        return len(self.problem_ids) == len(self.problem)

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.resolve().name

    def accuracy_by_problem(self) -> npt.NDArray[np.float64]:
        """Share of correct samples, (problems,), NaN where no trace counts."""
        return self._by_problem(self.having("correct") & ~self.failed, self.judged)

    def tokens_by_problem(self, *kinds: Counted) -> npt.NDArray[np.float64]:
        """Mean over samples of the summed ``kinds``, (problems,), NaN where the engine failed on every sample."""
        return self._by_problem(sum((self.tokens[kind] for kind in kinds), np.zeros_like(self.sample)), ~self.failed)

    def tokens_of_judged(self, *kinds: Counted) -> npt.NDArray[np.float64]:
        """As `tokens_by_problem`, over the samples that count for accuracy, failed ones with what they generated."""
        return self._by_problem(sum((self.tokens[kind] for kind in kinds), np.zeros_like(self.sample)), self.judged)

    def _by_problem(self, values: npt.NDArray[Any], counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        size = len(self.problem_ids)
        total = np.bincount(self.problem[counted], weights=values[counted], minlength=size)
        count = np.bincount(self.problem[counted], minlength=size)
        return np.divide(total, count, out=np.full(size, math.nan), where=count > 0)


def read_run(folder: Path) -> RunTable:
    """Read a run folder; a torn last line, as a killed writer leaves it, is skipped.

    Raises:
        BadInput: not a run folder, or a damaged file (named with its line).
    """
    info = read_info(folder)
    columns = _Columns()
    for row, trace in enumerate(read_records(Trace, run_file(folder, "traces.jsonl"), torn_tail=True)):
        columns.add(row, trace)
    verdicts = _verdicts(folder, columns)
    units = np.array(list(columns.units), dtype=np.int64).reshape(-1, 2)
    numbers = np.array(list(columns.units.values()), dtype=np.float64).reshape(-1, 5 + len(COUNTED))
    failed = numbers[:, 1] > 0
    return RunTable(
        folder=folder,
        info=info,
        method=label_of(info, "method") or columns.method or "?",
        benchmark=label_of(info, "benchmark") or "?",
        model=label_of(info, "model") or "?",
        problem_ids=tuple(columns.problems),
        problem=units[:, 0],
        sample=units[:, 1],
        tokens={kind: numbers[:, 5 + i].astype(np.int64) for i, kind in enumerate(COUNTED)},
        seconds=numbers[:, 3],
        failed=failed,
        truncated=((numbers[:, 2] > 0) | verdicts.cut_off) & ~failed,
        looping=(numbers[:, 4] > 0) & ~failed,
        fallback=verdicts.fallback,
        status=verdicts.status,
        trace_row=numbers[:, 0].astype(np.int64),
        grade_row=verdicts.row,
    )


def read_info(folder: Path) -> dict[str, Any]:
    """run.json of a run folder.

    Raises:
        BadInput: no folder, no run.json, or not a JSON object.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; a run folder, as `laconic eval` writes it, is expected")
    path = run_file(folder, "run.json")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); the folder is damaged, run into a new one") from error
    if not isinstance(info, dict):
        raise BadInput(f"{path}: a JSON object is expected, found {type(info).__name__}")
    return info


def run_file(folder: Path, name: str) -> Path:
    """A file of a run folder.

    Raises:
        BadInput: it is missing.
    """
    path = folder / name
    if not path.is_file():
        hint = "grade the run first" if name == "grades.jsonl" else "is this a run folder of `laconic eval`?"
        raise BadInput(f"{folder}: has no {name}; {hint}")
    return path


def read_chosen(kind: type[R], path: Path, rows: Collection[int]) -> Iterator[tuple[int, R]]:
    """Yield (row, record) of the records whose number in the file, from 0, is in ``rows``; others are not parsed."""
    with open(path, "rb") as handle:
        lines = (line for line in handle if not line.isspace())
        for row, line in enumerate(lines):
            if row in rows:
                yield row, from_json(kind, json.loads(line.decode("utf-8", "surrogatepass")))


def label_of(info: Mapping[str, Json], key: str) -> str:
    """The text under ``key`` of run.json; of an object its label, name or id; empty if there is none."""
    value = info.get(key)
    if isinstance(value, Mapping):
        value = next((value[k] for k in ("label", "name", "id", key) if isinstance(value.get(k), str)), None)
    return value if isinstance(value, str) else ""


class _Columns:
    """Grows while traces are read: one tuple of numbers per unit of work, in file order."""

    def __init__(self) -> None:
        self.problems: dict[str, int] = {}
        self.units: dict[tuple[int, int], tuple[float, ...]] = {}
        self.method = ""

    def add(self, row: int, trace: Trace) -> None:
        problem = self.problems.setdefault(trace.problem_id, len(self.problems))
        thinking = trace.n_thinking_tokens + trace.n_probe_tokens + trace.n_latent_steps
        counts = (thinking, trace.n_answer_tokens, trace.n_probe_tokens, trace.n_latent_steps)
        failed, cut_off = trace.finish == "error", trace.finish == "length"
        flags = (row, failed, cut_off, trace.seconds, is_looping(trace.text))
        self.units.setdefault((problem, trace.sample), (*flags, *counts))
        self.method = self.method or trace.method


@dataclass(frozen=True)
class _Verdicts:
    """What the grader said, one entry per unit."""

    status: npt.NDArray[np.int64]
    cut_off: npt.NDArray[np.bool_]
    fallback: npt.NDArray[np.bool_]
    row: npt.NDArray[np.int64]


def _verdicts(folder: Path, columns: _Columns) -> _Verdicts:
    place = {unit: entry for entry, unit in enumerate(columns.units)}
    size = len(place)
    flags = np.zeros((2, size), dtype=bool)
    found = _Verdicts(np.full(size, UNGRADED), flags[0], flags[1], np.full(size, -1))
    path, strays = run_file(folder, "grades.jsonl"), 0
    for row, grade in enumerate(read_records(Grade, path, torn_tail=True)):
        entry = place.get((columns.problems.get(grade.problem_id, -1), grade.sample))
        if entry is None:
            strays += 1
        elif found.row[entry] < 0:
            found.status[entry], found.cut_off[entry] = _status_code(grade, path), grade.truncated
            found.fallback[entry], found.row[entry] = grade.rule in FALLBACK_RULES, row
    if strays:
        logger.warning("%s: %d grades belong to no trace and are left out", path, strays)
    return found


def _status_code(grade: Grade, path: Path) -> int:
    try:
        return STATUSES.index(grade.status)
    except ValueError:
        expected = ", ".join(STATUSES)
        raise BadInput(f"{path}: problem {grade.problem_id!r} has status {grade.status!r}; known: {expected}") from None
