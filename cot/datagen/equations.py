"""Equations between numbers in running text: found, and worked out again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from eval_math.exact import NoValue, exact_value
from eval_math.expression import parse
from eval_math.normal_form import clean
from eval_math.notation import FUNCTIONS
from eval_math.tree import Node, Unreadable

LONGEST_SIDE_CHARACTERS = 120

_SIGNS = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
_SPOKEN = re.compile(
    r"(?<=[\d)])[ ]+(?:(plus|minus|times|divided by)|is|equals|is equal to|gives|makes)[ ]+(?=[-(]?\d)"
)
_RUN = re.compile(r"(?=[\d({=≈.+*-]|\\[fs])(?:[\d .,+\-*/^(){}=≈%]++|\\(?:frac|sqrt)(?![A-Za-z]))++")
_BULLET = re.compile(r"\A\s*[-*+]\s+")
_PIECE = re.compile(r"[.,;](?:\s|$)")
_RELATION = re.compile(r"([=≈])")
_SIMPLE = re.compile(r"(\d{1,15})\s*([-+*/])\s*(\d{1,15})")
_INTEGER = re.compile(r"\d{1,15}")
_DECIMALS = re.compile(r"-?\d[\d,]*\.(\d+)")
_OPERATOR = re.compile(r"[\w)}%]\s*[-+*/^]|\\")
_TWO_NUMBERS = re.compile(r"[\d.)}]\s+[\d.]|[\d.]\s+[({]")
_OPERATOR_WORDS = (
    "of times plus minus over divided by mod squared cubed percent hundred thousand million billion and point to "
    "choose factorial dozen modulo remainder with per than between from half twice pmod bmod"
)
_BINDING = frozenset(_OPERATOR_WORDS.split()) | frozenset(FUNCTIONS) | {"sqrt", "gcd", "lcm", "max", "min"}
_WORD_BEFORE = re.compile(r"\\?([A-Za-z]+)\Z")
_WORD_AFTER = re.compile(r"\\?([A-Za-z]+)")


@dataclass(frozen=True)
class Equation:
    """Two neighbouring sides of a chain of equations, as written; ``holds`` is the outcome of working them out."""

    left: str
    right: str
    holds: bool
    relation: str = "="

    @property
    def key(self) -> str:
        """The equation without blanks and braces: the same in two texts means said in both."""
        return _bare(self.left) + self.relation + _bare(self.right)


def find_equations(text: str) -> Iterator[Equation]:
    """Equations of numbers alone, at least one side with an operator, in order.

    ``text`` is plain notation (`plain_notation`). Sides that touch a variable, a function or a word like "of" are left
    out, as is what cannot be read.
    """
    text = _SPOKEN.sub(_sign, text)
    for match in _RUN.finditer(text):
        run = match.group()
        if "=" in run or "≈" in run:
            yield from _equations_of(
                run, text[max(0, match.start() - 16) : match.start()], text[match.end() : match.end() + 16]
            )


def _sign(match: re.Match[str]) -> str:
    return _SIGNS.get(match[1], "=")


def _equations_of(run: str, before: str, after: str) -> Iterator[Equation]:
    if before.rstrip(" \t")[-1:] in ("", "\n"):
        run = _BULLET.sub("", run)
    pieces = _PIECE.split(run)
    for number, piece in enumerate(pieces):
        if "=" not in piece and "≈" not in piece:
            continue
        parts = _RELATION.split(piece)
        if number == 0 and _binds_left(before, run):
            parts[0] = ""
        if number == len(pieces) - 1 and _binds_right(after, run):
            parts[-1] = ""
        for at in range(0, len(parts) - 2, 2):
            equation = _equation(parts[at], parts[at + 1], parts[at + 2])
            if equation is not None:
                yield equation


def _binds_left(before: str, run: str) -> bool:
    """True if the first side goes on to the left of the run: ``x + 3``, ``f(2)``, ``20% of 50``, ``a_1``."""
    tight = before.rstrip(" \t")
    if not tight or tight[-1] == "\n" or tight[-1] in ".,;:?!\"'>":
        return tight[-1:] == "!"
    word = _WORD_BEFORE.search(tight)
    if word is None:
        return tight[-1] != "("
    called = run[0] == "(" and before[-1].isalpha()
    signed = run.lstrip()[:1] in "+-*/^"
    return called or signed or _is_binding(word.group(), word.group(1))


def _binds_right(after: str, run: str) -> bool:
    """True if the last side goes on to the right of the run: ``= 2x``, ``= 3 mod 4``, ``= 5!``."""
    if not after or after[0] == "\n":
        return False
    word = _WORD_AFTER.match(after)
    if word is None:
        return after[0] in "_|[!\\<>:&~'°"
    return _is_binding(word.group(), word.group(1))


def _is_binding(mark: str, word: str) -> bool:
    return mark[0] == "\\" or len(word) == 1 or word.lower() in _BINDING


def _equation(left: str, relation: str, right: str) -> Equation | None:
    left, right = _trimmed(left), _trimmed(right)
    if not left or not right or not (_OPERATOR.search(left) or _OPERATOR.search(right)):
        return None
    a, b = _value(left), _value(right)
    if a is None or b is None:
        return None
    return Equation(left, right, _agree(a, b, left, right, relation), relation)


def _trimmed(side: str) -> str:
    """A side without blanks and without brackets that are closed elsewhere."""
    side = side.strip(" .,;*")
    while side[:1] in ("(", "{") and side.count(side[0]) != side.count(")" if side[0] == "(" else "}"):
        side = side[1:].lstrip()
    while side[-1:] in (")", "}") and side.count(side[-1]) != side.count("(" if side[-1] == ")" else "{"):
        side = side[:-1].rstrip()
    return side


@lru_cache(maxsize=8192)
def _value(side: str) -> Fraction | int | None:
    """The value of one side, None if it has none or cannot be read."""
    if _INTEGER.fullmatch(side):
        return int(side)
    simple = _SIMPLE.fullmatch(side)
    if simple is not None:
        return _simple_value(int(simple[1]), simple[2], int(simple[3]))
    if len(side) > LONGEST_SIDE_CHARACTERS or _TWO_NUMBERS.search(side) or not any(c.isdigit() for c in side):
        return None
    try:
        tree = parse(clean(side))
        return exact_value(tree) if _is_number(tree) else None
    except (NoValue, Unreadable, RecursionError, ValueError, ArithmeticError):
        return None


def _is_number(tree: Node) -> bool:
    return tree.kind not in {"list", "group", "set", "rel", "ratio"}


def _simple_value(a: int, operation: str, b: int) -> Fraction | int | None:
    if operation == "/":
        return Fraction(a, b) if b else None
    return {"+": a + b, "-": a - b, "*": a * b}[operation]


def _agree(a: Fraction | int, b: Fraction | int, left: str, right: str, relation: str) -> bool:
    if a == b:
        return True
    if "%" in left + right and (a == 100 * b or b == 100 * a):
        return True
    return _rounds(a, b, right, relation) or _rounds(b, a, left, relation)


def _rounds(exact: Fraction | int, shown: Fraction | int, side: str, relation: str) -> bool:
    """True if a side is a decimal and the other rounds to it or is cut down to it; ``≈`` allows whole numbers too."""
    decimals = _DECIMALS.fullmatch(side)
    if decimals is None and relation == "=":
        return False
    unit = Fraction(1, 10 ** len(decimals[1])) if decimals else 1
    gap = abs(exact - shown)
    return 2 * gap <= unit or (abs(shown) <= abs(exact) and gap < unit)


def _bare(side: str) -> str:
    return re.sub(r"[\s{}]", "", side)
