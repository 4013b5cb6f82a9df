"""Estimators over several samples against enumeration and known values."""

from __future__ import annotations

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval_math.errors import BadInput
from eval_math.policies import POLICIES
from eval_math.records import Grade
from eval_math.repeated import (
    Ballot,
    Counts,
    g_pass_at_k,
    majority_at_k,
    mean_g_pass_at_k,
    over_problems,
    pass_at_k,
    pass_power_k,
)
from eval_math.votes import ballot

SMALL = [(n, c, k) for n in range(1, 9) for c in range(n + 1) for k in range(1, n + 1)]


def drawn(n: int, c: int, k: int) -> list[int]:
    """Correct ones in each way to draw k of n samples."""
    return [sum(i < c for i in chosen) for chosen in combinations(range(n), k)]


@pytest.mark.parametrize(("n", "c", "k"), SMALL)
def test_all_equal_enumeration(n, c, k):
    right = drawn(n, c, k)
    counts = Counts(n, c)
    assert pass_at_k(counts, k) == pytest.approx(np.mean([r >= 1 for r in right]))
    assert pass_power_k(counts, k) == pytest.approx(np.mean([r == k for r in right]))
    for tau in (0.25, 0.5, 0.75, 1.0):
        needed = max(1, -(-int(tau * 100) * k // 100))
        assert g_pass_at_k(counts, k, tau) == pytest.approx(np.mean([r >= needed for r in right]))


def test_large_numbers_do_not_overflow_and_agree_with_scipy():
    counts = Counts(2000, 70)
    assert pass_at_k(counts, 500) == pytest.approx(stats.hypergeom.sf(0, 2000, 70, 500), rel=1e-9)
    assert g_pass_at_k(counts, 500, 0.04) == pytest.approx(stats.hypergeom.sf(19, 2000, 70, 500), rel=1e-9)


@settings(deadline=None)
@given(st.integers(1, 40), st.data())
def test_order_of_the_estimates(n, data):
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    counts = Counts(n, c)
    assert pass_power_k(counts, k) <= c / n + 1e-12 <= pass_at_k(counts, k) + 2e-12
    assert pass_at_k(counts, 1) == pytest.approx(c / n)
    if k > 1:
        assert pass_at_k(counts, k) >= pass_at_k(counts, k - 1) - 1e-12
    shares = [g_pass_at_k(counts, k, tau) for tau in (0.0, 0.3, 0.5, 0.8, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(pass_at_k(counts, k))


def test_mean_g_pass_is_the_mean_of_its_thresholds():
    counts = Counts(16, 12)
    parts = [g_pass_at_k(counts, 16, i / 16) for i in range(9, 17)]
    assert mean_g_pass_at_k(counts, 16) == pytest.approx(sum(parts) / 8) == pytest.approx(0.5)
    assert mean_g_pass_at_k(Counts(4, 4), 4) == 1 and mean_g_pass_at_k(Counts(4, 0), 4) == 0


def _majority_by_hand(votes: tuple[int | None, ...], right: int, k: int) -> float:
    won = []
    for chosen in combinations(votes, k):
        counts = {vote: chosen.count(vote) for vote in chosen if vote is not None}
        leaders = [vote for vote, count in counts.items() if count == max(counts.values())]
        won.append(leaders.count(right) / max(1, len(leaders)))
    return float(np.mean(won))


@pytest.mark.parametrize("votes", list(product([0, 1, 2, None], repeat=4))[::7])
def test_majority_equals_enumeration(votes):
    right = 0 if 0 in votes else None
    for k in range(1, 5):
        found = majority_at_k(Ballot(votes, right), k)
        assert found == pytest.approx(_majority_by_hand(votes, 0, k) if right == 0 else 0.0)


def test_majority_of_one_is_the_share_that_is_right():
    assert majority_at_k(Ballot((0, 0, 1, None), 0), 1) == pytest.approx(0.5)


def test_ties_share_and_silence_does_not_vote():
    assert majority_at_k(Ballot((0, 1), 0), 2) == 0.5
    assert majority_at_k(Ballot((0, None, None, None), 0), 4) == 1.0
    assert majority_at_k(Ballot((None, None), None), 2) == 0.0


def test_many_subsets_are_sampled_with_a_seed():
    votes = Ballot((0,) * 11 + (1,) * 13 + (2,) * 8, 0)
    assert comb(32, 9) > 5_000
    found = majority_at_k(votes, 9, seed=1)
    assert found == majority_at_k(votes, 9, seed=1)
    assert found == pytest.approx(majority_at_k(votes, 9, seed=2), abs=0.04)


def test_votes_are_classed_by_the_grader():
    answers = [("correct", "1/2"), ("correct", "0.5"), ("incorrect", "1/3"), ("incorrect", "\\frac13")]
    answers += [("incorrect", "7"), ("unparsable", None), ("timeout", "x")]
    grades = [Grade("p", i, status, extracted=text) for i, (status, text) in enumerate(answers)]
    assert ballot(grades, POLICIES["math"]) == Ballot((0, 0, 1, 1, 2, None, None), 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Counts(3, 4),
        lambda: Counts(3, -1),
        lambda: pass_at_k(Counts(3, 1), 4),
        lambda: pass_at_k(Counts(3, 1), 0),
        lambda: g_pass_at_k(Counts(3, 1), 2, 1.5),
        lambda: mean_g_pass_at_k(Counts(3, 1), 1),
        lambda: majority_at_k(Ballot((0,), 0), 2),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(BadInput):
        call()


def test_mean_over_problems():
    found = over_problems([Counts(4, 4), Counts(4, 0), Counts(4, 2)], lambda c: pass_at_k(c, 2))
    assert found.value == pytest.approx((1 + 0 + 5 / 6) / 3) and found.low < found.value < found.high
