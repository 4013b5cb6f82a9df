"""Rows out of reference solutions: the benchmark's own steps as thoughts, whole or as bare equations.

GSM8K's calculator marks (``<<48/2=24>>``) give chains of equations, the short thoughts on which latent reasoners are
usually trained (as in arXiv 2405.14838, whose larger set was rewritten by a model; this one is the original).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal

from eval_math.errors import BadInput
from eval_math.records import Json, Problem, digest

from .datagen.admission import data_row, question_prompt
from .datagen.apart import KeptOut
from .datagen.dataset import write_dataset
from .datagen.driver import Counts
from .datagen.job import JobConfig
from .datagen.manifest import begin_dataset, describe_dataset, finish_dataset
from .datagen.records import Outcome, SourceRow
from .datagen.source import SourceFile
from .datagen.stats import JobStats
from .datagen.student import Student, split_output

_MARK = re.compile(r"<<([^<>]*)>>")
_END = re.compile(r"\n?####.*\Z", re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """Which part of a solution becomes the thought."""

    name: ClassVar[str] = "reference"

    steps: Literal["equations", "solution"] = "equations"
    """The marked equations, one after the other, or the text without the marks."""

    def thought(self, solution: str) -> str:
        """The thought in a reference solution; empty if it has none."""
        if self.steps == "equations":
            return ". ".join(mark.replace(" ", "") for mark in _MARK.findall(solution))
        return _END.sub("", _MARK.sub("", solution)).strip()


def reference_rows(problems: Iterable[Problem], how: Reference) -> Iterator[SourceRow]:
    """Each problem as if it had been solved by its reference; the answer is boxed."""
    for problem in problems:
        thought = how.thought(problem.solution or "")
        output = f"<think>{thought}</think>\\boxed{{{problem.answer}}}"
        yield SourceRow(problem, output, correct=True, origin={"reference": problem.benchmark})


def make_reference_dataset(
    problems: Sequence[Problem], job: JobConfig, how: Reference, student: Student, apart: KeptOut | None = None
) -> JobStats:
    """Write the dataset folder.

    Args:
        apart: test sets whose questions are left out.

    Raises:
        BadInput: no problem has such a solution.
        RunMismatch: the folder was made by another configuration.
    """
    rows = list(reference_rows(problems, how))
    if not any(how.thought(problem.solution or "") for problem in problems):
        raise BadInput(f"none of {len(rows)} problems has a solution with {how.steps}; give a benchmark that has them")
    about: dict[str, Json] = {"name": student.name, "template_hash": student.template_hash}
    shape = {name: value for name, value in asdict(job.layout).items() if name != "about"}
    config: dict[str, Json] = {
        "method": {"name": how.name, **asdict(how)},
        "student": about,
        "seed": job.seed,
        "layout": shape,
    }
    if apart is not None:
        config["apart_from"] = apart.fingerprint()
    name = problems[0].benchmark
    source = SourceFile(name, "reference", len(rows), digest([row.key for row in rows]), {"benchmark": name})
    begin_dataset(job.out, describe_dataset([source], config, {}), update=job.update)
    more: dict[str, Json] = {"method": how.name, "student": student.name}
    stats = write_dataset(
        job.out, ((row, _outcome(row, student, apart)) for row in rows), replace(job.layout, about=more)
    )
    finish_dataset(job.out, stats, Counts(rows=stats.sources))
    return stats


def _outcome(row: SourceRow, student: Student, apart: KeptOut | None) -> Outcome:
    excluded = apart.excluded(row) if apart is not None else None
    output = split_output(row.output)
    if excluded is not None:
        return excluded
    if output is None or not output.thinking:
        return Outcome("excluded", error="no steps: the reference solution has none that are marked")
    made = data_row(question_prompt(row), output.thinking, output, student)
    return Outcome("kept", (made,), n_source_tokens=made.n_thinking_tokens)
