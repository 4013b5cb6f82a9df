"""The run folder: one evaluation on disk, resumable after a kill at any moment.

    run.json        what was run (`RunInfo`), written before the first request; `sessions` lists each start
    problems.jsonl  the problems, so that the folder can be read and graded without the benchmark
    traces.jsonl    one line per answered unit of work, in the order of arrival while the run goes on
    grades.jsonl    one line per graded trace
    summary.json, report.html   made from the above

A unit of work is sample number `sample` of problem `problem_id`. At the end of a run both record files are put into
the order of the problems, so that an interrupted and resumed run leaves the same content as an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from eval_math.errors import BadInput, LaconicError, RunMismatch
from eval_math.files import read_records, write_atomic, write_json
from eval_math.records import SCHEMA, Grade, Json, Problem, Trace, digest, from_json, to_line

from .environment import environment
from .journal import Journal
from .locks import lock_folder

logger = logging.getLogger(__name__)

Unit = tuple[str, int]

INFO = "run.json"
PROBLEMS = "problems.jsonl"
TRACES = "traces.jsonl"
GRADES = "grades.jsonl"
PRODUCTS = ("summary.json", "report.html")
VOLATILE = frozenset({"seconds", "n_forward"})
"""Trace fields that may differ between two runs of the same work."""


@dataclass(frozen=True)
class RunInfo:
    """What a run is. ``config`` holds all that decides the results and must be equal to resume; the rest informs.

    ``engine`` is the engine's identity; ``command`` the flags that made the run, as ``--config`` reads them; each
    session notes when it started, what with (versions, commit, hardware, engine settings), and the wall seconds it
    spent generating.
    """

    benchmark: str
    method: str
    model: str
    config: Mapping[str, Json]
    engine: Mapping[str, Json] = field(default_factory=dict)
    command: Mapping[str, Json] = field(default_factory=dict)
    sessions: Sequence[Mapping[str, Json]] = ()
    schema: int = SCHEMA


@dataclass(frozen=True)
class Stored:
    """What the store remembers of a trace without holding its text."""

    key: str
    failed: bool
    n_tokens: int


class Run:
    """An open run folder; made by `open_run`, used as a context manager. One process at a time.

    ``overwrite``: stored traces of other requests are to be dropped rather than refused.
    """

    def __init__(self, folder: Path, info: RunInfo, lock: int, *, overwrite: bool = False) -> None:
        self.folder = folder
        self.info = info
        self.overwrite = overwrite
        self._lock = lock
        self._traces: Journal[Unit] = Journal(folder / TRACES, _trace_unit)
        self._grades: Journal[Unit] = Journal(folder / GRADES, _grade_unit)
        self.stored: dict[Unit, Stored] = {_unit(row): _stored(row) for row in self._traces.rows()}

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def failed(self) -> list[Unit]:
        """Units whose trace has finish ``error``."""
        return [unit for unit, stored in self.stored.items() if stored.failed]

    @property
    def ungraded(self) -> list[Unit]:
        """Units with a trace and without a grade."""
        return [unit for unit in self.stored if unit not in self._grades]

    def add_trace(self, trace: Trace) -> bool:
        """Store a trace; False if its unit already has one (the first wins).

        Raises:
            StoreError: disk full or not writable; what was stored before is intact.
        """
        unit = (trace.problem_id, trace.sample)
        new = self._traces.append(unit, to_line(trace))
        if new:
            self.stored[unit] = Stored(trace.key, trace.finish == "error", trace.n_tokens)
        return new

    def add_grade(self, grade: Grade) -> bool:
        """Store a grade; False if its unit already has one."""
        return self._grades.append((grade.problem_id, grade.sample), to_line(grade))

    def trace(self, unit: Unit) -> Trace:
        """The stored trace of ``unit``."""
        return from_json(Trace, self._traces.read(unit))

    def grades(self) -> Iterator[Grade]:
        """Stored grades in file order."""
        return (from_json(Grade, row) for row in self._grades.rows())

    def drop(self, units: Iterable[Unit]) -> None:
        """Forget traces and grades of ``units``, so that they are done again."""
        gone = set(units)
        self._grades.rewrite([unit for unit in self._grades if unit not in gone])
        self._traces.rewrite([unit for unit in self._traces if unit not in gone])
        self.stored = {unit: stored for unit, stored in self.stored.items() if unit not in gone}

    def finalise(self, units: Sequence[Unit]) -> None:
        """Put traces and grades into the order of ``units``; grades without a trace are dropped."""
        self._traces.rewrite(units)
        self._grades.rewrite(unit for unit in units if unit in self._traces)

    def note_seconds(self, seconds: float) -> None:
        """Note in run.json how long this session has been generating."""
        last = {**self.info.sessions[-1], "generation_seconds": round(seconds, 3)}
        self.info = replace(self.info, sessions=[*self.info.sessions[:-1], last])
        write_json(self.folder / INFO, asdict(self.info))

    def sync(self) -> None:
        """Wait until everything stored is on the disk."""
        self._traces.sync()
        self._grades.sync()

    def close(self) -> None:
        """Sync, close the files and give the folder free."""
        try:
            self._traces.close()
            self._grades.close()
        finally:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1


def open_run(folder: Path, info: RunInfo, problems: Sequence[Problem], *, overwrite: bool = False) -> Run:
    """Start a run in ``folder`` or go on with the one that is there.

    Args:
        overwrite: delete a run of another configuration first; one of the same configuration goes on.

    Raises:
        RunMismatch: the folder holds a run of another configuration; the text lists the differences.
        BadInput: the folder is not empty and not a run, or its run.json cannot be read.
        StoreError: another process has the run open, or the folder cannot be written.
    """
    listed = {"count": len(problems), "hash": digest([to_line(problem) for problem in problems])}
    info = replace(info, config={**info.config, "problems": listed})
    lock = lock_folder(folder)
    try:
        earlier = _earlier(folder, info, overwrite)
        write_atomic(folder / PROBLEMS, "".join(map(to_line, problems)))
        info = _begin(folder, earlier or info, info)
        return Run(folder, info, lock, overwrite=overwrite)
    except BaseException:
        os.close(lock)
        raise


def read_info(folder: Path) -> RunInfo:
    """The `RunInfo` of a run folder.

    Raises:
        BadInput: no run there, or run.json is damaged.
    """
    path = folder / INFO
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(row, dict):
            raise BadInput(f"{path}: a JSON object is expected; restore the file, or start anew with --overwrite")
        if row.get("schema") != SCHEMA:
            raise BadInput(
                f"{path}: schema {row.get('schema')!r} found, {SCHEMA} expected; written by another version?"
            )
        return RunInfo(**row)
    except FileNotFoundError as error:
        raise BadInput(f"{folder}: no {INFO} in it, so it is not a run folder") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, LaconicError):
            raise
        raise BadInput(f"{path}: cannot be read ({error}); restore the file, or choose another folder") from error


def read_problems(folder: Path) -> list[Problem]:
    """The problems of a run folder, in the order of the run."""
    return list(read_records(Problem, folder / PROBLEMS))


def content_hash(folder: Path) -> str:
    """sha256 of what a run says: config, problems, traces and grades in the order of units.

    Left out is what two runs of the same work may differ in: `VOLATILE` fields, measured times in the provenance,
    `sessions`, and the order of lines.
    """
    info = read_info(folder)
    parts = [digest(dict(info.config)), *(digest(to_line(problem)) for problem in read_problems(folder))]
    parts += _digests(read_records(Trace, folder / TRACES, torn_tail=True))
    parts += _digests(read_records(Grade, folder / GRADES, torn_tail=True))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each value that differs, nested keys joined by dots."""
    lines = []
    for name in sorted({*stored, *asked}):
        left, right, path = stored.get(name, "(none)"), asked.get(name, "(none)"), f"{prefix}{name}"
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{path}.")
        elif left != right:
            lines.append(f"{path}: {left!r} stored, {right!r} asked")
    return lines


