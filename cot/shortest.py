"""Shortest correct of n samples, as rows to fine-tune on or as pairs to prefer by; no engine is needed.

Rows: the shortest correct trace of each problem (Kimi k1.5, arXiv 2501.12599; self-training, 2502.20122), or the
shortest quantile of them, the smaller the easier the problem is (TokenSqueeze, 2511.13223: the first ceil(q c) of c
correct traces, q = 0.2 (1 - p), p the share that is correct). Pairs: the shortest correct trace is preferred to longer
ones that are wrong, or correct and at least ``longer`` times as long (Kimi k1.5); ``rejected="incorrect"`` takes wrong
ones only, as TokenSqueeze does. Departures: lengths are the student's thinking tokens; a problem with one sample, or
whose samples are all of one length, gives no pair; TokenSqueeze's rewriting of steps is not part of this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from eval_math.errors import BadInput
from eval_math.files import write_atomic
from eval_math.records import Json, Message

from .datagen.admission import admit, data_row, question_prompt
from .datagen.apart import KeptOut
from .datagen.dataset import write_dataset
from .datagen.driver import Counts
from .datagen.job import JobConfig
from .datagen.manifest import begin_dataset, describe_dataset, finish_dataset
from .datagen.records import Outcome, SourceRow
from .datagen.source import describe_source, read_sources
from .datagen.stats import JobStats
from .datagen.student import Student, split_output

PAIRS = "pairs.jsonl"


@dataclass(frozen=True)
class Shortest:
    """How samples are chosen."""

    name: ClassVar[str] = "shortest"

    select: Literal["shortest", "quantile"] = "shortest"
    """shortest: one trace of each problem; quantile: the shortest part of the correct ones, less for easy problems."""
    quantile: float = 0.2
    """TokenSqueeze's factor of 1 - p."""
    rejected: Literal["any", "incorrect"] = "any"
    """Which longer traces a pair may reject."""
    longer: float = 1.5
    """A correct trace is rejected if it has so many times the tokens of the preferred one."""
    most_pairs: int = 4
    """Pairs of one problem at most."""

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1 or self.longer < 1 or self.most_pairs < 1:
            raise BadInput(
                f"shortest: quantile above 0 and up to 1, longer and most_pairs of 1 or more expected: {self}"
            )

    def fingerprint(self) -> dict[str, Json]:
        """Name and hyper-parameters."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Sample:
    """What is remembered of one trace: its place among the source rows, length and verdict."""

    at: int
    n_tokens: int
    correct: bool


@dataclass(frozen=True)
class Preference:
    """One line of a preference dataset: message lists as TRL's DPO trainer takes them."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    n_chosen_tokens: int
    n_rejected_tokens: int


def measure_samples(
    rows: Iterable[SourceRow], count: Callable[[str], int], apart: KeptOut | None = None
) -> dict[str, list[Sample]]:
    """The samples of each problem; those without a verdict are refused, those that test sets have count as wrong.

    Raises:
        BadInput: a row was not graded.
    """
    found: dict[str, list[Sample]] = {}
    for at, row in enumerate(rows):
        if row.correct is None:
            raise BadInput(
                f"problem {row.problem.id!r}: a sample without a verdict; grade the run first (laconic eval)"
            )
        output = split_output(row.output)
        n_tokens = count(output.thinking if output is not None else row.output)
        usable = row.correct and output is not None and row.finish == "stop"
        usable = usable and (apart is None or apart.excluded(row) is None)
        found.setdefault(row.problem.id, []).append(Sample(at, n_tokens, usable))
    return found


def choose_rows(samples: Sequence[Sample], how: Shortest) -> list[Sample]:
    """The traces of one problem to train on, shortest first."""
    correct = sorted((s for s in samples if s.correct), key=lambda s: (s.n_tokens, s.at))
    if not correct or how.select == "shortest":
        return correct[:1]
    share = how.quantile * (1 - len(correct) / len(samples))
    return correct[: max(1, math.ceil(share * len(correct)))]


def choose_pairs(samples: Sequence[Sample], how: Shortest) -> list[tuple[Sample, Sample]]:
    """(preferred, rejected) of one problem, the longest rejected first."""
    best = next(iter(choose_rows(samples, Shortest())), None)
    if best is None:
        return []
    longer = [s for s in samples if s.n_tokens > best.n_tokens and _may_reject(s, best, how)]
    longer.sort(key=lambda s: (-s.n_tokens, s.at))
    return [(best, worse) for worse in longer[: how.most_pairs]]


