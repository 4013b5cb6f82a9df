"""Intervals and tests against scipy and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.coverage import STUDIES, coverage
from eval_math.errors import BadInput
from eval_math.statistics import (
    Bootstrap,
    bootstrap_interval,
    bootstrap_means,
    difference_interval,
    mcnemar,
    mean_interval,
    percentile,
    saving_interval,
    share_interval,
    t_quantile,
    token_interval,
    wilson,
)

FEW = Bootstrap(draws=2000, seed=7)


def test_wilson_gives_the_published_examples():
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3 (score without continuity correction).
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, n), (low, high) in published.items():
        found = wilson(successes, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@settings(deadline=None)
@given(st.integers(1, 5000), st.data())
def test_wilson_agrees_with_scipy(n, data):
    successes = data.draw(st.integers(0, n))
    found, known = wilson(successes, n), stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_of_nothing_and_of_nonsense():
    assert math.isnan(wilson(0, 0).value)
    for successes, n in ((-1, 3), (4, 3)):
        with pytest.raises(BadInput, match="successes of"):
            wilson(successes, n)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 29, 99, 100, 101, 150, 1000, 100_000])
@pytest.mark.parametrize("probability", [0.5, 0.75, 0.9, 0.975, 0.995])
def test_t_quantile_agrees_with_scipy(freedom, probability):
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-7, abs=1e-12)


def test_mean_interval_agrees_with_scipy():
    values = [112.0, 96.0, 230.0, 41.0, 87.0, 300.0]
    low, high = stats.t.interval(0.95, 5, loc=np.mean(values), scale=stats.sem(values))
    found = mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_mean_interval_without_spread_to_see():
    one = mean_interval([5.0])
    assert one.value == 5.0 and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(mean_interval([]).value)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_sign_test(gained, lost):
    known = stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(known, rel=1e-9)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemar_published_and_large():
    # Two-sided exact binomial for 2 of 12 discordant pairs: 2 * (1 + 12 + 66) / 4096.
    assert mcnemar(2, 10) == pytest.approx(158 / 4096)
    assert 0 <= mcnemar(40_000, 60_000) < 1e-300
    with pytest.raises(BadInput):
        mcnemar(-1, 2)


def test_percentile_is_linear_between_neighbours():
    assert percentile(range(1, 101), 95) == pytest.approx(95.05)
    assert percentile([3.0], 95) == 3.0
    assert math.isnan(percentile([], 95))


def test_bootstrap_is_the_same_each_time_and_differs_by_seed():
    values = np.random.default_rng(0).gamma(2, 50, 200)
    assert bootstrap_interval(values, FEW) == bootstrap_interval(values, FEW)
    assert bootstrap_interval(values, FEW) != bootstrap_interval(values, Bootstrap(2000, seed=8))


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(1).gamma(2, 50, 400)
    known = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=3).confidence_interval
    found = bootstrap_interval(values)
    width = known.high - known.low
    assert abs(found.low - known.low) < 0.04 * width and abs(found.high - known.high) < 0.04 * width


def test_columns_of_a_draw_share_their_problems():
    values = np.random.default_rng(2).random(50)
    means = bootstrap_means(np.stack([values, 3 * values]), FEW)
    assert means.shape == (2000, 2)
    assert np.allclose(means[:, 1], 3 * means[:, 0])


def test_many_problems_need_fewer_draws():
    assert len(bootstrap_means(np.ones((1, 20_000)))) == 5000


def test_difference_of_equal_runs_is_zero_but_not_for_certain():
    right = np.ones(300)
    found = difference_interval(right, right)
    assert found.value == 0 and -0.02 < found.low < 0 < found.high < 0.02


def test_saving_of_a_constant_ratio_has_no_width():
    before = np.random.default_rng(3).integers(50, 500, 80).astype(float)
    found = saving_interval(before, before / 4, FEW)
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))
    assert math.isnan(saving_interval(np.zeros(5), np.ones(5), FEW).value)
    assert math.isnan(saving_interval([], [], FEW).value)


@pytest.mark.parametrize(("n", "gained", "lost"), [(100, 0.06, 0.06), (300, 0.05, 0.02), (300, 0.10, 0.05)])
def test_difference_interval_covers_the_truth(n, gained, lost):
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(300):
        change = rng.choice([1.0, -1.0, 0.0], size=n, p=[gained, lost, 1 - gained - lost])
        before = (change < 0).astype(float)
        found = difference_interval(before, before + change, Bootstrap(draws=600))
        covered += found.low <= gained - lost <= found.high
    assert 0.92 <= covered / 300 <= 0.99


@pytest.mark.parametrize("name", list(STUDIES))
def test_intervals_cover_the_truth(name):
    """A short run of the coverage benchmark; its 400 studies leave a standard error of one point."""
    found = coverage(STUDIES[name], problems=200, studies=400, seed=1)
    assert 0.92 <= found.value <= 0.98


def test_tokens_reach_further_up_than_down():
    found = token_interval([100, 120, 900])
    assert found.low > 0 and found.high - found.value > found.value - found.low
    plain = mean_interval(np.full(5, 7.0) + np.arange(5) * 1e-3)
    close = token_interval(np.full(5, 7.0) + np.arange(5) * 1e-3)
    assert (close.low, close.high) == pytest.approx((plain.low, plain.high), rel=1e-6)
    assert token_interval([0, 0]) == mean_interval([0, 0])


def test_shares_that_are_all_one_are_not_certain():
    found = share_interval([1.0] * 30, FEW)
    assert found.value == 1 and 0.9 < found.low < 1 and found.high <= 1
    assert math.isnan(share_interval([]).value)
