"""Verdicts with known answers, symmetric and with a reason."""

from __future__ import annotations

import dataclasses

import pytest

from eval_math.errors import BadInput
from eval_math.grading import GradingItem, equivalent, grade, grade_many, grade_trace
from eval_math.policies import policy_for
from eval_math.records import Problem, Trace

# So that a busy machine does not turn a symbolic comparison into a timeout.
PATIENT = dataclasses.replace(policy_for("auto"), limit_seconds=30.0)

EQUAL = [
    ("\\sqrt{5+2\\sqrt6}", "\\sqrt2+\\sqrt3"),
    ("3.1416", "\\pi"),
    ("e^{i\\pi}", "-1"),
    ("\\cos 60^\\circ", "0.5"),
    ("(a+b)^2", "a^2+2ab+b^2"),
    ("\\sin^2 x+\\cos^2 x", "1"),
    ("\\tan x", "\\frac{\\sin x}{\\cos x}"),
    ("x<3", "(-\\infty,3)"),
    ("3 > x", "x<3"),
    ("-x > -1", "x < 1"),
    ("x>y+1", "y+1<x"),
    ("50\\%", "0.5"),
    ("50\\%", "50"),
    ("two", "2"),
    ("1,2", "2,1"),
    ("1 \\text{ and } 2", "\\{1,2\\}"),
    ("1 \\pm \\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}"),
    ("204_{5}", "204_5"),
    ("3:1", "6:2"),
    ("x=1,y=2", "y=2,x=1"),
    ("x=1,y=2", "(1,2)"),
    ("p=5,q=2;p=7,q=2", "(5,2),(7,2)"),
    ("k = \\frac{1}{3}", "1/3"),
    ("x \\in [-2,7]", "[-2,7]"),
    ("-793 < a < 10", "(-793, 10)"),
    ("y=2x+1", "4x-2y+2=0"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix}1\\\\2.0\\end{bmatrix}"),
    ("(2,\\infty)\\cup(-\\infty,1)", "(-\\infty,1)\\cup(2,\\infty)"),
    ("\\frac{1}{\\sqrt2}", "\\frac{\\sqrt2}{2}"),
    ("\\ln 4", "2\\ln 2"),
    ("\\log_2 8", "3"),
    ("\\tanh^{-1}(a)", "\\operatorname{atanh}{\\left(a \\right)}"),
    ("\\text{(C)}", "C"),
    ("\\text{Yes}", "yes."),
    ("\\int_0^1 2x dx", "1"),
]

