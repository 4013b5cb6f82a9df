"""Source rows out of run folders of `laconic eval` or out of a file, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval_math.errors import BadInput
from eval_math.files import read_records, read_rows
from eval_math.records import Grade, Json, Problem, Trace

from ..runs import GRADES, INFO, PROBLEMS, TRACES, read_info
from .records import SourceRow

QUESTION_FIELDS = ("question", "problem")
ANSWER_FIELDS = ("answer", "gold")
OUTPUT_FIELDS = ("output", "trace", "long")


@dataclass(frozen=True)
class SourceFile:
    """One source as the manifest records it."""

    path: str
    kind: str
    rows: int
    sha256: str
    about: Mapping[str, Json]


def read_source(path: Path) -> Iterator[SourceRow]:
    """Rows of a run folder, or of JSON lines (also gzipped), in their order.

    A file has per line `question` (or `problem`), `answer` (or `gold`) and `output` (or `trace`, `long`): the model's
    whole output with its think tags. Optional: `id`, `benchmark`, `correct`, `finish`, `sample`.

    Raises:
        BadInput: neither a run folder nor such a file, or a line is malformed; names the line.
    """
    if path.is_dir():
        return _run_rows(path)
    return _file_rows(path)


def describe_source(path: Path) -> SourceFile:
    """Kind, number of rows and content hash of a source; every row is read, so that a bad one shows at the start.

    Raises:
        BadInput: as `read_source`.
    """
    if path.is_dir():
        info = read_info(path)
        about: dict[str, Json] = {"model": info.model, "method": info.method, "benchmark": info.benchmark}
        files = [path / PROBLEMS, path / TRACES, path / GRADES]
        return SourceFile(str(path), "run", _count(path), _hash(files), about)
    return SourceFile(str(path), "file", _count(path), _hash([path]), {})


def read_sources(paths: Sequence[Path], limit: int | None = None) -> Iterator[SourceRow]:
    """Rows of several sources, one source after the other; at most ``limit`` in all."""
    left = limit
    for path in paths:
        for row in read_source(path):
            if left is not None:
                if left <= 0:
                    return
                left -= 1
            yield row


def _run_rows(folder: Path) -> Iterator[SourceRow]:
    if not (folder / INFO).exists():
        raise BadInput(f"{folder}: not a run folder (no {INFO}); give one made by `laconic eval`, or a JSON-lines file")
    info = read_info(folder)
    problems = {problem.id: problem for problem in read_records(Problem, folder / PROBLEMS)}
    grades: dict[tuple[str, int], bool] = {}
    if (folder / GRADES).exists():
        grades = {(g.problem_id, g.sample): g.correct for g in read_records(Grade, folder / GRADES, torn_tail=True)}
    for trace in read_records(Trace, folder / TRACES, torn_tail=True):
        problem = problems.get(trace.problem_id)
        if problem is None:
            raise BadInput(f"{folder}: a trace of problem {trace.problem_id!r}, which {PROBLEMS} does not list")
        if trace.finish == "error":
            continue
        origin: dict[str, Json] = {"run": folder.name, "model": info.model, "method": trace.method}
        correct = grades.get((trace.problem_id, trace.sample))
        yield SourceRow(problem, trace.text, trace.finish, trace.sample, correct, origin)


def _file_rows(path: Path) -> Iterator[SourceRow]:
    for number, row in read_rows(path):
        where = f"{path}, line {number}"
        benchmark = str(row.get("benchmark") or "file")
        problem = Problem(
            id=str(row.get("id") or f"{path.name}:{number}"),
            benchmark=benchmark,
            question=_text(row, QUESTION_FIELDS, where),
            answer=_text(row, ANSWER_FIELDS, where),
        )
        yield replace(_bare_row(row, problem, where), origin={"file": path.name, "line": number})


def _bare_row(row: Mapping[str, Any], problem: Problem, where: str) -> SourceRow:
    finish, sample, correct = row.get("finish", "stop"), row.get("sample", 0), row.get("correct")
    if finish not in ("stop", "length"):
        raise BadInput(f"{where}: finish {finish!r}; stop or length is expected")
    if not isinstance(sample, int) or isinstance(sample, bool):
        raise BadInput(f"{where}: sample {sample!r}; a whole number is expected")
    if correct is not None and not isinstance(correct, bool):
        raise BadInput(f"{where}: correct {correct!r}; true, false or nothing is expected")
    return SourceRow(problem, _text(row, OUTPUT_FIELDS, where), finish, sample, correct)


def _text(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        raise BadInput(f"{where}: no field {' or '.join(names)}; found {', '.join(sorted(row)) or 'none'}")
    value = row[name]
    if isinstance(value, int | float) and not isinstance(value, bool) and names is ANSWER_FIELDS:
        return str(value)
    if not isinstance(value, str) or "\0" in value:
        raise BadInput(f"{where}: field {name} is no text, or has a NUL character in it")
    return value


def _count(path: Path) -> int:
    return sum(1 for _ in read_source(path))


def _hash(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode())
        if file.exists():
            with file.open("rb") as handle:
                while chunk := handle.read(1 << 20):
                    total.update(chunk)
    return total.hexdigest()
