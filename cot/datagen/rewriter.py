"""What a rewriting paper has to say: how one source row becomes rows of a dataset, as a generator of calls."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from eval_math.records import Json

from ..engine import Engine
from .gates import GateSettings
from .records import Call, Outcome, Reply, SourceRow
from .student import Student
from .supply import Supply

Work = Generator[list[Call], list[Reply], Outcome]


@dataclass(frozen=True)
class Bench:
    """What rewriting works with, the same for every row."""

    supply: Supply
    student: Student
    gates: GateSettings
    seed: int = 0
    scorer: Supply | None = None
    """The engine that scores, where another model than the writer is to judge."""

    @property
    def scoring(self) -> Engine:
        """The engine whose model scores; its tokenizer makes the ids of a `Score`."""
        return (self.scorer or self.supply).engine

    @property
    def engine(self) -> Engine:
        """For its tokenizer (`Engine.encode`, `Engine.prompt_ids`).

        What it is to write or score goes through the calls that `Rewriter.rewrite` yields, so that answers are stored.
        """
        return self.supply.engine


class Rewriter(Protocol):
    """A frozen dataclass per paper; its fields are the hyper-parameters."""

    name: ClassVar[str]
    """Short name of the method, e.g. `c3ot`."""

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities that the engine must have."""
        ...

    def rewrite(self, row: SourceRow, bench: Bench) -> Work:
        """Rows of the dataset out of one source row.

        Yields lists of calls, is sent their replies in the same order, and returns the outcome. It must be a pure
        function of row, bench and replies: a job that was killed is resumed by running it again over stored replies.
        `BadInput` raised in it is the outcome ``error`` of this row alone.
        """
        ...

    def fingerprint(self) -> Mapping[str, Json]:
        """Name and hyper-parameters; prompts by their content."""
        ...
