"""Compare two trees: numbers, tuples, sets, intervals, unions, matrices, relations; True, False, or None for unknown.

Every function is symmetric in its two trees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from .agreement import same_number, same_relation, symbols
from .exact import NoValue, exact_value
from .policies import Policy
from .regions import as_region, bounds_of
from .tree import Node

T = TypeVar("T")

MOST_PAIRS = 4_000
"""Comparisons of single numbers that two unordered answers may take."""
_CONTAINERS = frozenset({"group", "set", "list", "union", "matrix", "ratio", "rel", "base"})


def same(a: Node, b: Node, policy: Policy) -> bool | None:
    """Whether two answers are equal under ``policy``; None if that is not known."""
    a, b = _plain(a), _plain(b)
    if a == b:
        return True
    named = _names(a), _names(b)
    if named[0] and named[1]:
        return _same_named(named[0], named[1], policy)
    for names, tuple_ in ((named[0], b), (named[1], a)):
        if names and len(names) > 1 and tuple_.kind == "group" and tuple_.name == "()":
            values = Node("group", tuple(value for _, value in names), "()")
            return _same_containers(values, tuple_, policy)
    a, b = _unnamed(a, b), _unnamed(b, a)
    a, b = as_region(a, b), as_region(b, a)
    if a.kind in _CONTAINERS or b.kind in _CONTAINERS:
        return _same_containers(a, b, policy)
    if _holds_container(a) != _holds_container(b):
        return False if _is_plain_number(a) or _is_plain_number(b) else None
    return same_number(a, b, policy)


def _is_plain_number(node: Node) -> bool:
    try:
        exact_value(node)
    except NoValue:
        return False
    return True


def _plain(node: Node) -> Node:
    """Lists and sets under one kind, plus-minus written out, matrices added up, ``x \\in S`` as S."""
    node = _as_matrix(node)
    if node.kind == "rel" and node.name == "in" and _is_name(node.args[0]):
        return _plain(node.args[1])
    if node.kind == "set":
        node = Node("list", node.args)
    if node.kind == "list":
        items = _by_repeated_name([part for arg in node.args for part in _both_signs(arg)])
        return Node("list", tuple(items)) if len(items) != 1 else items[0]
    parts = _both_signs(node) if node.kind not in {"rel", "union", "matrix"} else [node]
    return parts[0] if len(parts) == 1 else Node("list", tuple(parts))


def _as_matrix(node: Node) -> Node:
    """A sum, difference or multiple of matrices as one matrix; anything else as it is."""
    if node.kind not in {"add", "neg", "mul", "div"}:
        return node
    args = [_as_matrix(arg) for arg in node.args]
    matrices = [arg for arg in args if arg.kind == "matrix"]
    shapes = {tuple(len(row.args) for row in matrix.args) for matrix in matrices}
    whole = node.kind in {"add", "neg"}
    if len(shapes) != 1 or (len(matrices) != len(args) if whole else len(matrices) != 1):
        return node

    def cell(i: int, j: int) -> Node:
        return node._replace(args=tuple(a.args[i].args[j] if a.kind == "matrix" else a for a in args))

    rows = [Node("row", tuple(cell(i, j) for j in range(width))) for i, width in enumerate(shapes.pop())]
    return Node("matrix", tuple(rows)) if node.kind != "div" or args[0].kind == "matrix" else node


def _by_repeated_name(items: list[Node]) -> list[Node]:
    """``p=5, q=2, p=7, q=2`` as two solutions: a new one starts where the first name comes again."""
    names = _names(Node("list", tuple(items)))
    if not names or len(items) < 4:
        return items
    starts = [place for place, (name, _) in enumerate(names) if name == names[0][0]]
    size = len(items) // len(starts)
    if len(starts) < 2 or size < 2 or starts != list(range(0, len(items), size)):
        return items
    return [Node("list", tuple(items[start : start + size])) for start in starts]


def _both_signs(node: Node) -> list[Node]:
    if not _has_plus_minus(node):
        return [node]
    return [_signed(node, 1), _signed(node, -1)]


def _has_plus_minus(node: Node) -> bool:
    return node.kind == "pm" or any(_has_plus_minus(arg) for arg in node.args)


def _signed(node: Node, sign: int) -> Node:
    args = tuple(_signed(arg, sign) for arg in node.args)
    if node.kind == "pm":
        return args[0] if (sign > 0) == (node.name == "pm") else Node("neg", args)
    return node._replace(args=args)


def _is_name(node: Node) -> bool:
    """A symbol, ``f(x)``, ``|AB|``, a tuple or ratio of names: what an answer is called."""
    if node.kind in {"sym", "const"}:
        return node.name not in {"pi", "inf"}
    compound = node.kind in {"mul", "div", "group", "ratio", "list"} or (node.kind == "fn" and node.name == "abs")
    return compound and all(_is_name(arg) for arg in node.args)


def _is_equation(node: Node) -> bool:
    return node.kind == "rel" and node.name == "="


def _names(node: Node) -> list[tuple[Node, Node]] | None:
    """(name, value) of each item, if all are equations that give a name a value."""
    items = node.args if node.kind == "list" else (node,)
    pairs: list[tuple[Node, Node]] = []
    for item in items:
        if not _is_equation(item) or not _is_name(item.args[0]) or symbols(item.args[0]) & symbols(item.args[1]):
            return None
        pairs.append((item.args[0], item.args[1]))
    return pairs


def _same_named(a: list[tuple[Node, Node]], b: list[tuple[Node, Node]], policy: Policy) -> bool | None:
    names = [{name for name, _ in side} for side in (a, b)]
    if names[0] == names[1]:
        return _matched(a, b, lambda x, y: x[0] == y[0] and same(x[1], y[1], policy))
    if len(a) == len(b) == 1:
        return same_relation(Node("rel", a[0], "="), Node("rel", b[0], "="))
    return False


def _unnamed(node: Node, other: Node) -> Node:
    """Drop the names of values, unless the other side is an equation too."""
    if node.kind == "list" and not any(_is_equation(arg) for arg in other.args if other.kind == "list"):
        return node._replace(args=tuple(_value(arg) for arg in node.args))
    return node if _is_equation(other) else _value(node)


def _value(node: Node) -> Node:
    if not _is_equation(node):
        return node
    left, right = node.args
    if _is_name(left) and not symbols(left) & symbols(right):
        return _plain(right)
    if _is_name(right) and not symbols(left):
        return _plain(left)
    return _plain(right) if not symbols(left) | symbols(right) else node


def _same_containers(a: Node, b: Node, policy: Policy) -> bool | None:
    if a.kind != b.kind:
        return _same_kinds(a, b)
    if a.kind in {"list", "union"}:
        if _leaves(a) * _leaves(b) > MOST_PAIRS:
            return _same_exact_sets(a, b)
        return _matched(a.args, b.args, lambda x, y: same(x, y, policy))
    if a.kind == "rel":
        return _same_relation(a, b, policy)
    if a.kind == "ratio":
        return _same_ratio(a, b, policy)
    if a.name != b.name or len(a.args) != len(b.args):
        return False
    if a.kind == "matrix":
        rows = list(zip(a.args, b.args, strict=True))
        if any(len(x.args) != len(y.args) for x, y in rows):
            return False
        return _every(same(x, y, policy) for r, s in rows for x, y in zip(r.args, s.args, strict=True))
    if a.kind == "base":
        return a.value == b.value
    return _every(same(x, y, policy) for x, y in zip(a.args, b.args, strict=True))


def _same_kinds(a: Node, b: Node) -> bool | None:
    """Two answers of different kinds are different, unless arithmetic on matrices or sets is left to do."""
    for node in (a, b):
        if node.kind not in _CONTAINERS and any(_holds_container(arg) for arg in node.args):
            return None
    kinds = {a.kind, b.kind}
    return None if kinds <= {"union", "group", "rel", "list"} and "list" not in kinds else False


def _holds_container(node: Node) -> bool:
    """A tuple, set or interval anywhere in the tree, as in ``-[0,1)``; the limits of a sum are none."""
    args = node.args[2:] if node.kind == "series" else node.args
    return node.kind in _CONTAINERS or any(_holds_container(arg) for arg in args)


def _leaves(node: Node) -> int:
    return sum(_leaves(arg) for arg in node.args) or 1


def _same_exact_sets(a: Node, b: Node) -> bool | None:
    """Long lists of rational numbers as sets; None for anything else."""
    try:
        return {exact_value(arg) for arg in a.args} == {exact_value(arg) for arg in b.args}
    except NoValue:
        return None


def _every(results: Iterable[bool | None]) -> bool | None:
    unknown = False
    for result in results:
        if result is False:
            return False
        unknown |= result is None
    return None if unknown else True


def _matched(a: Sequence[T], b: Sequence[T], equal: Callable[[T, T], bool | None]) -> bool | None:
    """Equal as sets: each item of one side has an equal on the other."""
    table = [[equal(x, y) for y in b] for x in a]
    lines = [*table, *(list(column) for column in zip(*table, strict=True))]
    return _every(True if True in line else (None if None in line else False) for line in lines)


def _same_ratio(a: Node, b: Node, policy: Policy) -> bool | None:
    if len(a.args) != len(b.args):
        return False
    result = _every(same_number(x, y, policy) for x, y in zip(a.args, b.args, strict=True))
    if result is not False or any(_is_minutes(n) for n in (a.args[-1], b.args[-1])):
        return result
    left, right = a.args[0], b.args[0]
    return _every(
        same_number(Node("mul", (x, right)), Node("mul", (y, left)), policy)
        for x, y in zip(a.args[1:], b.args[1:], strict=True)
    )


def _is_minutes(node: Node) -> bool:
    """Two digits below 60 after a colon: a time of day, not a ratio that may be reduced."""
    return node.kind == "num" and (bool(node.name) or (10 <= node.value < 60 and not node.decimals))


def _same_relation(a: Node, b: Node, policy: Policy) -> bool | None:
    if a.name == b.name and _every(same(x, y, policy) for x, y in zip(a.args, b.args, strict=True)):
        return True
    if a.name == b.name == "!=":
        return same_relation(a, b)
    if _is_equation(a) and _is_equation(b):
        return same_relation(a, b)
    if "=" in (a.name, b.name) or "!=" in (a.name, b.name):
        return False
    x, y = bounds_of(a), bounds_of(b)
    if x is None or y is None:
        return same_relation(a, b)
    if x.inner != y.inner or x.brackets != y.brackets:
        return False
    return _every((same(x.low, y.low, policy), same(x.high, y.high, policy)))