def chosen_outcomes(
    rows: Iterable[SourceRow],
    samples: dict[str, list[Sample]],
    how: Shortest,
    student: Student,
    apart: KeptOut | None = None,
) -> Iterator[tuple[SourceRow, Outcome]]:
    """Each source row with its outcome: a row of the dataset for those that were chosen."""
    chosen = {sample.at for listed in samples.values() for sample in choose_rows(listed, how)}
    for at, row in enumerate(rows):
        excluded = apart.excluded(row) if apart is not None else None
        yield row, excluded or (_outcome(row, student) if at in chosen else Outcome("rejected"))


def preferences(
    rows: Callable[[], Iterable[SourceRow]], samples: dict[str, list[Sample]], how: Shortest, student: Student
) -> Iterator[Preference]:
    """The pairs of all problems; ``rows`` gives the source rows anew each time it is called."""
    pairs = [pair for listed in samples.values() for pair in choose_pairs(listed, how)]
    wanted = {sample.at for pair in pairs for sample in pair}
    texts = {at: row for at, row in enumerate(rows()) if at in wanted}
    for number, (best, worse) in enumerate(pairs):
        good, bad = texts[best.at], texts[worse.at]
        preferred, refused = _completion(good, student), _completion(bad, student)
        if preferred and refused:
            name, sizes = f"{good.problem.id}/{number}", (best.n_tokens, worse.n_tokens)
            yield Preference(name, question_prompt(good), preferred, refused, *sizes)


def preference_line(pair: Preference) -> dict[str, Any]:
    """The pair as one JSON object."""
    return {
        "id": pair.id,
        "prompt": [asdict(message) for message in pair.prompt],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "n_chosen_tokens": pair.n_chosen_tokens,
        "n_rejected_tokens": pair.n_rejected_tokens,
    }


def make_dataset(job: JobConfig, how: Shortest, student: Student, apart: KeptOut | None = None) -> JobStats:
    """Write the dataset folder: ``train.jsonl`` and so on, and the pairs in `PAIRS`.

    Args:
        apart: test sets whose questions are left out.

    Raises:
        BadInput: a source is malformed or has ungraded samples, or no problem has a correct one.
        RunMismatch: the folder was made by another configuration.
    """
    shape = {k: v for k, v in asdict(job.layout).items() if k != "about"}
    about: dict[str, Json] = {"name": student.name, "template_hash": student.template_hash}
    config: dict[str, Json] = {"method": how.fingerprint(), "student": about, "seed": job.seed, "layout": shape}
    if apart is not None:
        config["apart_from"] = apart.fingerprint()
    files = [describe_source(path) for path in job.sources]
    begin_dataset(job.out, describe_dataset(files, config, {}), update=job.update)
    samples = measure_samples(read_sources(job.sources, job.limit), student.count, apart)
    if not any(sample.correct for listed in samples.values() for sample in listed):
        raise BadInput(f"{job.sources[0]}: no problem has a correct sample that ended and closed its thinking")
    more: dict[str, Json] = {"method": how.name, "student": student.name}
    found = chosen_outcomes(read_sources(job.sources, job.limit), samples, how, student, apart)
    stats = write_dataset(job.out, found, replace(job.layout, about=more))
    pairs = preferences(lambda: read_sources(job.sources, job.limit), samples, how, student)
    write_atomic(job.out / PAIRS, "".join(json.dumps(preference_line(p), ensure_ascii=False) + "\n" for p in pairs))
    finish_dataset(job.out, stats, Counts(rows=stats.sources))
    return stats


def _may_reject(sample: Sample, best: Sample, how: Shortest) -> bool:
    if not sample.correct:
        return True
    return how.rejected == "any" and sample.n_tokens >= how.longer * best.n_tokens


def _outcome(row: SourceRow, student: Student) -> Outcome:
    output = admit(row)
    if isinstance(output, Outcome):
        return output
    made = data_row(question_prompt(row), output.thinking, output, student)
    return Outcome("kept", (made,), n_source_tokens=made.n_thinking_tokens)


def _completion(row: SourceRow, student: Student) -> str:
    output = split_output(row.output)
    return student.completion(output.thinking, output) if output is not None else ""
