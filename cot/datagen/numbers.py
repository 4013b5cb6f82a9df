"""Numbers of a text and where they stand, to tell a rewrite that leaves out from one that makes up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from eval_math.notation import ONES, TENS
from eval_math.tree import Unreadable, number

from .equations import Equation, find_equations

Value = int | Fraction | str
"""A number; a numeral too long to be read stays a string."""
Context = tuple[str, ...]
"""Up to four tokens on either side of a number; the empty one is where the number stands."""

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": " - ", "‐": "-", "‑": "-", "×": "*", "⋅": "*", "·": "*", "÷": "/", "⁄": "/", "∕": "/",
        "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "²": "^2", "³": "^3", "％": "%", "＝": "=",
        "’": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
        **{chr(0x2080 + digit): f"_{digit}" for digit in range(10)},
    }
)  # fmt: skip
_COMMANDS = re.compile(
    r"\\(?:[()\[\]!$]|(%)|[dtc]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))"
    r"|(?:(times|cdot)|(div)|(approx)|([dtc]frac)|left|right|displaystyle|boxed)(?![A-Za-z]))"
)
_REPLACED = {1: "%", 6: "*", 7: "/", 8: "≈", 9: r"\frac"}
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,)(?=\d{3})")
_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+|\\[a-z]+|[^\W\d_]+|[^\s\w{}]|_|\n")
_ENDS = frozenset((".", "!", "?", ";", "\n", ""))
_ENUMERATOR = re.compile(r"^[ \t>#-]*(?:\*\*)?(?:(?:step|case) )?\d{1,2}(?=(?:\*\*)?[.):](?:\s|\*\*))", re.MULTILINE)
_DIGITS = frozenset("0123456789")
_WORDS: dict[str, Value] = {
    **{word: value for value, word in enumerate(ONES)},
    **{word: 10 * value for value, word in enumerate(TENS, 2)},
    "single": 1, "once": 1, "first": 1, "double": 2, "doubled": 2, "twice": 2, "second": 2, "pair": 2, "squared": 2,
    "square": 2, "triple": 3, "tripled": 3, "thrice": 3, "third": 3, "cubed": 3, "cube": 3, "fourth": 4, "fifth": 5,
    "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "dozen": 12, "hundred": 100, "thousand": 1000,
    "million": 10**6, "billion": 10**9, "half": Fraction(1, 2), "halves": Fraction(1, 2), "halved": Fraction(1, 2),
    "thirds": Fraction(1, 3), "quarter": Fraction(1, 4), "quarters": Fraction(1, 4), "percent": 100,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_WORD_SET = frozenset(_WORDS)
_BIG_WORDS = frozenset(TENS) | frozenset(_SCALES)


@dataclass(frozen=True)
class Facts:
    """What a text states in numbers."""

    values: frozenset[Value]
    """Every number, spelled out ones too; of a fraction its terms and its value, of a percentage also a hundredth."""
    contexts: dict[Context, set[Value]]
    """Tokens around a number -> the numbers that stand there."""
    quotients: frozenset[tuple[Value, Value]]
    """Numbers next to each other, which "3 out of 4" may bring together as 3/4."""
    equations: frozenset[str]
    results: frozenset[Value]
    """Numbers that follow an equals sign."""


NO_FACTS = Facts(frozenset(), {}, frozenset(), frozenset(), frozenset())


@dataclass(frozen=True)
class Numeral:
    """A number of a text: ``values`` are the readings of it (``1,200`` may be two), ``shown`` is how it is written."""

    values: tuple[Value, ...]
    context: Context
    shown: str
    divisor: Value | None = None
    """The number after a fraction bar that follows."""
    percent: bool = False
    result: bool = False
    """It follows an equals sign."""

    @property
    def quotient(self) -> Value | None:
        """The value of the fraction that starts here."""
        top, bottom = self.values[0], self.divisor
        if isinstance(top, str) or isinstance(bottom, str) or not bottom:
            return None
        value = Fraction(top) / bottom
        return int(value) if value.denominator == 1 else value


def plain_notation(text: str) -> str:
    """Lower case, with plain signs for LaTeX and Unicode ones; math and bold marks are left out."""
    if not text.isascii():
        text = text.translate(_UNICODE)
    text = text.lower()
    if "\\" in text or "{,}" in text:
        text = _COMMANDS.sub(_plain, _THOUSANDS.sub(",", text))
    if "$" in text:
        text = text.replace("$", "")
    return text.replace("**", "") if "**" in text else text


def read_facts(text: str) -> Facts:
    """The facts of a text; remembered for the last texts, since rewrites of one source are checked in a row."""
    return _read_facts(text) if text else NO_FACTS


def invented(text: str, given: tuple[Facts, ...]) -> Iterator[str]:
    """Sentences on what ``text`` says and ``given`` does not: false equations, changed numbers, new numbers.

    A number is given if it occurs there, or is the result of an equation in ``text`` that holds and whose other
    numbers are given. An equation that does not hold is passed over where ``given`` has the very same. A number is
    changed if the tokens around it stand in ``given``, but only around other numbers.
    """
    plain = plain_notation(text)
    known: set[Value] = set()
    for equation in find_equations(plain):
        if equation.holds:
            known |= _derived(equation, given, known)
        elif not any(equation.key in facts.equations for facts in given):
            yield f"{equation.left} {equation.relation} {equation.right} does not hold"
    excused = False
    for numeral in _numerals(text):
        part_of_given = excused
        excused = numeral.quotient is not None and _given(numeral.quotient, given, known)
        reason = _changed(numeral, given, known)
        if reason is None and not (excused or part_of_given):
            reason = _new(numeral, given, known)
        if reason:
            yield reason


def new_step(text: str, given: tuple[Facts, ...]) -> Equation | None:
    """The first equation whose result is no number of ``given``; None if there is none."""
    for equation in find_equations(plain_notation(text)):
        values = numbers_in(equation.right)
        if values and not any(value in facts.values for value in values for facts in given):
            return equation
    return None


def restated(text: str, before: str) -> Equation | None:
    """The first equation whose result an earlier equation has, of ``text`` or of ``before``; None if all are new."""
    stated = {equation.right for equation in find_equations(plain_notation(before))}
    for equation in find_equations(plain_notation(text)):
        if equation.right in stated:
            return equation
        stated.add(equation.right)
    return None


def numbers_in(text: str) -> set[Value]:
    """The numbers of a text in digits, numbers of list items left out; of a fraction its terms and its value."""
    return _values(_numerals(text))


def results_kept(text: str, source: str) -> float:
    """Share of the source's numbers after an equals sign that occur in the text; 1 if there are none."""
    results = read_facts(source).results
    if not results:
        return 1.0
    values = numbers_in(text)
    return sum(1 for value in results if value in values) / len(results)


