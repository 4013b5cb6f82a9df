"""Efficiency figures against published rows, equality of accuracy, and power against simulated tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from eval_math.efficiency import (
    AES,
    AesWeights,
    accuracy_token_area,
    accuracy_within,
    aes,
    aes_interval,
    tokens_per_correct,
)
from eval_math.equality import Power, equality, problems_needed, smallest_difference
from eval_math.errors import BadInput
from eval_math.loops import is_looping
from eval_math.statistics import Interval, mcnemar

RNG = np.random.default_rng(0)


MARCO, QWQ = {"MATH": (73.8, 1156), "GSM8K": (89.2, 530), "GaoKao": (57.1, 1112)}, {"MATH": (90.6, 2191)}
QWQ |= {"GSM8K": (95.1, 777), "GaoKao": (79.0, 2183)}
# O1-Pruner, arXiv 2501.12570 v1, table 2: baseline, (accuracy, length) of a row, AES printed there.
GAINED = [
    (MARCO["MATH"], (77.5, 657), 0.58), (MARCO["GSM8K"], (91.4, 343), 0.43), (MARCO["GaoKao"], (61.6, 664), 0.64),
    (MARCO["GSM8K"], (89.9, 497), 0.09), (MARCO["GaoKao"], (57.1, 1062), 0.04), (QWQ["GSM8K"], (95.8, 561), 0.30),
    (QWQ["MATH"], (91.7, 1999), 0.12), (QWQ["GSM8K"], (95.3, 704), 0.10), (QWQ["GaoKao"], (79.5, 2112), 0.05),
]  # fmt: skip
LOST = [
    (MARCO["MATH"], (71.0, 1113), 0.15), (MARCO["GSM8K"], (81.7, 447), 0.41), (MARCO["MATH"], (71.8, 761), 0.42),
    (MARCO["GSM8K"], (88.6, 410), 0.25), (MARCO["GaoKao"], (56.6, 780), 0.32), (QWQ["MATH"], (90.2, 1763), 0.21),
    (QWQ["GaoKao"], (78.4, 1911), 0.15),
]  # fmt: skip


def score(base, row, weights=AES):
    return aes(*row, base_accuracy=base[0], base_tokens=base[1], weights=weights)


@pytest.mark.parametrize(("base", "row", "printed"), GAINED)
def test_aes_of_published_rows_that_gain_accuracy(base, row, printed):
    assert score(base, row) == pytest.approx(printed, abs=0.006)


@pytest.mark.parametrize(("base", "row", "printed"), LOST)
def test_aes_of_published_rows_that_lose_accuracy_has_the_sign_of_the_text(base, row, printed):
    """The table adds three times the loss; the formula in the text, which is ours, takes five times the loss away."""
    assert score(base, row, AesWeights(1, 3, -3)) == pytest.approx(printed, abs=0.006)
    assert score(base, row) < score(base, (base[0], row[1])) < printed


def test_aes_of_the_baseline_is_zero():
    assert score(MARCO["MATH"], MARCO["MATH"]) == 0
    assert score(MARCO["GSM8K"], (81.7, 447)) == pytest.approx(-0.264, abs=5e-4)


def test_aes_grows_with_accuracy_and_falls_with_length():
    scores = [aes(a, 100, base_accuracy=0.5, base_tokens=200) for a in (0.1, 0.4, 0.5, 0.6, 0.9)]
    assert scores == sorted(scores) and len(set(scores)) == 5
    assert aes(0.5, 50, base_accuracy=0.5, base_tokens=200) > aes(0.5, 60, base_accuracy=0.5, base_tokens=200)
    assert aes(0.4, 100, base_accuracy=0.5, base_tokens=200, weights=AesWeights(1, 5, 10)) == pytest.approx(-1.5)
    assert math.isnan(aes(0.4, 100, base_accuracy=0.0, base_tokens=0))


def test_aes_interval_is_paired():
    right = (RNG.random(300) < 0.8).astype(float)
    tokens = RNG.gamma(2, 200, 300)
    same = aes_interval((right, tokens), (right, tokens / 2))
    # Half the tokens at the same verdicts: only the imagined gain and loss give it a width, of a few points.
    assert same.value == pytest.approx(0.5) and 0.4 < same.low < 0.5 < same.high < 0.57
    other = np.random.default_rng(1).permutation(right)
    unpaired = aes_interval((right, tokens), (other, tokens / 2))
    assert unpaired.high - unpaired.low > 2 * (same.high - same.low)
    assert math.isnan(aes_interval(([], []), ([], [])).value)


def test_tokens_per_correct_pays_for_the_wrong_ones_too():
    found = tokens_per_correct([1, 1, 0, 0], [100, 100, 300, 500])
    assert found.value == 500 and found.low < 500 < found.high
    assert math.isnan(tokens_per_correct([0, 0], [10, 10]).value)
    assert math.isnan(tokens_per_correct([], []).value)


def test_few_correct_answers_claim_little():
    found = tokens_per_correct([1] + [0] * 29, [400] * 30)
    assert found.value == 12_000 and found.low < 6_000 and found.high > 30_000
    assert math.isnan(aes_interval(([0] * 5, [9] * 5), ([1] * 5, [9] * 5)).value)


def test_area_is_the_integral_of_accuracy_within_a_budget():
    right = (RNG.random(200) < 0.7).astype(float)
    tokens = RNG.gamma(2, 300, 200)
    budgets = np.linspace(0, 1000, 20_001)
    curve = accuracy_within(right, tokens, budgets)
    assert np.all(np.diff(curve) >= 0)
    assert accuracy_token_area(right, tokens, 1000).value == pytest.approx(
        np.trapezoid(curve, budgets) / 1000, abs=1e-3
    )


def test_area_ends():
    assert accuracy_token_area(np.zeros(5), np.ones(5), 100).value == 0
    assert accuracy_token_area(np.ones(5), np.zeros(5), 100).value == 1
    with pytest.raises(BadInput, match="positive"):
        accuracy_token_area([1], [1], 0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.019, 0.05, "kept"),
        (-0.02, 0.05, "open"),
        (-0.2, -0.021, "lost"),
        (-0.05, -0.01, "open"),
        (0.01, 0.02, "kept"),
    ],
)
def test_equal_accuracy(low, high, verdict):
    assert equality(Interval((low + high) / 2, low, high), 0.02) == verdict


def test_nothing_known_is_open():
    assert equality(Interval(math.nan, math.nan, math.nan)) == "open"
    with pytest.raises(BadInput, match="margin"):
        equality(Interval(0, 0, 0), -0.01)


@pytest.mark.parametrize(("gained", "lost"), [(0.10, 0.05), (0.04, 0.02), (0.02, 0.10)])
def test_needed_problems_give_the_promised_power(gained, lost):
    n = problems_needed(gained - lost, gained + lost)
    changed = RNG.multinomial(n, [gained, lost, 1 - gained - lost], size=3000)
    seen = np.mean([mcnemar(int(g), int(b)) < 0.05 for g, b, _ in changed])
    # The exact test keeps below its level, so it needs a few problems more than the formula.
    assert 0.74 <= seen <= 0.83


def test_needed_problems_equal_the_sign_test_where_all_problems_differ():
    # With every pair discordant the paired test is a one-sample test of a proportion against 1/2.
    z = stats.norm.ppf([0.975, 0.8])
    p = 0.6
    known = ((z[0] * 0.5 + z[1] * math.sqrt(p * (1 - p))) / (p - 0.5)) ** 2
    assert problems_needed(0.2, 1.0) == math.ceil(known)


def test_one_point_takes_thousands_of_problems():
    assert problems_needed(0.01, 0.05) > 1319 * 2
    assert problems_needed(0.01, 0.05, Power(0.9)) > problems_needed(0.01, 0.05)
    n = problems_needed(0.03, 0.08)
    assert smallest_difference(n, 0.08) == pytest.approx(0.03, rel=0.01)
    assert math.isnan(smallest_difference(5, 0.01))


@pytest.mark.parametrize(
    "call",
    [
        lambda: problems_needed(0.0, 0.1),
        lambda: problems_needed(0.2, 0.1),
        lambda: problems_needed(0.1, 1.5),
        lambda: smallest_difference(0, 0.1),
        lambda: smallest_difference(10, 0.0),
        lambda: Power(1.0),
    ],
)
def test_impossible_questions_are_refused(call):
    with pytest.raises(BadInput):
        call()


@pytest.mark.parametrize(
    "text",
    [
        "So the sum is 12. " + "Wait, no. " * 60,
        "x = " + "0" * 500,
        "Start. " + "Let me check: 3+4=7. That gives 7. Hmm, is it right? " * 6 + "Let me che",
        ("So we try again and again here.\n" + "-" * 80 + "\n") * 20,
        ("The table is as follows, once more.\n" + "| 1 | 2 | 3 |\n" * 8) * 20,
        "intro\n" + ("line one is long enough to be seen\nline two\n\n" * 9).rstrip(),
    ],
)
def test_loops_are_found(text):
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=" * 60,
        "Wait, no. " * 12,
        "Wait, no. " * 60 + "So the answer is 12, because the sum over all terms is even and no term is left over.",
        " ".join(f"Step {i}: add {i} to get {i * i}." for i in range(400)),
        "The same sentence twice is no loop, is it? " * 3,
    ],
)
def test_others_are_not(text):
    assert not is_looping(text)


def test_loops_of_real_traces_are_all_unfinished(data_folder):
    import gzip
    import json

    with gzip.open(data_folder / "traces" / "traces.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    looping = [row for row in rows if is_looping(row["trace"])]
    assert len(looping) > 30 and all(row["closed"] is False for row in looping)
