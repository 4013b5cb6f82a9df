"""Compare two trees by value: exactly, to the digits of a decimal, or at random points where they have symbols.

True, False, or None where that does not decide. Every function is symmetric in its two trees.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from .exact import (
    PRIME,
    NoValue,
    Numerics,
    Rationals,
    Residues,
    Undefined,
    compare_values,
    evaluate,
    exact_value,
    real_value,
)
from .policies import Policy
from .series import MOST_SERIES, MOST_SYMBOLS, UselessPoint, count_series, integer_symbols, written_out
from .tree import Node

INTEGERS = (4, 9, 13, 17, 22, 28, 33, 37)
ENOUGH_POINTS = 3
"""Points that must agree before sums with symbols in their limits count as equal."""
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def symbols(node: Node) -> frozenset[str]:
    """Names of the variables in a tree."""
    if node.kind == "sym":
        return frozenset({node.name})
    return frozenset().union(*(symbols(arg) for arg in node.args))


def same_relation(a: Node, b: Node) -> bool | None:
    """Two equations or inequalities as left side minus right side, up to a constant factor.

    The factor must not be zero; for inequalities that point the same way it must be positive.
    """
    if len(a.args) != 2 or len(b.args) != 2:
        return None
    if symbols(a) != symbols(b):
        return False
    differences = [Node("add", (n.args[0], Node("neg", (n.args[1],)))) for n in (a, b)]
    try:
        ratios = {_ratio(differences, seed) for seed in range(4)}
    except NoValue:
        return None
    ratio = ratios.pop()
    if ratios or ratio == 0 or a.name in {"=", "!="} or b.name in {"=", "!="}:
        return not ratios and ratio != 0 and a.name == b.name
    return a.name == (b.name if ratio > 0 else FLIPPED[b.name])


def _ratio(nodes: list[Node], seed: int) -> Fraction:
    field = Rationals(_Points(seed).real)
    top, bottom = (evaluate(node, field) for node in nodes)
    return field.div(top, bottom)


def same_number(a: Node, b: Node, policy: Policy) -> bool | None:
    """Compare two expressions: exactly, to the digits of a decimal, or at random points if they have symbols."""
    if a.kind == "percent" or b.kind == "percent":
        return _same_percent(a, b, policy)
    for x, y in ((a, b), (b, a)):
        if _is_infinite(x):
            return _is_infinite(y) and (x.kind == "neg") == (y.kind == "neg")
    if count_series(a) or count_series(b):
        return _same_series(a, b, policy)
    try:
        return _same_exact(exact_value(a), exact_value(b), (a, b), policy)
    except NoValue:
        pass
    if not symbols(a) and not symbols(b):
        return _same_constant(a, b, policy)
    return _same_at_points(a, b)


def _same_series(a: Node, b: Node, policy: Policy) -> bool | None:
    """Equal if all parts are; else by their terms, for a few integer values of the symbols in limits and subscripts."""
    if a.kind == b.kind == "series" and a.name == b.name:
        parts = zip(a.args, b.args, strict=True)
        if all(x == y or ("rel" not in {x.kind, y.kind} and same_number(x, y, policy) is True) for x, y in parts):
            return True
    try:
        names = integer_symbols(a, b)
        if len(names) > MOST_SYMBOLS or max(count_series(a), count_series(b)) > MOST_SERIES:
            return None
        told = 0
        for values in _integer_points(names):
            result = _same_written_out(a, b, values, policy)
            if result is False:
                return False
            told += result is True
            if told >= (ENOUGH_POINTS if names else 1):
                return True
    except NoValue:
        return None
    return None


def _same_written_out(a: Node, b: Node, values: Mapping[str, int], policy: Policy) -> bool | None:
    try:
        return same_number(written_out(a, values), written_out(b, values), policy)
    except UselessPoint:
        return None


def _integer_points(names: Sequence[str]) -> list[dict[str, int]]:
    """Values for the symbols of limits: small and larger ones, each symbol above and below each other at some point."""
    if not names:
        return [{}]
    size = len(INTEGERS)
    return [{n: INTEGERS[(3 * i + shift) % size] for i, n in enumerate(names)} for shift in range(size)]


def _is_infinite(node: Node) -> bool:
    node = node.args[0] if node.kind == "neg" else node
    return node.kind == "const" and node.name == "inf"


def _same_percent(a: Node, b: Node, policy: Policy) -> bool | None:
    if not policy.percent:
        return None
    if a.kind == b.kind:
        return same_number(a.args[0], b.args[0], policy)
    share, other = (a, b) if a.kind == "percent" else (b, a)
    whole = same_number(share.args[0], other, policy)
    if whole is True:
        return True
    hundredth = same_number(Node("div", (share.args[0], Node("num", value=Fraction(100)))), other, policy)
    return True if hundredth else (None if None in {whole, hundredth} else False)


def _same_exact(x: Fraction, y: Fraction, nodes: tuple[Node, Node], policy: Policy) -> bool:
    if x == y:
        return True
    if policy.relative_tolerance and abs(x - y) <= Fraction(policy.relative_tolerance) * max(abs(x), abs(y)):
        return True
    return _rounds(nodes[0], y, nodes[1], policy) or _rounds(nodes[1], x, nodes[0], policy)


def _rounds(decimal: Node, value: Any, other: Node, policy: Policy) -> bool:
    """True if ``decimal`` is a decimal numeral with enough digits that all agree with the exact ``value``."""
    literal = decimal.args[0] if decimal.kind == "neg" else decimal
    if literal.kind != "num" or not literal.decimals or not policy.significant_digits:
        return False
    if literal.significant < policy.significant_digits or _is_literal(other):
        return False
    scaled = abs(value) * 10**literal.decimals - int(literal.value * 10**literal.decimals)
    return (value < 0) == (decimal.kind == "neg") and bool(abs(scaled) * 2 <= 1)


def _is_literal(node: Node) -> bool:
    return (node.args[0] if node.kind == "neg" else node).kind == "num"


def _same_constant(a: Node, b: Node, policy: Policy) -> bool | None:
    try:
        if (result := compare_values(a, b, _Points(0).real)) is not False:
            return result
        x, y = real_value(a), real_value(b)
    except NoValue:
        return None if _has_no_value(a) or _has_no_value(b) else False
    if policy.relative_tolerance and abs(x - y) <= policy.relative_tolerance * max(abs(x), abs(y)):
        return True
    return _rounds(a, y, b, policy) or _rounds(b, x, a, policy)


def _has_no_value(node: Node) -> bool:
    try:
        evaluate(node, Numerics(_Points(0).real))
    except NoValue:
        return True
    return False


class _Points:
    """Random values for symbols: the same for both sides of a comparison, other ones for each seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def residue(self, name: str) -> int:
        return random.Random(f"{self._seed} {name}").randrange(2, PRIME)

    def real(self, name: str) -> Fraction:
        value = Fraction(random.Random(f"{self._seed} {name}").randrange(3_000, 25_000), 9973)
        return -value if self._seed % 2 else value


def _same_at_points(a: Node, b: Node) -> bool | None:
    """Equality of two expressions with symbols: modulo a prime if both are rational, else at real points."""
    try:
        results = [_equal_residues(a, b, seed) for seed in range(4)]
    except NoValue:
        results = [_equal_reals(a, b, seed) for seed in range(6)]
    known = {result for result in results if result is not None}
    if len(known) != 1 or results.count(None) > len(results) - 2:
        return None
    return known.pop()


def _equal_residues(a: Node, b: Node, seed: int) -> bool | None:
    field = Residues(_Points(seed).residue)
    try:
        return evaluate(a, field) == evaluate(b, field)
    except Undefined:
        return None


def _equal_reals(a: Node, b: Node, seed: int) -> bool | None:
    try:
        return compare_values(a, b, _Points(seed).real)
    except NoValue:
        return None