@lru_cache(maxsize=16)
def _read_facts(text: str) -> Facts:
    plain = plain_notation(text)
    tokens = _TOKEN.findall(plain)
    numerals = list(_read(tokens))
    contexts: dict[Context, set[Value]] = {}
    for numeral in numerals:
        if numeral.context:
            contexts.setdefault(numeral.context, set()).add(numeral.values[0])
    order = [numeral.values[0] for numeral in numerals]
    return Facts(
        values=frozenset(_values(numerals) | _spelled(tokens)),
        contexts=contexts,
        quotients=frozenset([*pairwise(order), *zip(order, order[2:], strict=False)]),
        equations=frozenset(equation.key for equation in find_equations(plain)),
        results=frozenset(v for numeral in numerals if numeral.result for v in numeral.values[:1]),
    )


@lru_cache(maxsize=8)
def _numerals(text: str) -> tuple[Numeral, ...]:
    """Numbers in order, without those that number a list item; remembered, since several gates ask in a row."""
    plain = plain_notation(text)
    skipped = {match.end() for match in _ENUMERATOR.finditer(plain)}
    if not skipped:
        return tuple(_read(_TOKEN.findall(plain)))
    tokens, hidden = [], []
    for match in _TOKEN.finditer(plain):
        if match.end() in skipped:
            hidden.append(len(tokens))
        tokens.append(match.group())
    return tuple(_read(tokens, frozenset(hidden)))


def _read(tokens: list[str], hidden: frozenset[int] = frozenset()) -> Iterator[Numeral]:
    padded = ["", "", "", "", *tokens, "", "", "", ""]
    for at, token in enumerate(tokens, 4):
        if (token[0] not in _DIGITS and (token[0] != "." or len(token) == 1)) or at - 4 in hidden:
            continue
        after = padded[at + 1]
        divides = after == "/" and padded[at + 2][:1] in _DIGITS and padded[at + 2] != ""
        yield Numeral(
            _readings(token),
            _context(padded, at),
            token,
            _readings(padded[at + 2])[0] if divides else None,
            after in ("%", "percent"),
            padded[at - 1] in ("=", "≈"),
        )


