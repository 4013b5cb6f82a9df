"""C3oT_Adapt: each trace at the highest compression from which the student still learns to solve its problem.

arXiv 2412.11664, section 3. Levels from the shortest to the longest: the samples that have no level yet are cut into
folds; a student is trained on the level's short rows of all folds but one and asked the problems of that one; what it
solves in any of the seeds' passes gets the level. Departures: the paper runs 6 levels, 5 folds and 3 seeds, up to 90
trainings; the defaults here are 3 levels, 2 folds and 1 seed, at most 6. A sample that no level solves gets the mildest
one, and one whose row a gate refused at a level is not tried there: the paper says neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_math.errors import BadInput
from eval_math.files import write_atomic
from eval_math.grading import grade_trace
from eval_math.records import Message, Problem, Request, Sampling, digest

from .c3ot import condition_text
from .engine import Engine

if TYPE_CHECKING:
    from .training.config import SftConfig

MOST_TOKENS = 512
"""Longest output of a student whose short row is tried."""

Predict = Callable[["Fold"], Iterable[str]]
"""Trains on a fold's ``train`` samples at its level and gives those of ``ask`` that were solved."""


@dataclass(frozen=True)
class Adapt:
    """How levels are given out."""

    levels: tuple[str, ...] = ("level-5", "level-3", "level-1")
    """Highest compression first; the last is also the fallback."""
    folds: int = 2
    """Parts that a level's open samples are cut into."""
    seeds: tuple[int, ...] = (0,)
    """Passes over the folds; solved in one of them is enough."""

    def __post_init__(self) -> None:
        if not self.levels or len(set(self.levels)) < len(self.levels):
            raise BadInput(f"adapt: levels={self.levels}, one or more different levels are expected")
        if self.folds < 2 or not self.seeds:
            raise BadInput(f"adapt: folds={self.folds}, seeds={self.seeds}; at least 2 folds and 1 seed are expected")

    @property
    def most_trainings(self) -> int:
        """Trainings if every level has open samples."""
        return len(self.levels) * self.folds * len(self.seeds)


@dataclass(frozen=True)
class Fold:
    """One training and the question put to it."""

    level: str
    seed: int
    number: int
    train: tuple[str, ...]
    ask: tuple[str, ...]


def assign_levels(available: Mapping[str, Sequence[str]], predict: Predict, how: Adapt = Adapt()) -> dict[str, str]:
    """The level of each sample.

    Args:
        available: sample -> levels at which it has a short row.
        predict: see `Predict`; called at most `Adapt.most_trainings` times.
    """
    assigned: dict[str, str] = {}
    for level in how.levels:
        waiting = [key for key, levels in available.items() if key not in assigned and level in levels]
        for fold in folds_of(waiting, level, how):
            solved = set(predict(fold)) & set(fold.ask)
            assigned |= dict.fromkeys(sorted(solved - set(assigned)), level)
    for key, levels in available.items():
        left = [level for level in how.levels if level in levels]
        if key not in assigned and left:
            assigned[key] = left[-1]
    return assigned


def folds_of(keys: Sequence[str], level: str, how: Adapt) -> list[Fold]:
    """Every fold of every seed; which part a sample is in depends on the seed and the sample alone."""
    found = []
    for seed in how.seeds:
        part = {key: int(digest(["fold", seed, key], 8), 16) % how.folds for key in keys}
        for number in range(how.folds):
            train = tuple(key for key in keys if part[key] != number)
            ask = tuple(key for key in keys if part[key] == number)
            if train and ask:
                found.append(Fold(level, seed, number, train, ask))
    return found


def adapted_rows(rows: Iterable[Mapping[str, Any]], assigned: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The long rows, and of each sample the short row of its level, asked for with the plain short condition.

    Args:
        rows: lines of a dataset that `C3ot` made with mixed levels.
        assigned: row_key -> level.
    """
    for row in rows:
        condition = row["condition"]
        if condition == "long":
            yield dict(row)
        elif assigned.get(row["row_key"]) == condition:
            first, *rest = row["prompt"]
            words = first["content"].removeprefix(condition_text(condition))
            turn = {**first, "content": condition_text("short") + words}
            yield {**row, "prompt": [turn, *rest], "condition": "short", "details": {"level": condition}}


class TrainedPredictor:
    """Trains a student per fold and asks it, each in a folder that a second call finds again.

    Args:
        rows: lines of a dataset that `C3ot` made with mixed levels.
        folder: where fold data and students go.
        config: of each training; its seed is the fold's.
        open_student: the engine of a model folder.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        folder: Path,
        config: SftConfig,
        open_student: Callable[[Path], Engine],
    ) -> None:
        self._rows = {(row["row_key"], row["condition"]): row for row in rows}
        self._folder = folder
        self._config = config
        self._open = open_student

    @property
    def available(self) -> dict[str, list[str]]:
        """Levels at which each sample has a row."""
        found: dict[str, list[str]] = {}
        for key, condition in self._rows:
            if condition != "long":
                found.setdefault(key, []).append(condition)
        return found

    def __call__(self, fold: Fold) -> list[str]:
        """The samples of ``fold.ask`` that a student of ``fold.train`` solves."""
        from .training.session import Session
        from .training.sft import Sft

        name = f"{fold.level}-seed{fold.seed}-fold{fold.number}"
        data, student = self._folder / f"{name}.jsonl", self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(dict(self._rows[key, fold.level]), ensure_ascii=False) for key in fold.train)
        write_atomic(data, "".join(f"{line}\n" for line in lines))
        Session(Sft(), replace(self._config, seed=fold.seed), data, student).run()
        engine = self._open(student)
        try:
            return [key for key in self._answers(engine, fold) if key]
        finally:
            engine.close()

    def _answers(self, engine: Engine, fold: Fold) -> Iterator[str]:
        """The sample of each right answer, "" for the others."""
        rows = {key: self._rows[key, fold.level] for key in fold.ask}
        requests = (
            Request(key, messages=tuple(Message(**turn) for turn in row["prompt"]), sampling=Sampling(MOST_TOKENS))
            for key, row in rows.items()
        )
        for trace in engine.generate(requests):
            row = rows[trace.problem_id]
            problem = Problem(trace.problem_id, row["benchmark"], "", row["answer"])
            yield trace.problem_id if grade_trace(trace, problem).correct else ""
