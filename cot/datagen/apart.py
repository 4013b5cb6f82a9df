"""Sources kept apart from test sets: a question that overlaps with one is not rewritten and not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eval_math.records import Json, digest

from ..benchmarks import load
from .contamination import ContaminationIndex
from .records import Outcome, SourceRow
from .rewriter import Bench, Rewriter, Work


@dataclass(frozen=True)
class KeptOut:
    """Benchmarks by name (their test split) or problem files; ``index`` holds their questions."""

    names: tuple[str, ...]
    hash: str
    index: ContaminationIndex = field(compare=False)

    @classmethod
    def named(cls, names: Sequence[str]) -> KeptOut | None:
        """The test sets; None if no name is given.

        Raises:
            BadInput: an unknown benchmark, or a file that cannot be read.
        """
        if not names:
            return None
        questions = [problem.question for name in names for problem in load(name)]
        return cls(tuple(names), digest(sorted(questions)), ContaminationIndex(questions))

    def excluded(self, row: SourceRow) -> Outcome | None:
        """The outcome of a row whose question a test set has too, or a good part of it; None for others."""
        shared = self.index.find(row.problem.question)
        return Outcome("excluded", error=f'contaminated: a test question has "{shared}" too') if shared else None

    def fingerprint(self) -> dict[str, Json]:
        """Names and content."""
        return {"names": list(self.names), "questions": self.hash}


@dataclass(frozen=True)
class Apart:
    """A rewriter that leaves out what the test sets have."""

    inner: Rewriter
    tests: KeptOut

    @property
    def name(self) -> str:
        """The inner rewriter's."""
        return self.inner.name

    @property
    def needs(self) -> frozenset[str]:
        """The inner rewriter's."""
        return self.inner.needs

    def fingerprint(self) -> Mapping[str, Json]:
        """The inner rewriter's, and what it is kept apart from."""
        return {**self.inner.fingerprint(), "apart_from": self.tests.fingerprint()}

    def rewrite(self, row: SourceRow, bench: Bench) -> Work:
        """Rows of the dataset, unless the row is excluded."""
        excluded = self.tests.excluded(row)
        if excluded is not None:
            return excluded
        return (yield from self.inner.rewrite(row, bench))


def kept_apart(rewriter: Rewriter, tests: KeptOut | None) -> Rewriter:
    """The rewriter, leaving out what ``tests`` have."""
    return Apart(rewriter, tests) if tests is not None else rewriter  # type: ignore[return-value]
