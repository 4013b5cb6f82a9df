"""What a rewrite says about the answer: stated rightly, and not before its time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from eval_math.comparison import read_side
from eval_math.exact import NoValue, exact_value
from eval_math.extraction import RULES, extract_answer, is_prose, read_gold
from eval_math.grading import equivalent, grade
from eval_math.policies import Policy

from .numbers import Value, numbers_in, plain_notation, read_facts

_LETTER = re.compile(r"\(?[A-Za-z]\)?\.?")
_STATED = ("hash", "box", "phrase")


def wrong_section(answer_text: str, answer: str, policy: Policy) -> str | None:
    """Why the visible answer does not grade as correct, or None if it does."""
    found = extract_answer(answer_text, policy)
    if found.text is not None and found.text == read_gold(answer):
        return None
    verdict = grade(answer_text, answer, policy=policy)
    if verdict.correct:
        return None
    return (
        f"the answer section says {verdict.extracted!r}, the reference {answer!r} ({verdict.status}: {verdict.reason})"
    )


def wrong_statement(text: str, source: str, answer: str, policy: Policy) -> str | None:
    """Why the answer that the thinking itself states is not the reference; None if it is, or if none is stated.

    A statement that the source ends with too is left alone: the rewrite did not make it up. So is one that cannot be
    read, such as "the answer is correct".
    """
    stated = stated_answer(text, policy)
    gold = read_gold(answer)
    if stated is None or stated == gold or _says_nothing(stated, gold):
        return None
    verdict = equivalent(stated, gold, policy=policy)
    if verdict.status not in ("incorrect", "timeout") or stated == stated_answer(source, policy):
        return None
    return (
        f"the thinking states the answer {stated!r}, the reference is {answer!r} ({verdict.status}: {verdict.reason})"
    )


def stated_answer(text: str, policy: Policy) -> str | None:
    """The last answer that a text states in a box, after ``####`` or as "the answer is"."""
    for rule in _STATED:
        found = RULES[rule](text, policy.numeric)
        if found is not None:
            return found.text
    return None


def leak(text: str, answer: str, given: tuple[str, ...]) -> bool:
    """True if the text has the answer and none of ``given`` has it; trivial answers (0, 1, 2, a letter) never leak.

    A number is looked for by its value, without regard to its sign, everything else as it is written.
    """
    sought = _sought(read_gold(answer))
    if sought is None or not sought.stands_in(text):
        return False
    return not any(sought.was_given(each) for each in given)


def _says_nothing(stated: str, gold: str) -> bool:
    """True for "the answer is correct" and other prose where the reference is no word."""
    side = read_side(stated)
    prose = side.word is not None or (side.tree is None and is_prose(stated))
    return prose and read_side(gold).word is None


@dataclass(frozen=True)
class _Sought:
    """An answer to look for: a number, or a pattern of its symbols with or without blanks between them."""

    value: Value | None = None
    pattern: re.Pattern[str] | None = None

    def stands_in(self, text: str) -> bool:
        if self.pattern is None:
            return self.value in numbers_in(text)
        return self.pattern.search(_flat(text)) is not None

    def was_given(self, text: str) -> bool:
        """As `stands_in`, but numbers may be spelled out, too."""
        return self.value in read_facts(text).values if self.pattern is None else self.stands_in(text)


@lru_cache(maxsize=1024)
def _sought(gold: str) -> _Sought | None:
    value = _number(gold)
    if value is not None:
        return None if value in (0, 1, 2) else _Sought(abs(value))
    symbols = re.findall(r"\w+|\S", _flat(gold))
    if len("".join(symbols)) < 2 or _LETTER.fullmatch(gold.strip()):
        return None
    spaced = r"\s*".join(map(re.escape, symbols))
    return _Sought(pattern=re.compile(rf"(?<!\w){spaced}(?!\w)"))


def _number(gold: str) -> int | Fraction | None:
    tree = read_side(gold).tree
    try:
        value = exact_value(tree) if tree is not None else None
    except (NoValue, RecursionError, ValueError, ArithmeticError):
        return None
    return value if value is None or value.denominator != 1 else int(value)


def _flat(text: str) -> str:
    return re.sub(r"[{}]", "", plain_notation(text))
