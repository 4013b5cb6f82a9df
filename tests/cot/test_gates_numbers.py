"""Numbers and equations: what may be left out, and what must not be made up."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot.datagen.equations import find_equations
from cot.datagen.numbers import invented, plain_notation, read_facts, results_kept
from cot.embedded.problems import draw_problem
from cot.embedded.traces import DEFAULT_VERBOSITY, shortened, trace_sentences

SOURCE = (
    "Liam has 12 apples. So 12+5=17. He eats 1/2 of 50 and 3 out of 7. The price is 1,250 dollars, up 25%. "
    "Then $x^2 = 36$, so $x = 6$. It is \\frac{5}{8} or 0.75. There are twenty-five of two hundred, squared. "
    "10/3 = 3.33. Wait, 2+2=5? No."
)


def found(text: str, *sources: str) -> list[str]:
    return list(invented(text, tuple(read_facts(source) for source in sources or (SOURCE,))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "So 12+5=17.",
        "Liam has 12.",
        "12 + 5 = 17, half of 50 is 25.",
        "17 - 5 = 12.",
        "0.5 of 50",
        "50% of 50",
        "\\frac12 of 50",
        "½ of 50",
        "\\dfrac{1}{2}",
        "2/4",
        "3/7 of them",
        "The price is 1250, up \\(0.25\\).",
        "1{,}250 dollars",
        "5/8 = 0.625",
        "0.625",
        "75\\%",
        "x^{2} = 36",
        "25 of 200",
        "12+7=19, and 19-12=7.",
        "17*2=34. So 34.",
        "1. So 12+5=17.\n2. Then 36.\n**Step 3:** 6",
        "2+2=5",
        "10/3=3.33",
        "10/3 \\approx 3.333",
        "17/12 = 1.42",
        "12 plus 5 is 17",
        "12 \\times 5 = 60",
        "(12 + 5) * 2 = 34",
        "x₂ = 6",
    ],
)
def test_what_is_left_out_reworded_or_worked_out_passes(text):
    assert found(text) == []


@pytest.mark.parametrize(
    "text, reason",
    [
        ("So 13+5=18.", "13 is neither"),
        ("Liam has 12 apples, 13.", "13 is neither"),
        ("12+5=18", "12+5 = 18 does not hold"),
        ("12 plus 5 is 18", "12+5 = 18 does not hold"),
        ("12 - 5 = 6", "12 - 5 = 6 does not hold"),
        ("12*5=36", "12*5 = 36 does not hold"),
        ("\\frac{1}{2} + \\frac{1}{2} = 2", "does not hold"),
        ("2+2=6", "2+2 = 6 does not hold"),
        ("10/3=3.36", "does not hold"),
        ("3/8 of them", "3/8 is neither"),
        ("0.7", "0.7 is neither"),
        ("26%", "26 is neither"),
        ("1,251", "1,251 is neither"),
        ("The price is 12 dollars, up 25%", "the source has 1250 here"),
        ("x^2 = 37", "37 is neither"),
        ("It is 5/6", "5/6 is neither"),
        ("19-12=7", "19 is neither"),
    ],
)
def test_what_is_made_up_is_named(text, reason):
    assert any(reason in each for each in found(text)), found(text)


def test_one_changed_digit_is_rejected_and_any_deletion_accepted():
    source = "Now 48 of 96 marbles are red. So 48/96 = 1/2, and 96-48=48. Therefore 48."
    sentences = source.split(". ")
    for left_out in range(len(sentences)):
        assert found(". ".join(s for i, s in enumerate(sentences) if i != left_out), source) == []
    for match in re.finditer(r"\d", source):
        for digit in "123456789".replace(match.group(), ""):
            changed = source[: match.start()] + digit + source[match.end() :]
            assert found(changed, source), changed


def test_numbers_of_the_question_and_of_the_text_before_are_given():
    assert found("So 99 and 77.", SOURCE, "99", "77") == []
    assert len(found("So 99 and 77.", SOURCE, "99")) == 1


@pytest.mark.parametrize(
    "text, expected",
    [
        ("So 12+5=17. Wait, let me double-check: 12+5=17. Yes", [("12+5", "17", True)] * 2),
        ("y = 12 + 5 = 17", [("12 + 5", "17", True)]),
        ("7^4 = 2401 = 1 mod 5", [("7^4", "2401", True)]),
        ("- (1)^2 = 1", [("(1)^2", "1", True)]),
        ("256^{\\frac{1}{2}} = 16", [("256^{{1/2}}", "16", True)]),
        ("24 is 3 times 8.", [("24", "3*8", True)]),
        ("9 = 3*4", [("9", "3*4", False)]),
        ("1 + 1 = 2 = 3 - 1", [("1 + 1", "2", True), ("2", "3 - 1", True)]),
        ("x + 3 = 7", []),
        ("2 + 3 = 5x", []),
        ("20% of 50 + 3 = 13", []),
        ("f(2) + 1 = 4", []),
        ("C(10,4) - 1 = 209", []),
        ("a_1 + 2 = 9", []),
        ("log 8 - 1 = 2", []),
        ("5! + 1 = 121", []),
        ("3 + 1 = 4!", []),
        ("3 hours = 180 minutes", []),
        ("7*8 = 2 (mod 9)", []),
        ("101_2 + 1 = 110_2", []),
        ("In 2020 12+5=17", []),
    ],
)
def test_equations_are_found_where_both_sides_are_whole(text, expected):
    assert [(e.left, e.right, e.holds) for e in find_equations(plain_notation(text))] == expected


def test_the_share_of_results_that_is_kept():
    source = "So 12+5=17. Then 17*2=34. So x = 9."
    assert results_kept("It is 34, then 17.", source) == pytest.approx(2 / 3)
    assert results_kept("", source) == 0
    assert results_kept("anything", "no result") == 1


def changed_digit(text: str, rng: random.Random) -> str:
    place = rng.choice([match.start() for match in re.finditer(r"\d", text)])
    return text[:place] + rng.choice("0123456789".replace(text[place], "")) + text[place + 1 :]


def test_changed_digits_in_embedded_traces_are_caught():
    rng = random.Random(0)
    caught = 0
    for number in range(300):
        problem = draw_problem(rng, rng.randint(2, 5), f"p{number}")
        units = trace_sentences(problem, rng.choice((2, 3, 4)), rng, DEFAULT_VERBOSITY)
        source = " ".join(units)
        for text in (shortened(units), source):
            assert found(text, source, problem.question) == []
            caught += bool(found(changed_digit(text, rng), source, problem.question))
    assert caught >= 0.99 * 600


@given(st.text(alphabet="0123456789.,/%=+-*^ \n$\\{}()abxfracis½²×≈", max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_faithful_to_itself(text):
    assert found(text, text) == []


@pytest.mark.parametrize(
    "unit", ["1 ", "1,111", "9" * 50, "(", "{", "= ", "1+1=2 ", "\\frac", "-", "1/", " ", ".5", "1=", "\n1. "]
)
def test_time_is_linear(unit):
    def seconds(n):
        started = time.perf_counter()
        found(unit * n, "a")
        return time.perf_counter() - started

    small = max(min(seconds(1_000) for _ in range(2)), 0.003)
    assert seconds(10_000) < 50 * small
