"""The dataset out of stored outcomes: rows in the order of the source or shuffled, splits by question, nothing held.

OUT/train.jsonl, OUT/validation.jsonl   rows in the form that TRL trains on (prompt and completion as messages)
OUT/rejected.jsonl                      every rewrite that a gate refused, with gate and reason
OUT/stats.json                          counts and distributions
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from eval_math.errors import StoreError
from eval_math.files import write_json
from eval_math.records import Json, digest

from ..journal import Span
from .index import DiskIndex
from .records import DataRow, Outcome, SourceRow
from .stats import JobStats

TRAIN, VALIDATION, REJECTED, STATS = "train.jsonl", "validation.jsonl", "rejected.jsonl", "stats.json"
Order = Literal["shuffled", "source"]


@dataclass(frozen=True)
class Layout:
    """How rows are put into files.

    ``validation`` is the share of questions, by the hash of their text, whose rows go to the validation split: all
    versions of one question stand in one split. ``about`` goes into every row.
    """

    order: Order = "shuffled"
    seed: int = 0
    validation: float = 0.0
    about: Mapping[str, Json] = field(default_factory=dict)


def write_dataset(folder: Path, rows: Iterable[tuple[SourceRow, Outcome | None]], layout: Layout) -> JobStats:
    """Write the splits, the rejected rewrites and the statistics; each file is complete or not there.

    Raises:
        StoreError: disk full or not writable; an earlier dataset stays as it was.
    """
    stats = JobStats()
    unordered = folder / ".rows.tmp"
    try:
        with ExitStack() as stack:
            made = {name: stack.enter_context(_Parts(folder, name)) for name in (TRAIN, VALIDATION, REJECTED)}
            body = stack.enter_context(open(unordered, "w+b"))
            index = DiskIndex()
            for row, outcome in _distinct(rows, stats):
                stats.add(row, outcome)
                _write_rejected(made[REJECTED].handle, row, outcome)
                for number, each in enumerate(outcome.rows):
                    _keep(body, index, _line(row, each, number, layout), _place(row, number, layout))
            _distribute(body, index, made, stats)
        write_json(folder / STATS, stats.to_json())
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{folder}: the dataset cannot be written ({error.strerror}); free some space") from error
    finally:
        unordered.unlink(missing_ok=True)
    return stats


def split_of(question: str, validation: float) -> str:
    """The split that all rows of a question belong to."""
    return VALIDATION if int(digest(["split", question], 8), 16) < validation * 2**32 else TRAIN


class _Parts:
    """A file written beside its place and moved there at the end, if nothing went wrong."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        self._temporary = folder / f".{name}.tmp"
        self.handle: IO[bytes] = open(self._temporary, "wb")  # noqa: SIM115  closed by __exit__
        self.written = 0

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self.handle:
                if kind is None:
                    self.handle.flush()
                    os.fsync(self.handle.fileno())
            if kind is None:
                self._settle()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _settle(self) -> None:
        if self._path.name == VALIDATION and not self.written:
            self._path.unlink(missing_ok=True)
        else:
            self._temporary.replace(self._path)


def _distinct(rows: Iterable[tuple[SourceRow, Outcome | None]], stats: JobStats) -> Iterator[tuple[SourceRow, Outcome]]:
    """Each row that is done; later ones with the same content are counted and left out."""
    seen = DiskIndex()
    for row, outcome in rows:
        stats.sources += 1
        if row.key in seen:
            stats.duplicates += 1
            continue
        seen[row.key] = Span(0, 0)
        if outcome is None:
            stats.unfinished += 1
        else:
            yield row, outcome


def _line(row: SourceRow, made: DataRow, number: int, layout: Layout) -> tuple[str, bytes]:
    """Split and line of one dataset row."""
    name = f"{row.key}-{number}"
    shown: dict[str, Any] = {
        "id": name,
        "row_key": row.key,
        "source_id": row.problem.id,
        "prompt": [asdict(message) for message in made.prompt],
        "completion": [{"role": "assistant", "content": made.completion}],
        "condition": made.condition,
        "ratio_requested": made.asked_ratio,
        "ratio_measured": round(made.kept_ratio, 6),
        "n_question_tokens": made.n_question_tokens,
        "n_thinking_tokens": made.n_thinking_tokens,
        "n_answer_tokens": made.n_answer_tokens,
        "answer": row.problem.answer,
        "benchmark": row.problem.benchmark,
        "source": dict(row.origin),
        "details": dict(made.details),
        **dict(layout.about),
    }
    return split_of(row.problem.question, layout.validation), _encoded(shown)


def _place(row: SourceRow, number: int, layout: Layout) -> str:
    return digest([layout.seed, row.key, number]) if layout.order == "shuffled" else ""


def _keep(body: IO[bytes], index: DiskIndex, line: tuple[str, bytes], place: str) -> None:
    """Write a line as it comes; ``place`` sorts it later, "" keeps the order of writing."""
    at = body.tell()
    body.write(line[1])
    index[f"{place or f'{at:020}'}/{line[0]}"] = Span(at, len(line[1]))


def _distribute(body: IO[bytes], index: DiskIndex, made: Mapping[str, _Parts], stats: JobStats) -> None:
    for name in index.ordered():
        span = index[name]
        body.seek(span.offset)
        split = name.rpartition("/")[2]
        made[split].handle.write(body.read(span.length))
        made[split].written += 1
        stats.splits[split.removesuffix(".jsonl")] += 1


def _write_rejected(handle: IO[bytes], row: SourceRow, outcome: Outcome) -> None:
    for attempt in outcome.attempts:
        if attempt.rejections:
            shown = {"row_key": row.key, "source_id": row.problem.id, **asdict(attempt)}
            handle.write(_encoded(shown))
    if outcome.status in ("excluded", "error"):
        shown = {"row_key": row.key, "source_id": row.problem.id, "status": outcome.status, "error": outcome.error}
        handle.write(_encoded(shown))


def _encoded(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "surrogatepass")
