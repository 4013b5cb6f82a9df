"""Sums and products with limits, compared by writing them out for small integer values of what their limits hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cache

from .exact import NoValue, exact_value
from .tree import Node, Unreadable

MOST_LEAVES = 1_000
"""Numbers and symbols of a tree once its sums are written out: they are evaluated in the calling process."""
MOST_SERIES = 8
MOST_SYMBOLS = 4


class UselessPoint(NoValue):
    """A sum has too many terms here, a limit is no integer, or symbols run it backwards: the point tells nothing."""


def count_series(node: Node) -> int:
    """How many sums and products with limits stand in the tree."""
    return (node.kind == "series") + sum(count_series(arg) for arg in node.args)


def integer_symbols(*nodes: Node) -> list[str]:
    """Free symbols of the limits, and letters of subscripts beside an index: they stand for integers."""
    found = {name for node in nodes for name in _integers(node, frozenset())}
    return sorted(found)


def written_out(node: Node, values: Mapping[str, int], most: int | None = None) -> Node:
    """The tree with ``values`` put in, in subscripts too, and each sum and product as its terms.

    Args:
        most: leaves that each sum may have; None shares `MOST_LEAVES` out among the sums of the tree.

    Raises:
        NoValue: a limit of another kind; `UselessPoint`: see there.
    """
    if most is None:
        most = MOST_LEAVES // max(1, count_series(node))
    if node.kind in {"sym", "const"}:
        return _number(values[node.name]) if node.name in values else _indexed(node, values)
    if node.kind != "series":
        return node._replace(args=tuple(written_out(arg, values, most) for arg in node.args))
    index, first = _index(node)
    start, end = (_integer(written_out(limit, values)) for limit in (first, node.args[1]))
    if end < start and (_free(first) or _free(node.args[1])):
        raise UselessPoint(f"from {start} to {end}")
    size = max(0, end - start + 1)
    if size * _leaves(node.args[2]) > most:
        raise UselessPoint("too many terms")
    terms = tuple(written_out(node.args[2], {**values, index: k}, most // size) for k in range(start, end + 1))
    if not terms:
        return _number(0 if node.name == "sum" else 1)
    return terms[0] if len(terms) == 1 else Node("add" if node.name == "sum" else "mul", terms)


def _leaves(node: Node) -> int:
    return sum(map(_leaves, node.args)) or 1


def _indexed(node: Node, values: Mapping[str, int]) -> Node:
    """``F_{n-k}`` as ``F_3`` for n = 5, k = 2; a subscript that names nothing with a value stays."""
    name, _, label = node.name.partition("_")
    if not set(_letters(label)) & set(values):
        return node
    return node._replace(name=f"{name}_{_integer(written_out(_label(label), values))}")


@cache
def _label(label: str) -> Node:
    from .expression import parse

    try:
        return parse(label)
    except Unreadable as error:
        raise NoValue(f"the subscript {label!r} is no number") from error


def _letters(label: str) -> list[str]:
    return re.findall(r"[A-Za-z]", label)


def _index(node: Node) -> tuple[str, Node]:
    lower = node.args[0]
    # An index called i reads as the imaginary unit.
    named = lower.kind == "rel" and lower.name == "=" and (lower.args[0].kind == "sym" or lower.args[0].name == "i")
    if not named:
        raise NoValue("a lower limit that names no index")
    return lower.args[0].name, lower.args[1]


def _integer(node: Node) -> int:
    value = exact_value(node)
    if value.denominator != 1:
        raise UselessPoint("a limit or subscript that is no integer")
    return int(value)


def _number(value: int) -> Node:
    number = Node("num", value=Fraction(abs(value)), significant=len(str(abs(value))))
    return Node("neg", (number,)) if value < 0 else number


def _integers(node: Node, bound: frozenset[str]) -> set[str]:
    if node.kind == "sym":
        letters = set(_letters(node.name.partition("_")[2]))
        return letters - bound if letters & bound else set()
    if node.kind != "series":
        return {name for arg in node.args for name in _integers(arg, bound)}
    index, first = _index(node)
    limits = {name for limit in (first, node.args[1]) for name in _free(limit)}
    return (limits - bound) | _integers(node.args[2], bound | {index})


def _free(node: Node) -> set[str]:
    return {node.name} if node.kind == "sym" else {name for arg in node.args for name in _free(arg)}