def _earlier(folder: Path, info: RunInfo, overwrite: bool) -> RunInfo | None:
    """The run already there, checked to be the same; None for a new one or one that has no trace yet."""
    if overwrite and not _same_run(folder, info):
        _discard(folder)
    if not (folder / INFO).exists():
        strangers = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name != PROBLEMS)
        if strangers:
            raise BadInput(f"{folder}: not empty and not a run ({', '.join(strangers[:3])}); choose another folder")
        return None
    earlier = read_info(folder)
    changed = _changed(earlier, info)
    traces = folder / TRACES
    if changed and not (traces.exists() and traces.stat().st_size):
        return None
    if changed:
        listed = "".join(f"\n  {line}" for line in changed)
        raise RunMismatch(
            f"{folder} holds results of another configuration:{listed}\n"
            "Choose another folder with --out, or delete the old results with --overwrite."
        )
    return earlier


def _same_run(folder: Path, info: RunInfo) -> bool:
    try:
        return not _changed(read_info(folder), info)
    except BadInput:
        return False


def _changed(earlier: RunInfo, info: RunInfo) -> list[str]:
    # JSON has no tuples: what was asked is compared as it would be read back.
    return differences(earlier.config, json.loads(json.dumps(dict(info.config))))


def _begin(folder: Path, info: RunInfo, now: RunInfo) -> RunInfo:
    session: dict[str, Json] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "generation_seconds": 0.0,
        "settings": now.engine.get("settings"),
        **environment(),
    }
    if info.sessions and not any(_same_conditions(session, earlier) for earlier in info.sessions):
        logger.warning("%s: resumed with other versions, hardware or settings; see sessions in %s", folder, INFO)
    info = replace(info, sessions=[*info.sessions, session])
    write_json(folder / INFO, asdict(info))
    return info


def _same_conditions(session: Mapping[str, Json], earlier: Mapping[str, Json]) -> bool:
    return all(session[name] == earlier.get(name) for name in ("settings", "versions", "hardware"))


def _discard(folder: Path) -> None:
    if (folder / INFO).exists():
        for name in (INFO, PROBLEMS, TRACES, GRADES, *PRODUCTS):
            (folder / name).unlink(missing_ok=True)


def _unit(row: Mapping[str, Any]) -> Unit:
    return row["problem_id"], row["sample"]


def _trace_unit(row: dict[str, Any]) -> Unit:
    trace = from_json(Trace, row)
    return trace.problem_id, trace.sample


def _grade_unit(row: dict[str, Any]) -> Unit:
    grade = from_json(Grade, row)
    return grade.problem_id, grade.sample


def _stored(row: Mapping[str, Any]) -> Stored:
    return Stored(row.get("key", ""), row["finish"] == "error", row["n_thinking_tokens"] + row["n_answer_tokens"])


def _digests(records: Iterable[Trace] | Iterable[Grade]) -> list[str]:
    """One digest per record, in the order of units."""
    return [text for _, text in sorted(((r.problem_id, r.sample), digest(_steady(r))) for r in records)]


def _steady(record: Trace | Grade) -> dict[str, Any]:
    row = {name: value for name, value in asdict(record).items() if name not in VOLATILE}
    if isinstance(record, Trace):
        row["provenance"] = {k: v for k, v in record.provenance.items() if not k.endswith(("seconds", "_at", "batch"))}
    return row
