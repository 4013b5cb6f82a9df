"""The cheap tiers put together: words, string normal form, then exact numbers and structure."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import lru_cache

from .exact import NoValue, exact_value
from .expression import parse
from .normal_form import LONGEST_CHARACTERS, clean, compact, is_word, number_word, word_key
from .policies import Policy
from .records import Status
from .structure import same
from .tree import Node, Unreadable, number
from .workers import LONGEST_ANSWER_CHARACTERS, SymbolicAnswer

log = logging.getLogger(__name__)

LONGEST_REMEMBERED_CHARACTERS = 200
"""Shorter answers are remembered once read: references come again and again."""


@dataclass(frozen=True)
class AnswerComparison:
    """What a tier says; ``decided`` is False where the symbolic tier may know better."""

    status: Status
    tier: str
    reason: str
    left: str = ""
    right: str = ""
    decided: bool = True

    @classmethod
    def from_symbolic(cls, answer: SymbolicAnswer, otherwise: Status, reason: str | None) -> AnswerComparison:
        """The verdict of the symbolic tier; what it cannot read keeps the verdict it had."""
        if answer.outcome == "equal":
            return cls("correct", "symbolic", answer.reason)
        if answer.outcome == "different":
            return cls("incorrect", "symbolic", answer.reason)
        if answer.outcome in {"unreadable", "error"}:
            status: Status = {"a": "unparsable", "b": "gold_unparsable"}.get(answer.side, otherwise)  # type: ignore[assignment]
            return cls(status, "symbolic", f"{reason}; {answer.reason}")
        return cls("timeout", "symbolic", answer.reason)


@dataclass(frozen=True)
class Side:
    """One answer as read: its compact string, and its tree or why there is none."""

    key: str
    word: str | None = None
    tree: Node | None = None
    problem: str = ""


def compare_answers(prediction: str, gold: str, policy: Policy) -> AnswerComparison:
    """Compare two answer strings with the tiers that need no algebra system."""
    if max(len(prediction), len(gold)) > LONGEST_CHARACTERS:
        return _compare_long(prediction, gold)
    left, right = read_side(prediction), read_side(gold)
    if policy.integer_range is not None:
        refused = _outside(left, policy.integer_range)
        if refused:
            return AnswerComparison("unparsable", "exact", refused, left.key, right.key)
    if left.key == right.key and left.key:
        return AnswerComparison("correct", "string", "equal strings", left.key, right.key)
    if not right.key or not left.key:
        status: Status = "unparsable" if right.key else "gold_unparsable"
        return AnswerComparison(status, "string", "nothing is left to compare", left.key, right.key)
    if left.word or right.word:
        return _compare_words(left, right)
    return _compare_trees(left, right, policy)


_PLAIN = re.compile(r"(-?)((?:\d{1,3}(?:,\d{3})+|\d{1,300})(?:\.\d{1,50})?)")


def read_side(answer: str) -> Side:
    """Clean and parse one answer; never raises."""
    return _read_short(answer) if len(answer) <= LONGEST_REMEMBERED_CHARACTERS else _read(answer)


@lru_cache(maxsize=4096)
def _read_short(answer: str) -> Side:
    plain = _PLAIN.fullmatch(answer)
    if plain is None:
        return _read(answer)
    digits = plain[2].replace(",", "")
    node = number(digits)
    return Side(plain[1] + digits, tree=Node("neg", (node,)) if plain[1] else node)


def _read(answer: str) -> Side:
    cleaned = clean(answer)
    key = compact(cleaned)
    spelled = number_word(cleaned)
    if spelled is not None:
        cleaned = key = str(spelled)
    if is_word(cleaned):
        return Side(key, word=word_key(cleaned))
    try:
        return Side(key, tree=parse(cleaned))
    except (Unreadable, RecursionError, ValueError, ArithmeticError) as error:
        return Side(key, problem=str(error) or "nested too deeply")


def _compare_long(prediction: str, gold: str) -> AnswerComparison:
    if "".join(prediction.split()) == "".join(gold.split()):
        return AnswerComparison("correct", "string", "equal strings")
    status: Status = "gold_unparsable" if len(gold) > LONGEST_CHARACTERS else "unparsable"
    return AnswerComparison(status, "string", f"longer than {LONGEST_CHARACTERS} characters")


def _compare_words(left: Side, right: Side) -> AnswerComparison:
    equal = left.word == right.word
    return AnswerComparison(
        "correct" if equal else "incorrect", "string", "equal words" if equal else "words differ", left.key, right.key
    )


def _compare_trees(left: Side, right: Side, policy: Policy) -> AnswerComparison:
    undecided = policy.symbolic and max(len(left.key), len(right.key)) <= LONGEST_ANSWER_CHARACTERS
    if left.tree is None or right.tree is None:
        too_long = len(left.key) > LONGEST_ANSWER_CHARACTERS
        status: Status = "gold_unparsable" if right.tree is None and not too_long else "unparsable"
        problem = right.problem if right.tree is None else left.problem
        reason = f"cannot be read: {problem}"
        return AnswerComparison(status, "string", reason, left.key, right.key, decided=not undecided)
    try:
        result = same(left.tree, right.tree, policy)
    except (NoValue, RecursionError, ValueError, ArithmeticError) as error:
        log.debug("not comparable: %s", error)
        result = None
    if result is None:
        reason = "not decided by exact comparison"
        return AnswerComparison("unparsable", "exact", reason, left.key, right.key, decided=not undecided)
    status = "correct" if result else "incorrect"
    return AnswerComparison(status, "exact", "equal" if result else "different", left.key, right.key)


def _outside(side: Side, bounds: tuple[int, int]) -> str | None:
    """Why an answer is no integer within ``bounds``, or None."""
    try:
        value = exact_value(side.tree) if side.tree else None
    except (NoValue, RecursionError):
        value = None
    low, high = bounds
    if value is None or value.denominator != 1 or not low <= value <= high:
        return f"an integer from {low} to {high} is expected"
    return None
