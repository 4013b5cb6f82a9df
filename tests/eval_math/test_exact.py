"""The reader of expressions and the values it gives them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from eval_math.exact import NoValue, exact_value
from eval_math.expression import parse
from eval_math.normal_form import clean
from eval_math.tree import Unreadable


def value(text: str) -> Fraction:
    return exact_value(parse(clean(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-5", Fraction(-5)),
        (".4", Fraction(2, 5)),
        ("7,425,000", Fraction(7425000)),
        ("1 000", Fraction(1000)),
        ("10{,}000", Fraction(10000)),
        ("11,\\! 111,\\! 111,\\! 100", Fraction(11111111100)),
        ("\\$18.90", Fraction(189, 10)),
        ("\\frac12", Fraction(1, 2)),
        ("\\frac{270}7\\text{ degrees}", Fraction(270, 7)),
        ("137 \\frac{1}{2}", Fraction(275, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("0.8\\overline{4}", Fraction(38, 45)),
        ("2.5\\times 10^2", Fraction(250)),
        ("(-7.13)(1.5)", Fraction(-2139, 200)),
        ("\\sqrt{\\frac{16}{9}}", Fraction(4, 3)),
        ("\\sqrt[3]{-8}", Fraction(-2)),
        ("8^{2/3}", Fraction(4)),
        ("5!", Fraction(120)),
        ("\\binom{5}{2}", Fraction(10)),
        ("|-3|", Fraction(3)),
        ("\\lfloor 7/2 \\rfloor", Fraction(3)),
        ("864 \\mbox{ inches}^2", Fraction(864)),
        ("5 cm", Fraction(5)),
        ("12^{\\mathrm{th}} \\text{ grade}", Fraction(12)),
        ("42nd", Fraction(42)),
        ("90^\\circ", Fraction(90)),
        ("-2^2", Fraction(-4)),
        ("2 - -3", Fraction(5)),
    ],
)
def test_rationals(text, expected):
    assert value(text) == expected


@pytest.mark.parametrize("text", ["\\pi", "x", "\\sqrt{2}", "2^{10^9}", "10000000!", "1/0", "0^0", "(1,2)"])
def test_no_rational_value(text):
    with pytest.raises(NoValue):
        value(text)


@pytest.mark.parametrize(
    "text", ["", "1+", "(1", "\\frac{1}{", "1..2", "}{", "\\unknown{1}", "(" * 500 + "1" + ")" * 500, "7" * 5000]
)
def test_unreadable(text):
    with pytest.raises(Unreadable):
        parse(text)


def test_comma_in_brackets_separates():
    assert len(parse(clean("(1,200)")).args) == 2
