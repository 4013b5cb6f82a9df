"""The problem generator and the trace writer: pure Python, repeatable, right, split by equation chain."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from cot.embedded.mix import draw_drill, draw_row, random_equation
from cot.embedded.problems import make_problems, split_of
from cot.embedded.recipe import Mix
from cot.embedded.traces import Verbosity, inverse_of, shortened, trace_sentences, worded, write_trace

FIRST_TEST = (("95+19=114", "114+52=166", "166+10=176", "176/2=88"), "88")
BRANCHES = {"So", "Now", "Wait", "Alternatively", "Therefore"}


def value_of(left: str) -> int:
    first, operation, second = re.fullmatch(r"(\d+)([-+*/])(\d+)", left).groups()
    a, b = int(first), int(second)
    if operation == "/":
        assert a % b == 0
        return a // b
    return {"+": a + b, "-": a - b, "*": a * b}[operation]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_same_arguments_give_the_same_problems(split):
    assert make_problems(split, 50, seed=3) == make_problems(split, 50, seed=3)
    assert make_problems(split, 50, seed=3) != make_problems(split, 50, seed=4)


def test_a_longer_request_starts_with_the_shorter_one():
    assert make_problems("test", 200)[:50] == make_problems("test", 50)


def test_first_problem_is_frozen():
    """A change of the generator changes every benchmark figure: this must be a decision, not an accident."""
    first = make_problems("test", 1)[0]
    assert (first.equations, first.answer) == FIRST_TEST


def test_splits_share_no_equation_chain():
    chains = {split: {each.equations for each in make_problems(split, 1500)} for split in ("train", "dev", "test")}
    assert all(len(found) == 1500 for found in chains.values())
    assert not chains["train"] & chains["dev"] and not chains["train"] & chains["test"]
    assert not chains["dev"] & chains["test"]
    assert all(split_of(chain) == split for split, found in chains.items() for chain in found)


def test_equations_are_right_chained_and_in_range():
    for problem in make_problems("dev", 1000, steps=(1, 6)):
        assert len(problem.equations) == len(problem.facts) == problem.steps
        results = []
        for equation in problem.equations:
            left, result = equation.split("=")
            assert value_of(left) == int(result) and 1 <= int(result) <= 199
            results.append(result)
        assert results[-1] == problem.answer
        starts = [re.match(r"\d+", equation)[0] for equation in problem.equations[1:]]
        assert starts == results[:-1]


def test_every_number_of_the_equations_is_in_the_question():
    for problem in make_problems("dev", 300):
        numbers = re.findall(r"\d+", problem.question)
        used = re.findall(r"\d+", problem.equations[0].split("=")[0])
        used += [re.findall(r"\d+", equation)[1] for equation in problem.equations[1:]]
        assert sorted(numbers) == sorted(used)


def test_steps_are_within_the_request():
    assert {each.steps for each in make_problems("train", 300, steps=(3, 4))} == {3, 4}


def test_small_numbers_stay_small():
    small = make_problems("dev", 100, steps=(1, 3), largest=20)
    assert all(int(number) <= 20 for each in small for number in re.findall(r"\d+", " ".join(each.equations)))


BAD = [("valid", 5), ("dev", -1), ("dev", 5, 0, (0, 3)), ("dev", 5, 0, (4, 2)), ("dev", 5, 0, (2, 5), 500)]


@pytest.mark.parametrize("arguments", BAD)
def test_a_bad_request_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        make_problems(*arguments)


def test_generator_imports_no_heavy_package():
    code = "import sys, cot.embedded; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_level_0_is_equations_only_and_levels_lengthen():
    problems = make_problems("train", 200)
    lengths = []
    for level in range(5):
        rng = random.Random(level)
        lengths.append(sum(len(write_trace(each, level, rng)) for each in problems))
    exact = Verbosity(jitter=0.0)
    plain = write_trace(problems[0], 0, random.Random(0), exact)
    assert plain == " ".join(f"So {equation}." for equation in problems[0].equations)
    assert lengths == sorted(lengths) and lengths[4] > 3 * lengths[0]


def test_every_sentence_opens_with_a_branch_word_or_finishes_a_check():
    rng = random.Random(0)
    for problem in make_problems("train", 100):
        first, *others = write_trace(problem, rng.randint(0, 4), rng).split(". ")
        assert first.split()[0].rstrip(",") in {"Okay", "So", "Now"}
        for sentence in others:
            word = sentence.split()[0].rstrip(",")
            assert word in BRANCHES | {"Yes", "I"}


def test_inverse_equations():
    assert inverse_of("12+5=17") == "17-5=12" and inverse_of("17-5=12") == "12+5=17"
    assert inverse_of("3*4=12") is None and inverse_of("12/4=3") is None


def test_rows_of_the_mix_are_well_formed():
    rng = random.Random(1)
    kinds = set()
    for problem in make_problems("train", 600, steps=(1, 6)):
        row = draw_row(problem, Mix(), rng)
        kinds.add(row.kind)
        text = row.prompt + row.completion
        assert text.count("<think>") == text.count("</think>") == 1 and row.completion.endswith("<|end|>")
        if row.kind in {"solve", "concise", "careful", "no_think"}:
            assert f"\\boxed{{{problem.answer}}}" in row.completion
        if row.kind == "forced":
            assert row.completion[row.loss_from :].startswith("The answer is")
    assert kinds == {"solve", "concise", "careful", "no_think", "forced", "shorten"}


def test_drills_are_long_or_answered_at_once():
    rng = random.Random(1)
    counts = {draw_drill(rng).completion.count("So ") for _ in range(60)}
    assert counts == {0, 12}


@pytest.mark.parametrize("largest", [20, 199])
def test_drilled_equations_are_right_and_in_range(largest):
    rng = random.Random(3)
    for _ in range(500):
        left, result = random_equation(rng, largest).split("=")
        assert value_of(left) == int(result) and 1 <= int(result) <= largest


def test_the_wordings_of_a_sentence_have_no_equal_odds():
    """Equal odds would leave greedy decoding to rounding, and engines would part there."""
    rng = random.Random(0)
    drawn = Counter(worded(("a", "b", "c"), rng) for _ in range(3000))
    first, second, third = (drawn[name] for name in "abc")
    assert first > 1.5 * second > 2 * third > 0


STEPS = [
    "Okay, let me see.",
    "So 3+4=7.",
    "Wait, is that correct? 3+4=7. Yes, it is.",
    "Alternatively, 7-4=3, so 7 fits.",
    "So 7*2=14.",
    "Wait, let me go over everything again: 3+4=7, 7*2=14.",
    "Therefore the answer is 14.",
]


@pytest.mark.parametrize(
    ("units", "short"),
    [
        (STEPS, "So 3+4=7. So 7*2=14."),
        (STEPS[2:5], "So 7*2=14."),
        (STEPS[5:], "So 3+4=7. So 7*2=14."),
        (STEPS[:1], ""),
        (STEPS[3:4], ""),
    ],
)
def test_shortened(units, short):
    assert shortened(units) == short


def test_a_shortened_trace_is_the_level_0_trace():
    rng = random.Random(2)
    for problem in make_problems("train", 200, steps=(1, 6)):
        units = trace_sentences(problem, 4, rng, Verbosity())
        assert shortened(units) == " ".join(f"So {equation}." for equation in problem.equations)
