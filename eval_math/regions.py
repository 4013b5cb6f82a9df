"""Inequalities in one unknown as intervals."""

from __future__ import annotations

from dataclasses import dataclass

from .agreement import FLIPPED, symbols
from .tree import Node


@dataclass(frozen=True)
class Bounds:
    """``low < inner < high``, where the brackets say which ends belong to it."""

    low: Node
    high: Node
    inner: Node
    brackets: str


def as_region(node: Node, other: Node) -> Node:
    """An inequality in one unknown as an interval, where the other side is no relation."""
    if node.kind != "rel" or "=" in node.name.split() or other.kind == "rel":
        return node
    bounds = bounds_of(node)
    if bounds is None:
        return node
    low, high, inner, brackets = bounds.low, bounds.high, bounds.inner, bounds.brackets
    interval = Node("group", (low, high), brackets)
    if inner.kind == "sym":
        return interval
    if low.kind == "neg":
        return Node("group", (_negative(high), high), _mirrored(brackets[1]) + brackets[1])
    mirrored = Node("group", (_negative(high), _negative(low)), _mirrored(brackets[1]) + _mirrored(brackets[0]))
    return Node("union", (mirrored, interval))


def bounds_of(node: Node) -> Bounds | None:
    """The bounds that a relation sets to one unknown or its absolute value, or None."""
    operators, args = node.name.split(), list(node.args)
    if any(op not in FLIPPED for op in operators):
        return None
    if operators[0][0] == ">":
        operators, args = [FLIPPED[op] for op in reversed(operators)], args[::-1]
    if any(op[0] == ">" for op in operators) or len(args) > 3:
        return None
    infinity = Node("const", name="inf")
    if len(args) == 2:
        lone_left = bool(symbols(args[0]))
        args = [_negative(infinity), *args] if lone_left else [*args, infinity]
        operators = ["<", *operators] if lone_left else [*operators, "<"]
    low, inner, high = args
    unknown = inner.kind == "sym" or (inner.kind == "fn" and inner.name == "abs" and inner.args[0].kind == "sym")
    if not unknown or symbols(low) or symbols(high):
        return None
    return Bounds(low, high, inner, ("[" if operators[0] == "<=" else "(") + ("]" if operators[1] == "<=" else ")"))


def _negative(node: Node) -> Node:
    return node.args[0] if node.kind == "neg" else Node("neg", (node,))


def _mirrored(bracket: str) -> str:
    return {"(": ")", ")": "(", "[": "]", "]": "["}[bracket]
