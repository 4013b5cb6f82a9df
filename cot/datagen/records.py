"""What rewriting starts from and ends in: source rows, the calls they take, rows of the dataset, and outcomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from eval_math.records import Json, Message, Problem, Sampling, Trace, digest

from .gates import Rejection

Status = Literal["kept", "part", "rejected", "excluded", "error"]
"""kept: all that was asked for; part: some rows were rejected; rejected: none is left; excluded: the source itself is
unfit; error: the engine or the rewriter failed on it."""


@dataclass(frozen=True)
class SourceRow:
    """A solved problem: ``output`` is what the model said, think tags included.

    ``correct`` is the verdict on the source, None where nobody gave one. ``origin`` says where the row came from.
    """

    problem: Problem
    output: str
    finish: Literal["stop", "length"] = "stop"
    sample: int = 0
    correct: bool | None = None
    origin: Mapping[str, Json] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Identity of the content: question, reference and output. Position, id and origin have no part in it."""
        return digest([self.problem.question, self.problem.answer, self.output, self.finish])


@dataclass(frozen=True)
class Generate:
    """Ask the engine for one output. ``unit`` names the piece of the source, ``sample`` counts tries of it.

    The seed is set from row, unit and sample: it depends on neither order nor batch size nor where a job was resumed.
    """

    unit: str
    sample: int
    messages: tuple[Message, ...]
    sampling: Sampling
    template: Mapping[str, Json] = field(default_factory=dict)

    def sampling_with(self, seed: int) -> Sampling:
        """The sampling under ``seed``."""
        return dataclasses.replace(self.sampling, seed=seed)


@dataclass(frozen=True)
class Score:
    """Ask the engine for the log-probabilities of ``completion`` after ``prompt`` (token ids)."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


Call = Generate | Score
Reply = Trace | tuple[float, ...]


@dataclass(frozen=True)
class DataRow:
    """One line of the dataset; ``completion`` holds thinking and answer with the student's think tags."""

    prompt: tuple[Message, ...]
    completion: str
    condition: str = ""
    n_question_tokens: int = 0
    n_thinking_tokens: int = 0
    n_answer_tokens: int = 0
    kept_ratio: float = 1.0
    """Thinking tokens of this row over those of its source."""
    asked_ratio: float | None = None
    details: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """A rewrite that was checked: ``unit`` names the piece of the source, ``text`` is kept for reading by eye."""

    unit: str
    sample: int
    text: str
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """All that became of one source row."""

    status: Status
    rows: tuple[DataRow, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    error: str = ""
    n_source_tokens: int = 0
    """Thinking tokens of the source, by the student's tokenizer."""
    figures: Mapping[str, Json] = field(default_factory=dict)


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as one JSON object, defaults left out."""
    return _bare(outcome)


def outcome_from_json(row: Mapping[str, Any]) -> Outcome:
    """The outcome in ``row``."""
    return Outcome(
        status=row["status"],
        rows=tuple(map(_data_row, row.get("rows", ()))),
        attempts=tuple(map(_attempt, row.get("attempts", ()))),
        error=row.get("error", ""),
        n_source_tokens=row.get("n_source_tokens", 0),
        figures=row.get("figures", {}),
    )


def _data_row(row: Mapping[str, Any]) -> DataRow:
    return DataRow(**{**row, "prompt": tuple(Message(**message) for message in row["prompt"])})


def _attempt(row: Mapping[str, Any]) -> Attempt:
    return Attempt(**{**row, "rejections": tuple(Rejection(**each) for each in row.get("rejections", ()))})


def _bare(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {
            name: _bare(each)
            for name, each in shown.items()
            if each not in (None, "", (), {}) or name in ("status", "completion", "content", "text")
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_bare(each) for each in value]
    return value
