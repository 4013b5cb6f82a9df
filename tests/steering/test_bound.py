"""The strength formulas against each other, their limits and the worked examples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_math.errors import BadInput
from steering.bound import cubic_root, divergence_bound, fisher_strength, paper_strength, safe_strength

NUMBERS = st.floats(1e-3, 1e3)
BUDGETS = st.floats(1e-6, 1e3)


@settings(deadline=None)
@given(NUMBERS, NUMBERS, BUDGETS)
def test_the_bound_is_met_with_equality(a, curvature, eps):
    assert divergence_bound(safe_strength(a, curvature, eps), a, curvature) == pytest.approx(eps, rel=1e-9)


@settings(deadline=None)
@given(NUMBERS, NUMBERS, BUDGETS, st.floats(1.01, 100))
def test_grows_with_the_budget_and_scales_with_the_vector(a, curvature, eps, factor):
    strength = safe_strength(a, curvature, eps)
    assert safe_strength(a, curvature, factor * eps) > strength
    assert safe_strength(factor * a, factor**2 * curvature, eps) == pytest.approx(strength / factor, rel=1e-9)


@settings(deadline=None)
@given(NUMBERS, NUMBERS, BUDGETS)
def test_the_paper_is_never_bolder(a, curvature, eps):
    assert 0 <= paper_strength(a, curvature, eps) <= safe_strength(a, curvature, eps) * (1 + 1e-9)


def test_limits():
    assert safe_strength(0, 2, 1e-3) == pytest.approx((16 * 1e-3) ** 0.25 / math.sqrt(2))
    assert safe_strength(3, 0, 1e-3) == pytest.approx(2 * math.sqrt(1e-3) / 3)
    assert paper_strength(0, 2, 1e-3) == pytest.approx((16 * 1e-3) ** 0.25 / math.sqrt(2))
    assert paper_strength(3, 0, 1e-3) == pytest.approx(2 * math.sqrt(1e-3) / 3)
    assert safe_strength(0, 0, 1) == paper_strength(0, 0, 1) == fisher_strength(0, 1) == math.inf


def test_the_paper_peaks_and_falls_to_zero():
    found = [round(paper_strength(1, 1, eps), 3) for eps in (1, 10, 100)]
    assert found == [0.883, 0.688, 0.0]
    assert [round(safe_strength(1, 1, eps), 3) for eps in (1, 10, 100)] == [1.236, 2.694, 5.403]
    # The largest value is at x = 2, where beta is 12.
    assert max(range(1, 100), key=lambda n: paper_strength(1, 1, n / 10)) == 30


@settings(deadline=None)
@given(st.floats(-18, 6))
def test_the_root_solves_its_cubic(exponent):
    beta = 10**exponent
    x = cubic_root(beta)
    assert x**3 + x**2 == pytest.approx(beta, rel=1e-6)
    assert cubic_root(1e-18) == pytest.approx(1e-9)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_divergence_stays_below_a_quarter_of_the_squared_shift(seed):
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(50, generator=generator, dtype=torch.float64)
    shift = torch.randn(50, generator=generator, dtype=torch.float64)
    for scale in (1e-3, 0.1, 1.0, 10.0):
        p, q = z.log_softmax(-1), (z + scale * shift).log_softmax(-1)
        divergence = float((p.exp() * (p - q)).sum())
        assert divergence <= 0.25 * float((scale * shift).norm() ** 2) + 1e-12
        if scale == 1e-3:
            # A small divergence is not enough: where a rare token moves far, the second order is a third off at 0.006.
            mean = float((p.exp() * scale * shift).sum())
            variance = float((p.exp() * (scale * shift) ** 2).sum()) - mean**2
            assert divergence == pytest.approx(variance / 2, rel=0.01)


def test_nonsense_is_refused():
    for arguments in ((-1, 1, 1), (1, math.nan, 1), (1, 1, math.inf)):
        with pytest.raises(BadInput):
            safe_strength(*arguments)
        with pytest.raises(BadInput):
            paper_strength(*arguments)