DIFFERENT = [
    ("12\\sqrt{35}", "71"),
    ("3.14", "\\pi"),
    ("0.333", "1/3"),
    ("9.99999", "10"),
    ("10^{-60}", "2\\cdot10^{-60}"),
    ("1+10^{-95}\\sqrt2", "1"),
    ("2^{2005}", "2^{2005}+\\sqrt2"),
    ("(a+b+c)^{600}+1", "(a+b+c)^{600}"),
    ("\\sqrt{x^2}", "x"),
    ("x<3", "x\\le 3"),
    ("x<3", "(-\\infty,3]"),
    ("50\\%", "5000"),
    ("1", "100"),
    ("(1,2)", "(2,1)"),
    ("[0,9)", "(0,9)"),
    ("204_5", "204"),
    ("204_5", "204_6"),
    ("12:00", "1:00"),
    ("x=1,y=2", "x=2,y=1"),
    ("\\sqrt{67},-\\sqrt{85}", "\\sqrt{67}"),
    ("a+3z=0", "0"),
    ("7 = 11a+c", "11a+c"),
    ("x+2n+1", "x+1"),
    ("\\infty", "-\\infty"),
    ("\\text{no}", "\\text{yes}"),
    ("\\text{odd}", "\\text{oddd}"),
    ("True", "False"),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_both_ways(a, b):
    assert equivalent(a, b, policy=PATIENT).correct and equivalent(b, a, policy=PATIENT).correct


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_both_ways(a, b):
    statuses = [equivalent(x, y, policy=PATIENT).status for x, y in ((a, b), (b, a))]
    assert statuses == ["incorrect", "incorrect"]


def test_each_tier_says_who_it_was():
    assert [equivalent(a, b).tier for a, b in [("\\dfrac12", "\\frac{1}{2}"), ("0.5", "1/2")]] == ["string", "exact"]
    assert equivalent("\\int_0^1 2x dx", "1", policy=PATIENT).tier == "symbolic"


def test_verdict_is_complete():
    verdict = grade("so \\boxed{0.50}", "\\frac{1}{2}", benchmark="math500")
    assert verdict.status == "correct" and verdict.rule == "box" and verdict.extracted == "0.50"
    assert verdict.normalised == ("0.50", "\\frac{1}{2}") and verdict.reason and verdict.elapsed_ms > 0


def test_one_of_several_references_is_enough():
    assert grade("\\boxed{2}", ["1", "2"]).correct
    assert grade("\\boxed{3}", ["1", "2"]).status == "incorrect"
    assert grade("\\boxed{3}", []).status == "gold_unparsable"


def test_statuses():
    assert grade(None, "1").status == "unparsable"
    assert grade("\\boxed{\\frac{1}{}", "1", benchmark="math").status == "unparsable"
    assert grade("\\boxed{1}", "").status == "gold_unparsable"
    assert grade("\\boxed{1}", "\\frac{").status == "gold_unparsable"
    assert grade("\\boxed{9^{9^{9^{9^9}}}}", "x+1").status == "timeout"
    assert grade("<think> \\boxed{1}", "1").truncated


def test_rewards():
    assert [grade(p, g).reward for p, g in [("\\boxed{1}", "1"), ("\\boxed{2}", "1"), ("\\boxed{1}", "")]] == [
        1.0,
        0.0,
        None,
    ]


@pytest.mark.parametrize(
    ("answer", "status"),
    [("70", "correct"), ("070", "correct"), ("70.0", "correct"), ("70^\\circ", "correct"), ("71", "incorrect")]
    + [(a, "unparsable") for a in ("1070", "-70", "70.5", "70\\%", "x")],
)
def test_aime_takes_integers_up_to_999(answer, status):
    assert grade(f"\\boxed{{{answer}}}", "70", benchmark="aime24").status == status


def test_word_problems_are_exact_and_gsm_hard_has_a_tolerance():
    assert not grade("#### 3.3333", "10/3", benchmark="gsm8k").correct
    assert grade("#### 3158933.27", "3158933.272727273", benchmark="gsm-hard").correct
    assert not grade("#### 3159999", "3158933.272727273", benchmark="gsm-hard").correct


def test_unknown_benchmark_is_refused():
    with pytest.raises(BadInput):
        grade("1", "1", benchmark="nope")


def test_many_come_in_order():
    items = [GradingItem(f"\\boxed{{{n}}}", "3") for n in range(50)]
    items[10] = GradingItem("\\boxed{\\int_0^1 6x dx}", "3", policy=PATIENT)
    verdicts = list(grade_many(items, workers=2))
    assert [n for n, v in enumerate(verdicts) if v.correct] == [3, 10]
    assert sum(v.correct for v in grade_many(iter(items), ordered=False)) == 2


TRACE = Trace(
    problem_id="p1",
    sample=2,
    method="none",
    text="<think>so \\boxed{5}</think>The answer is 5.",
    thinking="so \\boxed{5}",
    answer_text="The answer is 5.",
    n_prompt_tokens=1,
    n_thinking_tokens=5,
    n_answer_tokens=5,
    finish="stop",
)
PROBLEM = Problem("p1", "gsm8k", "2+3?", "5")


def graded(**changes):
    return grade_trace(dataclasses.replace(TRACE, **changes), PROBLEM)


def test_trace():
    grade_ = graded()
    assert (grade_.problem_id, grade_.sample, grade_.status, grade_.rule) == ("p1", 2, "correct", "phrase")
    assert not grade_.truncated


def test_an_answer_inside_the_thinking_is_none():
    grade_ = graded(answer_text="", text="<think>so \\boxed{5}</think>")
    assert (grade_.status, grade_.truncated) == ("unparsable", False)


def test_a_cut_trace_is_graded_on_the_answer_it_has():
    assert (graded(finish="length").status, graded(finish="length").truncated) == ("correct", True)
    grade_ = graded(finish="length", answer_text="")
    assert (grade_.status, grade_.truncated) == ("unparsable", True)


def test_thinking_that_never_ends_is_truncated():
    assert graded(answer_text="", n_answer_tokens=0, text="<think>so \\boxed{5}").truncated
    assert graded(thinking=None, answer_text="<think>so \\boxed{5}", text="<think>so \\boxed{5}").truncated


def test_closed_thinking_with_an_empty_answer_is_not_truncated_whatever_the_tags():
    grade_ = graded(answer_text="", n_answer_tokens=1, text="[THINK]so \\boxed{5}[/THINK]")
    assert (grade_.status, grade_.truncated) == ("unparsable", False)


def test_a_failed_request_is_unparsable_with_its_reason():
    grade_ = graded(finish="error", error="out of memory")
    assert grade_.status == "unparsable" and "out of memory" in (grade_.reason or "")


def test_a_file_benchmark_is_graded_with_auto():
    assert grade_trace(TRACE, dataclasses.replace(PROBLEM, benchmark="my problems")).correct
