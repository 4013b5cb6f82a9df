"""Problems out of a local file: JSON lines (also gzipped), CSV or parquet, with the field names in common use."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BadInput
from .files import read_rows
from .records import Problem

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")
QUESTION_FIELDS = ("question", "problem", "input")
ANSWER_FIELDS = ("answer", "final_answer", "target")
SOLUTION_FIELDS = ("solution", "equation")
SUBJECT_FIELDS = ("subject", "type")


@dataclass(frozen=True)
class Naming:
    """How problems are named: ``benchmark``, and ids made of ``prefix`` and the position for rows without one."""

    benchmark: str
    prefix: str
    id_field: str = "id"


def is_problem_file(name: str) -> bool:
    """True if the name ends like a file this module reads."""
    return name.lower().endswith(SUFFIXES)


def bare_name(path: Path) -> str:
    """File name without its suffixes of `SUFFIXES`."""
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)]


def read_problems(path: Path, naming: Naming) -> list[Problem]:
    """The problems in a file.

    Fields (case does not matter): `question`, `problem` or `input`; `answer` (GSM8K's ``solution #### 42`` is taken
    apart), `final_answer` or `target`, or else the last ``\\boxed{}`` of `solution`; optional `id`, `solution`,
    `level`, `subject`, `benchmark`.

    Raises:
        BadInput: the file is missing, empty or malformed, a field is missing, or an id occurs twice; names the line.
    """
    if path.name.lower().endswith(".csv"):
        return build_problems(_csv_rows(path), naming, str(path))
    if path.name.lower().endswith(".parquet"):
        return build_problems(_parquet_rows(path), naming, str(path), unit="row")
    if path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        return build_problems(read_rows(path), naming, str(path))
    raise BadInput(f"{path}: cannot tell what it is; expected a file that ends in {', '.join(SUFFIXES)}")


def build_problems(
    rows: Iterable[tuple[int, Mapping[str, Any]]], naming: Naming, source: str, unit: str = "line"
) -> list[Problem]:
    """`Problem` records out of (number, row); errors name ``source``, ``unit`` and number."""
    problems: list[Problem] = []
    first_seen: dict[str, int] = {}
    for position, (number, row) in enumerate(rows):
        try:
            problem = _problem({str(k).lower(): v for k, v in row.items()}, naming, position)
        except BadInput as error:
            raise BadInput(f"{source}, {unit} {number}: {error}") from error
        if problem.id in first_seen:
            raise BadInput(
                f"{source}: id {problem.id!r} occurs in {unit}s {first_seen[problem.id]} and {number}; "
                "ids must be unique, as results are stored under them"
            )
        first_seen[problem.id] = number
        problems.append(problem)
    if not problems:
        raise BadInput(f"{source}: no problems in it; expected one JSON object or row per problem")
    empty = [problem.id for problem in problems if not problem.answer]
    if empty:
        logger.warning("%s: %d empty answer(s), which cannot be graded (%s, ...)", source, len(empty), empty[0])
    return problems


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}`` (braces balanced) or ``\\boxed x``, None without one."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :].lstrip()
    if not rest.startswith("{"):
        word = re.match(r"[^\s$.,;]+", rest)
        return word.group() if word else None
    depth = 0
    for end, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:end].strip()
    return None


def _problem(row: Mapping[str, Any], naming: Naming, position: int) -> Problem:
    answer, solution = _answer(row)
    given = row.get(naming.id_field.lower())
    if given in (None, ""):
        name = f"{naming.prefix}{position}"
    else:
        name = str(given) if naming.id_field == "id" else naming.prefix + str(given).removesuffix(".json")
    subject = _first(row, SUBJECT_FIELDS)
    return Problem(
        id=name,
        benchmark=str(row.get("benchmark") or naming.benchmark),
        question=_question(row),
        answer=answer,
        solution=solution,
        level=_level(row.get("level")),
        subject=None if subject is None else str(subject),
    )


def _question(row: Mapping[str, Any]) -> str:
    question = _first(row, QUESTION_FIELDS)
    if question is None:
        raise BadInput(_missing("question", QUESTION_FIELDS, row))
    if not isinstance(question, str):
        raise BadInput(f"the question is of type {type(question).__name__}, text is expected")
    body = row.get("body")
    return f"{body.strip()} {question.strip()}" if isinstance(body, str) else question


def _answer(row: Mapping[str, Any]) -> tuple[str, str | None]:
    solution = _first(row, SOLUTION_FIELDS)
    solution = solution if isinstance(solution, str) else None
    given = next((row[name] for name in ANSWER_FIELDS if row.get(name) is not None), None)
    if given is None:
        given = last_boxed(solution) if solution else None
    if given is None:
        raise BadInput(_missing("answer", (*ANSWER_FIELDS, "solution with \\boxed{}"), row))
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise BadInput(f"the answer is of type {type(given).__name__}, text or a number is expected")
    if isinstance(given, str) and "#### " in given:
        worked, _, last = given.rpartition("#### ")
        return last.strip().replace(",", ""), solution or worked.strip() or None
    return _plain(given), solution


def _plain(value: str | float) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    found = (row[name] for name in names if name in row and row[name] is not None and row[name] != "")
    return next(found, None)


def _level(value: Any) -> int | None:
    digits = re.search(r"\d+", str(value)) if value is not None else None
    return int(digits.group()) if digits else None


def _missing(what: str, names: Iterable[str], row: Mapping[str, Any]) -> str:
    return f"no {what}; expected a field {' or '.join(names)}, found {', '.join(row) or 'nothing'}"


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**24)
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            start = 2
            for row in reader:
                if None in row or None in row.values():
                    raise BadInput(f"{path}, line {start}: not as many cells as the header has columns")
                yield start, dict(row)
                start = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise BadInput(f"{path}: cannot be read as parquet ({error})") from error
    yield from enumerate(table.to_pylist(), 1)
