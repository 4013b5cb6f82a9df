"""What several samples per problem of a stored run say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .files import read_records
from .grading import equivalent
from .policies import Policy, find_policy, policy_for
from .records import Grade
from .repeated import (
    Ballot,
    Counts,
    g_pass_at_k,
    majority_at_k,
    mean_g_pass_at_k,
    over_problems,
    pass_at_k,
    pass_power_k,
)
from .runtable import RunTable, run_file
from .statistics import STANDARD, Bootstrap, Interval, share_interval


@dataclass(frozen=True)
class RepeatedRow:
    """Estimates for ``k`` samples of each problem, means over problems with bootstrap intervals.

    Problems without a readable reference are left out; samples without a readable answer count as wrong and do not
    vote.
    """

    k: int
    """Samples that every problem has."""
    average: Interval
    """avg@k: the mean share of correct samples."""
    any: Interval
    """pass@k: at least one is correct."""
    all: Interval
    """pass^k: all are correct."""
    half: Interval
    """G-Pass@k at tau = 0.5: at least half are correct."""
    stable: Interval
    """mG-Pass@k; NaN for odd k, where its sum leaves half a step out."""
    majority: Interval
    """maj@k: the most frequent answer is correct; ties share."""


def repeated_row(table: RunTable, bootstrap: Bootstrap = STANDARD) -> RepeatedRow | None:
    """The estimates of a run, for as many samples as every judged problem has; None if that is one."""
    ballots = [ballot for ballot in _ballots(table) if ballot.votes]
    k = min((len(ballot.votes) for ballot in ballots), default=0)
    if k < 2:
        return None
    counts = [Counts(len(b.votes), sum(vote is not None and vote == b.right for vote in b.votes)) for b in ballots]
    return RepeatedRow(
        k=k,
        average=over_problems(counts, lambda c: c.c / c.n, bootstrap),
        any=over_problems(counts, lambda c: pass_at_k(c, k), bootstrap),
        all=over_problems(counts, lambda c: pass_power_k(c, k), bootstrap),
        half=over_problems(counts, lambda c: g_pass_at_k(c, k, 0.5), bootstrap),
        stable=over_problems(counts if k % 2 == 0 else [], lambda c: mean_g_pass_at_k(c, k), bootstrap),
        majority=share_interval([majority_at_k(b, k, seed=bootstrap.seed) for b in ballots], bootstrap),
    )


def ballot(grades: Iterable[Grade], policy: Policy) -> Ballot:
    """The votes of one problem: correct answers are one class, wrong ones are classed by the grader's equality.

    Wrong answers that only computer algebra could call equal count as different ones: voting starts no workers.
    """
    quick = replace(policy, symbolic=False)
    votes: list[int | None] = []
    wrong: list[str] = []
    for grade in grades:
        if grade.correct:
            votes.append(0)
        elif grade.status != "incorrect" or grade.extracted is None:
            votes.append(None)
        else:
            votes.append(1 + _class_of(grade.extracted, wrong, quick))
    return Ballot(tuple(votes), 0 if 0 in votes else None)


def _class_of(answer: str, seen: list[str], policy: Policy) -> int:
    if answer in seen:
        return seen.index(answer)
    for position, other in enumerate(seen):
        if equivalent(answer, other, policy=policy).correct:
            return position
    seen.append(answer)
    return len(seen) - 1


def _ballots(table: RunTable) -> list[Ballot]:
    """One per problem that has graded samples; samples the engine failed on do not vote."""
    policy = find_policy(table.benchmark) or policy_for("auto")
    units = {
        (table.problem_ids[problem], int(sample)): bool(failed)
        for problem, sample, failed in zip(table.problem, table.sample, table.failed, strict=True)
    }
    found: dict[str, dict[int, Grade]] = defaultdict(dict)
    for grade in read_records(Grade, run_file(table.folder, "grades.jsonl"), torn_tail=True):
        failed = units.pop((grade.problem_id, grade.sample), None)
        if failed is not None and grade.status != "gold_unparsable":
            status = "unparsable" if failed else grade.status
            found[grade.problem_id][grade.sample] = replace(grade, status=status)
    for (problem, sample), failed in units.items():
        if failed:
            found[problem][sample] = Grade(problem, sample, "unparsable")
    return [ballot(samples.values(), policy) for samples in found.values()]
