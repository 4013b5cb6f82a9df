"""Estimators over several samples of one problem: pass@k, pass^k, G-Pass@k and majority votes.

Each takes the counts of one problem: ``n`` samples that were judged, ``c`` of them correct. All are unbiased: they are
the mean over every way to draw ``k`` of the ``n`` samples. `over_problems` averages them with an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .errors import BadInput
from .statistics import STANDARD, Bootstrap, Interval, share_interval

MOST_SUBSETS = 1_000
"""Votes of more subsets than this are drawn at random."""


@dataclass(frozen=True)
class Counts:
    """One problem: how many samples were judged, and how many of them are correct."""

    n: int
    c: int

    def __post_init__(self) -> None:
        if not 0 <= self.c <= self.n:
            raise BadInput(f"{self.c} correct of {self.n} samples; a count from 0 to the number of samples is expected")


def pass_at_k(counts: Counts, k: int) -> float:
    """Chance that at least one of ``k`` samples is correct, 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1).

    Raises:
        BadInput: fewer than ``k`` samples.
    """
    _check(counts, k)
    wrong = counts.n - counts.c
    if wrong < k:
        return 1.0
    return 1.0 - math.prod((wrong - i) / (counts.n - i) for i in range(k))


def pass_power_k(counts: Counts, k: int) -> float:
    """Chance that all of ``k`` samples are correct, C(c, k) / C(n, k), written pass^k.

    Raises:
        BadInput: fewer than ``k`` samples.
    """
    return g_pass_at_k(counts, k, 1.0)


def g_pass_at_k(counts: Counts, k: int, tau: float) -> float:
    """Chance that at least ``ceil(tau k)`` of ``k`` samples are correct (Liu et al. 2024, arXiv 2412.13147).

    Raises:
        BadInput: fewer than ``k`` samples, or ``tau`` outside 0..1.
    """
    _check(counts, k)
    if not 0 <= tau <= 1:
        raise BadInput(f"g_pass_at_k: tau={tau}; a share from 0 to 1 is expected")
    n, c = counts.n, counts.c
    # At least one: G-Pass@k at tau = 0 is pass@k, as in the paper.
    needed = max(1, math.ceil(tau * k - 1e-9))
    ways = sum(math.comb(c, j) * math.comb(n - c, k - j) for j in range(needed, min(c, k) + 1))
    return ways / math.comb(n, k)


def mean_g_pass_at_k(counts: Counts, k: int) -> float:
    """mG-Pass@k: twice the area under G-Pass@k from tau = 0.5 to 1 (arXiv 2412.13147).

    The paper's sum, which for odd ``k`` leaves half a step out: all correct gives (k - 1) / k then.

    Raises:
        BadInput: fewer than ``k`` samples, or ``k`` < 2, where the sum is empty.
    """
    if k < 2:
        raise BadInput(f"mean_g_pass_at_k: k={k}; 2 or more are expected")
    first = math.ceil(0.5 * k) + 1
    return 2 / k * sum(g_pass_at_k(counts, k, i / k) for i in range(first, k + 1))


@dataclass(frozen=True)
class Ballot:
    """The answers of one problem as classes of equal answers; ``votes`` holds one class per sample.

    None is a sample without a readable answer: it does not vote. ``right`` is the class of the reference, or None if
    no sample found it.
    """

    votes: tuple[int | None, ...]
    right: int | None


def majority_at_k(ballot: Ballot, k: int, *, seed: int = 0) -> float:
    """Chance that the largest class among ``k`` samples is the right one; classes that tie share the win.

    The mean over every subset of ``k`` samples, or over `MOST_SUBSETS` random ones where there are more.

    Raises:
        BadInput: fewer than ``k`` samples.
    """
    n = len(ballot.votes)
    _check(Counts(n, 0), k)
    if ballot.right is None:
        return 0.0
    if math.comb(n, k) <= MOST_SUBSETS:
        return float(np.mean([_won(ballot, chosen) for chosen in combinations(range(n), k)]))
    rng = np.random.default_rng(seed)
    draws = (rng.choice(n, size=k, replace=False) for _ in range(MOST_SUBSETS))
    return float(np.mean([_won(ballot, [int(i) for i in chosen]) for chosen in draws]))


def over_problems(
    problems: Sequence[Counts], estimate: Callable[[Counts], float], bootstrap: Bootstrap = STANDARD
) -> Interval:
    """Mean of ``estimate`` over problems, with a bootstrap interval over the problems."""
    return share_interval([estimate(counts) for counts in problems], bootstrap)


def _won(ballot: Ballot, chosen: Sequence[int]) -> float:
    tally: dict[int, int] = {}
    for sample in chosen:
        vote = ballot.votes[sample]
        if vote is not None:
            tally[vote] = tally.get(vote, 0) + 1
    most = max(tally.values(), default=0)
    leaders = [vote for vote, count in tally.items() if count == most]
    return 1 / len(leaders) if ballot.right in leaders else 0.0


def _check(counts: Counts, k: int) -> None:
    if not 1 <= k <= counts.n:
        raise BadInput(f"k={k} of {counts.n} samples; give each problem at least k samples, or a smaller k from 1")