def _context(padded: list[str], at: int) -> Context:
    """Up to four tokens on either side within the sentence and line; () if they are fewer than four together.

    What lies beyond does not count, so that leaving out a sentence brings up no new context.
    """
    left, right = padded[at - 4 : at], padded[at + 1 : at + 5]
    for place in (3, 2, 1, 0):
        if left[place] in _ENDS:
            left = left[place + 1 :]
            break
    for place, token in enumerate(right):
        if token in _ENDS:
            right = right[:place]
            break
    return (*left, "", *right) if len(left) + len(right) >= 4 else ()


@lru_cache(maxsize=65536)
def _readings(token: str) -> tuple[Value, ...]:
    if "," in token:
        return (_value(token.replace(",", "")), *map(_value, token.split(",")))
    return (_value(token),)


def _value(digits: str) -> Value:
    try:
        value = number(digits).value
    except (Unreadable, ValueError):
        return digits
    return int(value) if value.denominator == 1 else value


def _values(numerals: Iterable[Numeral]) -> set[Value]:
    values: set[Value] = set()
    for numeral in numerals:
        values.update(numeral.values)
        first = numeral.values[0]
        if numeral.percent and not isinstance(first, str):
            values.add(Fraction(first) / 100)
        if numeral.quotient is not None:
            values.add(numeral.quotient)
    return values


def _spelled(tokens: list[str]) -> set[Value]:
    found = _WORD_SET.intersection(tokens)
    values = {_WORDS[word] for word in found}
    if not found & _BIG_WORDS:
        return values
    words = [word for word in tokens if word != "-"]
    for first, second in pairwise(words):
        small = _WORDS.get(first)
        if first in TENS and second in ONES[1:10] and isinstance(small, int):
            values.add(small + ONES.index(second))
        elif second in _SCALES and isinstance(small, int):
            values.add(small * _SCALES[second])
        elif second in _SCALES and first[0] in _DIGITS:
            values.update(v * _SCALES[second] for v in _readings(first) if not isinstance(v, str))
    return values


def _given(value: Value, given: tuple[Facts, ...], known: set[Value]) -> bool:
    return value in known or any(value in facts.values for facts in given)


def _derived(equation: Equation, given: tuple[Facts, ...], known: set[Value]) -> set[Value]:
    """New numbers that an equation makes known: the right side by a known left one, or a single left one by the right.

    So ``36 = 4*9`` brings in 4 and 9, while in ``19-12 = 7`` the 19 stays unknown.
    """
    left, right = (list(_read(_TOKEN.findall(side))) for side in (equation.left, equation.right))
    from_left = _all_known(left, given, known)
    if not from_left and not (len(left) == 1 and _all_known(right, given, known)):
        return set()
    return {value for value in _values(left + right) if not _given(value, given, known)}


def _all_known(numerals: list[Numeral], given: tuple[Facts, ...], known: set[Value]) -> bool:
    return all(_given(numeral.values[0], given, known) for numeral in numerals)


def _changed(numeral: Numeral, given: tuple[Facts, ...], known: set[Value]) -> str | None:
    there = [facts.contexts[numeral.context] for facts in given if numeral.context in facts.contexts]
    if not there or numeral.values[0] in known or any(v in values for values in there for v in numeral.values):
        return None
    shown = " ".join(token or numeral.shown for token in numeral.context)
    return f'"{shown}": the source has {_list(there)} here'


def _new(numeral: Numeral, given: tuple[Facts, ...], known: set[Value]) -> str | None:
    value, *parts = numeral.values
    if _given(value, given, known) or (parts and all(_given(part, given, known) for part in parts)):
        return _new_quotient(numeral, given)
    if numeral.percent and not isinstance(value, str) and _given(Fraction(value) / 100, given, known):
        return None
    return f"{numeral.shown} is neither in the source nor in the question"


def _new_quotient(numeral: Numeral, given: tuple[Facts, ...]) -> str | None:
    """A fraction that is not given itself: its terms must stand next to each other in the source."""
    pair = (numeral.values[0], numeral.divisor)
    if numeral.quotient is None or any(pair in facts.quotients for facts in given):
        return None
    return f"{numeral.shown}/{numeral.divisor} is neither in the source nor in the question"


def _list(there: list[set[Value]]) -> str:
    values = sorted({str(value) for values in there for value in values})
    return ", ".join(values[:3]) + (", ..." if len(values) > 3 else "")


def _plain(match: re.Match[str]) -> str:
    if match.lastindex in (3, 5):
        return f"{{{match[2] or match[4]}/{match[3] or match[5]}}}"
    return _REPLACED.get(match.lastindex or 0, " ")
