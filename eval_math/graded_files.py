"""Grade a file of outputs, anyone's: rows in, verdicts out, counts by source."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BadInput, StoreError
from .files import read_rows, refuse_special
from .grading import GradingItem, Verdict, grade_many
from .policies import find_policy, policy_for
from .records import STATUSES
from .statistics import wilson

OUTPUT_FIELDS = ("output", "prediction", "pred")
GOLD_FIELDS = ("gold", "answer")


@dataclass(frozen=True)
class LabelledItem:
    """One row of a file: what to grade, where it came from, and the verdict expected, if the row has one."""

    id: str
    item: GradingItem
    source: str = "all"
    expected: bool | None = None


@dataclass
class Tally:
    """Counts over the rows of one source."""

    statuses: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    labelled: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    @property
    def n(self) -> int:
        """Rows counted."""
        return self.statuses.total()

    def add(self, verdict: Verdict, expected: bool | None) -> None:
        """Count one verdict."""
        self.statuses[verdict.status] += 1
        self.rules[verdict.rule or "none"] += 1
        self.tiers[verdict.tier or "none"] += 1
        self.truncated += verdict.truncated
        if expected is not None:
            self.labelled += 1
            self.false_positives += verdict.correct and not expected
            self.false_negatives += expected and not verdict.correct

    def to_json(self) -> dict[str, Any]:
        """All counts; ``accuracy`` is the share of correct answers with its 95% interval, ``agreement`` with labels."""
        correct = wilson(self.statuses["correct"], self.n)
        figures: dict[str, Any] = {
            "n": self.n,
            "accuracy": correct.value if self.n else None,
            "accuracy_low": correct.low if self.n else None,
            "accuracy_high": correct.high if self.n else None,
            "statuses": {status: self.statuses[status] for status in STATUSES},
            "rules": dict(self.rules.most_common()),
            "tiers": dict(self.tiers.most_common()),
            "truncated": self.truncated,
            "labelled": self.labelled,
        }
        if self.labelled:
            wrong = self.false_positives + self.false_negatives
            figures["agreement"] = 1 - wrong / self.labelled
            figures["false_positives"] = self.false_positives
            figures["false_negatives"] = self.false_negatives
        return figures


@dataclass(frozen=True)
class FileTask:
    """Which file to grade, and how."""

    path: Path
    out: Path | None = None
    benchmark: str = "auto"
    limit: int | None = None
    workers: int = 2


def grade_file(task: FileTask, on_verdict: Callable[[int, Verdict], None] | None = None) -> dict[str, Any]:
    """Grade each row of ``task.path``; write verdicts to ``task.out`` if given; return the figures.

    Args:
        on_verdict: called with the number of rows done and the last verdict.

    Raises:
        BadInput: a bad row (its line is named), a doubled id, an unknown benchmark; nothing was written then.
        StoreError: the verdicts cannot be written.
    """
    rows = read_items(task.path, task.benchmark, task.limit)
    started = time.perf_counter()
    tallies: dict[str, Tally] = {}
    with _Writer(task.out) as writer:
        for done, verdict in enumerate(grade_many([row.item for row in rows], workers=task.workers), 1):
            row = rows[done - 1]
            tallies.setdefault(row.source, Tally()).add(verdict, row.expected)
            writer.write(verdict_row(row.id, verdict))
            if on_verdict is not None:
                on_verdict(done, verdict)
    seconds = time.perf_counter() - started
    return _figures(task, tallies, seconds)


def read_items(path: Path, benchmark: str = "auto", limit: int | None = None) -> list[LabelledItem]:
    """The rows of a JSON-lines file: id, gold (or answer), output (or prediction, pred), and what else they carry.

    ``source`` groups the counts, ``correct`` is the verdict expected. A row's own benchmark, where it
    has a policy, wins over ``benchmark``.

    Raises:
        BadInput: names the line.
    """
    policy_for(benchmark)
    items: list[LabelledItem] = []
    lines: dict[str, int] = {}
    for number, row in read_rows(path):
        if limit is not None and len(items) >= limit:
            break
        try:
            item = _item(row, benchmark)
        except BadInput as error:
            raise BadInput(f"{path}, line {number}: {error}") from error
        if item.id in lines:
            raise BadInput(f"{path}, line {number}: id {item.id!r} is on line {lines[item.id]} too; ids must differ")
        lines[item.id] = number
        items.append(item)
    if not items:
        raise BadInput(f"{path}: no rows; rows with id, gold and output are expected")
    return items


def verdict_row(row_id: str, verdict: Verdict) -> dict[str, Any]:
    """One line of the file of verdicts."""
    return {
        "id": row_id,
        "status": verdict.status,
        "extracted": verdict.extracted,
        "rule": verdict.rule,
        "tier": verdict.tier,
        "reason": verdict.reason,
        "truncated": verdict.truncated,
    }


def _item(row: Mapping[str, Any], benchmark: str) -> LabelledItem:
    if not isinstance(row.get("id"), str | int):
        raise BadInput("no 'id' (a string or a number)")
    output = _field(row, OUTPUT_FIELDS)
    gold = _field(row, GOLD_FIELDS)
    if output is not None and not isinstance(output, str):
        raise BadInput(f"the output must be a string or null, found {type(output).__name__}")
    own = row.get("benchmark")
    item = GradingItem(output, _gold(gold), own if isinstance(own, str) and find_policy(own) else benchmark)
    expected = row.get("correct")
    return LabelledItem(
        str(row["id"]), item, str(row.get("source", "all")), expected if isinstance(expected, bool) else None
    )


def _field(row: Mapping[str, Any], names: tuple[str, ...]) -> object:
    for name in names:
        if name in row:
            return row[name]
    raise BadInput(f"none of the fields {', '.join(names)}")


def _gold(gold: object) -> str | list[str]:
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        return str(gold)
    if isinstance(gold, list) and gold and all(isinstance(one, str) for one in gold):
        return gold
    if isinstance(gold, str):
        return gold
    raise BadInput(f"gold must be a string, a number or a list of strings, found {type(gold).__name__}")


def _figures(task: FileTask, tallies: dict[str, Tally], seconds: float) -> dict[str, Any]:
    total = Tally()
    for tally in tallies.values():
        for name in ("statuses", "rules", "tiers"):
            getattr(total, name).update(getattr(tally, name))
        for name in ("truncated", "labelled", "false_positives", "false_negatives"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
    return {
        "file": task.path.name,
        "benchmark": task.benchmark,
        "workers": task.workers,
        "seconds": seconds,
        "answers_per_second": total.n / seconds if seconds else None,
        **total.to_json(),
        "sources": {source: tally.to_json() for source, tally in tallies.items()},
    }


class _Writer:
    """Writes rows beside the target and puts the file in place at the end; nothing is left behind on an error."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp") if path else None

    def __enter__(self) -> _Writer:
        if self._path is not None:
            refuse_special(self._path)
        try:
            self._handle = open(self._temporary, "w", encoding="utf-8", newline="\n") if self._temporary else None
        except OSError as error:
            raise self._failed(error) from error
        return self

    def write(self, row: dict[str, Any]) -> None:
        if self._handle is None:
            return
        try:
            self._handle.write(json.dumps(row, ensure_ascii=True) + "\n")
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._handle is None or self._temporary is None or self._path is None:
            return
        try:
            self._handle.close()
            if kind is None:
                self._temporary.replace(self._path)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self._temporary.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._path}: cannot be written ({error.strerror}); free some space or choose another folder"
        )
