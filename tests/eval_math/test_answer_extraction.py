"""Which part of an output is its answer, and which rule says so."""

from __future__ import annotations

import pytest

from eval_math.errors import BadInput
from eval_math.grading import extract


def found(text: str | None, benchmark: str = "auto") -> tuple[str | None, str | None]:
    result = extract(text, benchmark=benchmark)
    return result.text, result.rule


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{5} and finally \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed 5", "5"),
        ("\\fbox{7}", "7"),
        ("\\boxed{x = \\{1, 2\\}}", "x = \\{1, 2\\}"),
        ("\\boxed{-2} \\quad \\text{and} \\quad \\boxed{1}.", "-2, 1"),
        ("\\boxed{2}, \\boxed{3}", "2, 3"),
        ("first \\boxed{2}; then, after more work, \\boxed{3}", "3"),
        ("\\boxed{4}. I will write \\boxed{5", "4"),
        ("\\boxed{\\boxed{6}}", "\\boxed{6}"),
    ],
)
def test_boxes(text, answer):
    assert found(text) == (answer, "box")


def test_box_of_nothing_is_no_answer():
    assert extract("\\boxed{}", benchmark="math").text is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("We add.\nA: 3,000", "3,000"),
        ("The answer is 12 apples.", "12"),
        ("Final Answer: The final answer is $20\\%$. I hope it is correct.", "20\\%"),
        ("the answer is 3 + 4 = 7", "7"),
        ("**Answer:** 42", "42"),
    ],
)
def test_phrases_of_word_problems(text, answer):
    assert found(text, "gsm8k") == (answer.removesuffix("\\%") + ("\\%" if "%" in answer else ""), "phrase")


def test_hash_line_wins_over_box():
    assert found("\\boxed{3}\n#### 1,234", "gsm8k") == ("1,234", "hash")


def test_last_number_is_a_flagged_fallback():
    result = extract("she has 3 and buys <<3+4=7>>7 more, so 10.", benchmark="gsm8k")
    assert (result.text, result.rule, result.fallback) == ("10", "number", True)
    assert not extract("\\boxed{1}").fallback


def test_fallback_can_be_switched_off():
    from dataclasses import replace

    from eval_math.policies import policy_for

    strict = replace(policy_for("gsm8k"), fallback=False)
    assert extract("so it is 10", policy=strict).text is None


def test_math_answers_after_prose():
    assert found("Therefore $x \\geq 5$ is the solution.", "math") == ("x \\geq 5", "math_span")
    assert found("Answer \\( (9+1) \\)") == ("(9+1)", "phrase")
    assert found("It costs $5 and then we pay $7 more, so \\(y=12\\)") == ("y=12", "last")


def test_only_text_after_the_thinking_counts():
    assert extract("<think>\\boxed{1}</think> no box", benchmark="math").text is None
    assert found("<think>\\boxed{1}</think> \\boxed{2}") == ("2", "box")


def test_open_thinking_is_truncated():
    result = extract("<think> so \\boxed{1}")
    assert (result.text, result.truncated) == (None, True)


def test_span_points_into_the_text():
    text = "<think>a</think> so \\boxed{ 12 }"
    result = extract(text)
    assert result.span is not None
    assert text[slice(*result.span)].strip() == result.text == "12"


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_nothing(text):
    assert extract(text).reason == "the output is empty"


def test_unknown_benchmark_is_refused():
    with pytest.raises(BadInput, match="known: aime"):
        extract("1", benchmark="gms8k")
