"""The tree of a mathematical answer."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

MOST_DIGITS = 4000


class Unreadable(ValueError):
    """The text is no expression of the grammar; the message names the place."""


class Node(NamedTuple):
    """One node of a tree.

    Kinds: ``num`` (value; digits after the point; significant digits; as name a numeral with leading zeros), ``sym``,
    ``const`` (pi, e, i, inf), ``base`` (numeral with base), ``add mul div pow neg pm fact percent deg``, ``fn`` (name),
    ``group`` (name = both brackets), ``set``, ``list``, ``union``, ``ratio``, ``rel`` (name = operators), ``matrix``
    of ``row``, ``series`` (name = sum or prod; lower limit, upper limit, body).
    """

    kind: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)
    decimals: int = 0
    significant: int = 0


def number(digits: str) -> Node:
    """A numeral, exact.

    Raises:
        Unreadable: more than `MOST_DIGITS` digits.
    """
    if len(digits) > MOST_DIGITS:
        raise Unreadable(f"more than {MOST_DIGITS} digits")
    whole, _, part = digits.partition(".")
    value = Fraction(int(whole or "0") * 10 ** len(part) + int(part or "0"), 10 ** len(part))
    padded = digits if len(whole) > 1 and whole[0] == "0" else ""
    return Node("num", (), padded, value, decimals=len(part), significant=len((whole + part).lstrip("0")))
