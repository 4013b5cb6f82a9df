"""Benchmarks by name: those of `eval_math.benchmarks`, and word problems for the embedded reasoner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval_math import benchmarks
from eval_math.errors import BadInput
from eval_math.records import Problem

from .embedded.problems import LARGEST, SPLITS, make_problems


@dataclass(frozen=True)
class EmbeddedKind:
    """Fewest and most arithmetic steps of a kind of embedded problems, and their largest number."""

    steps: tuple[int, int] = (2, 5)
    largest: int = LARGEST


EMBEDDED: Mapping[str, EmbeddedKind] = {
    "embedded": EmbeddedKind(),
    "embedded:easy": EmbeddedKind((2, 3)),
    "embedded:default": EmbeddedKind(),
    "embedded:hard": EmbeddedKind((5, 6)),
    "embedded:small": EmbeddedKind((3, 6), 20),
    "embedded:mixed": EmbeddedKind((1, 6)),
}

EMBEDDED_COUNT = 300
KNOWN: tuple[str, ...] = (*EMBEDDED, *benchmarks.BENCHMARKS)


def load(
    benchmark: str,
    *,
    split: str = "test",
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> list[Problem]:
    """As `eval_math.benchmarks.load`; also ``embedded`` and its kinds (`EMBEDDED`).

    Embedded problems are made on the spot: ``limit`` of them (300 by default), by ``seed`` (0 by default); ``level``
    is the number of steps. Their splits train, dev and test share no chain of equations.

    Raises:
        BadInput: see there.
    """
    if benchmark.partition(":")[0] == "embedded" and not benchmarks.is_file(benchmark):
        return _embedded(benchmark, split, limit, seed)
    if not benchmarks.is_file(benchmark):
        benchmarks.find(benchmark, KNOWN)
    return benchmarks.load(benchmark, split=split, data=data, limit=limit, seed=seed)


def _embedded(benchmark: str, split: str, limit: int | None, seed: int | None) -> list[Problem]:
    if benchmark not in EMBEDDED:
        raise BadInput(f"unknown benchmark {benchmark!r}; choose one of {', '.join(EMBEDDED)}")
    if split not in SPLITS:
        raise BadInput(f"benchmark {benchmark} has no split {split!r}; choose one of {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise BadInput(f"limit={limit}: at least 1 problem is expected")
    kind = EMBEDDED[benchmark]
    made = make_problems(split, limit or EMBEDDED_COUNT, seed or 0, kind.steps, kind.largest)
    return [problem.record() for problem in made]
