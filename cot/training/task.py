"""What is taught: how rows become ids, and which of TRL's trainers learns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eval_math.records import Json

from ..chat import Chat
from .data import CHECKED_ROWS, Encoder, check_template, keep_fitting
from .rows import DataFiles, SftRow


class Task(Protocol):
    """What is taught: how rows become ids, and which trainer learns them."""

    name: str
    loss_unit: str
    numbered: bool = False
    """Each row that the collator gets has its place in the training as ``visit``."""

    def read(self, data: DataFiles, limit: int | None) -> Sequence[Any]:
        """The rows of a data set."""
        ...

    def encode(self, encoder: Encoder, row: Any) -> Any:
        """Ids of one row."""
        ...

    def length(self, encoded: Any) -> int:
        """Tokens of the longest sequence of a row: what must fit."""
        ...

    def tokens(self, encoded: Any) -> int:
        """Tokens of a row, all sequences together."""
        ...

    def written(self, row: Any) -> Sequence[SftRow]:
        """The row as supervised ones, for the check of the template."""
        ...

    def columns(self, rows: Sequence[Any]) -> Mapping[str, list[list[int]]]:
        """The columns that the trainer takes."""
        ...

    def trainer(self, stage: Stage, arguments: Mapping[str, Any]) -> Any:
        """The trainer of TRL, ready to train."""
        ...

    def take_extras(self, model: Any) -> Callable[[Path], None] | None:
        """Take off the trained model what a plain model folder does not hold; returns what writes it into one."""
        return None


@dataclass(frozen=True)
class Prepared:
    """Rows that fit, as ids, in reading order; with what was left out, and what the template would do to them."""

    rows: Sequence[Any]
    lengths: list[int]
    tokens: list[int]
    facts: Mapping[str, Json]
    warnings: Sequence[str]


@dataclass(frozen=True)
class Stage:
    """What a trainer is made of. ``dataset`` is in training order, rows repeated as often as they are trained."""

    config: Any
    source: Path
    chat: Chat
    model: Any
    dataset: Any
    adapters: Any


def prepare(task: Task, data: DataFiles, chat: Chat, longest: int, limit: int | None = None) -> Prepared:
    """Read and encode all rows, leave out those over ``longest`` tokens, and check the template on the others.

    Raises:
        BadInput: a malformed row, no row, or none that fits.
    """
    encoder = Encoder(chat)
    rows = task.read(data, limit)
    encoded = [task.encode(encoder, row) for row in rows]
    kept = keep_fitting(encoded, task.length, longest)
    facts: dict[str, Json] = {
        "path": str(data.path),
        "sha256": data.sha256(),
        "rows": len(rows),
        "too_long": kept.dropped,
        "trained": len(kept.rows),
        "max_length": longest,
        "longest": kept.longest,
        "tokens": sum(map(task.tokens, kept.rows)),
    }
    shown = [written for row in rows[:CHECKED_ROWS] for written in task.written(row)]
    lengths = [task.length(row) for row in kept.rows]
    return Prepared(kept.rows, lengths, list(map(task.tokens, kept.rows)), facts, check_template(chat, shown))
