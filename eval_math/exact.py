"""Values of trees: exact rationals, residues modulo a prime, and numbers of 100 digits, all within budgets."""

# ruff: noqa: D102 - the operations of an arithmetic are what they are called
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import reduce
from math import comb, factorial, isqrt
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .notation import TRIGONOMETRIC
from .tree import Node

if TYPE_CHECKING:
    from mpmath import MPContext

MOST_BITS = 12_000
MOST_EXPONENT_BITS = 512
LARGEST_EXPONENT = 40_000
LARGEST_FACTORIAL = 500
PRIME = 29 * 2**57 + 1
"""A prime with a square root of -1, so that ``i`` has a residue too."""
DIGITS = 100
CLOSE_DIGITS = 50


class NoValue(ValueError):
    """The tree has no value of the wanted kind (irrational, not a number, over budget)."""


class Undefined(NoValue):
    """Division by zero or the like at this point."""


V = TypeVar("V")


class Arithmetic(Protocol[V]):
    """The operations that `evaluate` needs; each may raise `NoValue`."""

    def number(self, value: Fraction) -> V: ...
    def constant(self, name: str) -> V: ...
    def symbol(self, name: str) -> V: ...
    def add(self, a: V, b: V) -> V: ...
    def mul(self, a: V, b: V) -> V: ...
    def div(self, a: V, b: V) -> V: ...
    def power(self, a: V, b: V, exponent: Node) -> V: ...
    def function(self, name: str, args: tuple[V, ...]) -> V: ...


def evaluate(node: Node, field: Arithmetic[V], degrees: bool = False) -> V:
    """The value of ``node``; inside trigonometric functions a degree sign means pi/180, elsewhere nothing.

    Raises:
        NoValue: see there.
    """
    if node.kind == "num":
        return field.number(node.value)
    if node.kind == "sym":
        return field.symbol(node.name)
    if node.kind == "const":
        return field.constant(node.name)
    if node.kind not in _OPERATIONS:
        raise NoValue(f"{node.kind} is not a number")
    inner = degrees or (node.kind == "fn" and node.name in TRIGONOMETRIC)
    if node.kind == "deg":
        value = evaluate(node.args[0], field, inner)
        return field.div(field.mul(value, field.constant("pi")), field.number(Fraction(180))) if inner else value
    values = tuple(evaluate(arg, field, inner) for arg in node.args)
    return _OPERATIONS[node.kind](node, field, values)


_OPERATIONS: Mapping[str, Callable[[Node, Any, tuple[Any, ...]], Any]] = {
    "add": lambda n, f, v: reduce(f.add, v),
    "neg": lambda n, f, v: f.mul(f.number(Fraction(-1)), v[0]),
    "mul": lambda n, f, v: reduce(f.mul, v),
    "div": lambda n, f, v: f.div(v[0], v[1]),
    "pow": lambda n, f, v: f.power(v[0], v[1], n.args[1]),
    "percent": lambda n, f, v: f.div(v[0], f.number(Fraction(100))),
    "deg": lambda n, f, v: v[0],
    "fact": lambda n, f, v: f.function("fact", v),
    "fn": lambda n, f, v: f.function(n.name, v),
}


def exact_value(node: Node) -> Fraction:
    """The rational value of a tree without symbols.

    Raises:
        NoValue: irrational, symbolic or over budget.
    """
    return evaluate(node, _RATIONAL)


class Rationals:
    """Exact rational arithmetic, at one point if there are symbols; refuses results of more than `MOST_BITS` bits."""

    def __init__(self, point: Callable[[str], Fraction]) -> None:
        self._point = point

    def number(self, value: Fraction) -> Fraction:
        return value

    def constant(self, name: str) -> Fraction:
        raise NoValue(f"{name} is irrational")

    def symbol(self, name: str) -> Fraction:
        return self._point(name)

    def add(self, a: Fraction, b: Fraction) -> Fraction:
        return _small(a + b)

    def mul(self, a: Fraction, b: Fraction) -> Fraction:
        return _small(a * b)

    def div(self, a: Fraction, b: Fraction) -> Fraction:
        if b == 0:
            raise Undefined("division by zero")
        return _small(a / b)

    def power(self, a: Fraction, b: Fraction, exponent: Node) -> Fraction:
        if b.denominator != 1:
            if a < 0 or b.denominator > 64:
                raise NoValue("a root")
            a, b = _root(a, b.denominator), Fraction(b.numerator)
        if a == 0 and b <= 0:
            raise Undefined("zero to a power that is not positive")
        if abs(b) * (a.numerator.bit_length() + a.denominator.bit_length()) > MOST_BITS and abs(a) != 1 and a:
            raise NoValue("a power over budget")
        return Fraction(a ** int(b)) if abs(a) != 1 else a ** (int(b) % 2)

    def function(self, name: str, args: tuple[Fraction, ...]) -> Fraction:
        if name == "root":
            return _real_root(args[0], args[1])
        if name == "abs":
            return abs(args[0])
        if name in {"floor", "ceil"}:
            return Fraction(args[0].__floor__() if name == "floor" else args[0].__ceil__())
        if name == "fact" and args[0].denominator == 1 and 0 <= args[0] <= LARGEST_FACTORIAL:
            return Fraction(factorial(int(args[0])))
        if name == "binom" and all(a.denominator == 1 and 0 <= a <= 2000 for a in args):
            return Fraction(comb(int(args[0]), int(args[1])))
        raise NoValue(f"{name} has no exact value here")


def _no_symbols(name: str) -> Fraction:
    raise NoValue(f"{name} is a symbol")


_RATIONAL = Rationals(_no_symbols)


def _small(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MOST_BITS:
        raise NoValue("a number over budget")
    return value


def _real_root(a: Fraction, degree: Fraction) -> Fraction:
    if degree.denominator != 1 or not 2 <= degree <= 64 or (a < 0 and degree % 2 == 0):
        raise NoValue("a root")
    return -_root(-a, int(degree)) if a < 0 else _root(a, int(degree))


def _root(a: Fraction, degree: int) -> Fraction:
    return Fraction(_integer_root(a.numerator, degree), _integer_root(a.denominator, degree))


def _integer_root(n: int, degree: int) -> int:
    if n.bit_length() > 4000:
        raise NoValue("a root over budget")
    if degree == 2:
        root = isqrt(n)
    else:
        root, step = 0, 1 << (n.bit_length() // degree)
        while step:
            if (root + step) ** degree <= n:
                root += step
            step >>= 1
    if root**degree != n:
        raise NoValue("an irrational root")
    return root


class Residues:
    """Arithmetic modulo `PRIME` at one point: equal rational functions have equal residues."""

    def __init__(self, point: Callable[[str], int]) -> None:
        self._point = point

    def number(self, value: Fraction) -> int:
        return self.div(value.numerator % PRIME, value.denominator % PRIME)

    def constant(self, name: str) -> int:
        if name == "inf":
            raise NoValue("infinity")
        return pow(3, (PRIME - 1) // 4, PRIME) if name == "i" else self._point("\\" + name)

    def symbol(self, name: str) -> int:
        return self._point(name)

    def add(self, a: int, b: int) -> int:
        return (a + b) % PRIME

    def mul(self, a: int, b: int) -> int:
        return a * b % PRIME

    def div(self, a: int, b: int) -> int:
        if b == 0:
            raise Undefined("division by zero")
        return a * pow(b, -1, PRIME) % PRIME

    def power(self, a: int, b: int, exponent: Node) -> int:
        exact = exact_value(exponent)
        if exact.denominator != 1 or exact.numerator.bit_length() > MOST_EXPONENT_BITS:
            raise NoValue("a root, or a power over budget")
        if a == 0 and exact <= 0:
            raise Undefined("zero to a power that is not positive")
        return pow(a, int(exact), PRIME)

    def function(self, name: str, args: tuple[int, ...]) -> int:
        raise NoValue(f"{name} is not rational")


class Numerics:
    """Complex numbers of `DIGITS` digits at one point; refuses huge magnitudes.

    Keeps the largest magnitude met, and the smallest apart from sums (which may cancel): they bound the rounding.
    """

    def __init__(self, point: Callable[[str], Fraction]) -> None:
        self._mp = _context()
        self._point = point
        self.largest: Any = self._mp.mpf(1)
        self.smallest: Any = self._mp.mpf(1)

    def number(self, value: Fraction) -> Any:
        return self._kept(self._mp.mpf(value.numerator) / value.denominator)

    def constant(self, name: str) -> Any:
        constants = {"pi": +self._mp.pi, "e": +self._mp.e, "i": self._mp.mpc(0, 1)}
        if name not in constants:
            raise NoValue("infinity")
        return constants[name]

    def symbol(self, name: str) -> Any:
        return self.number(self._point(name))

    def add(self, a: Any, b: Any) -> Any:
        return self._kept(a + b, added=True)

    def mul(self, a: Any, b: Any) -> Any:
        return self._kept(a * b)

    def div(self, a: Any, b: Any) -> Any:
        if self._vanishes(b):
            raise Undefined("division by zero")
        return self._kept(a / b)

    def power(self, a: Any, b: Any, exponent: Node) -> Any:
        if self._vanishes(a):
            if self._mp.re(b) <= 0:
                raise Undefined("zero to a power that is not positive")
            return self._mp.mpf(0)
        if abs(b) * (abs(self._mp.mag(a)) + 4) > LARGEST_EXPONENT:
            raise NoValue("a power over budget")
        if self._mp.im(a) == 0 and self._mp.re(a) < 0:
            return self._power_of_negative(a, b, exponent)
        return self._kept(a**b)

    def _power_of_negative(self, a: Any, b: Any, exponent: Node) -> Any:
        """Real where the exponent is a fraction with odd denominator, as in ``(-8)^{1/3} = -2``."""
        try:
            exact = exact_value(exponent)
        except NoValue:
            return self._kept(a**b)
        if exact.denominator % 2 == 0 or exact.denominator == 1:
            return self._kept(a**b)
        return self._kept((-1) ** (exact.numerator % 2) * (-a) ** b)

    def function(self, name: str, args: tuple[Any, ...]) -> Any:
        mp = self._mp
        x = args[0]
        if name == "root":
            return self._root_of(x, args[1])
        if name in {"log", "ln"}:
            return self._log(x, args[1:])
        if name in {"abs", "floor", "ceil"}:
            return {"abs": abs, "floor": mp.floor, "ceil": mp.ceil}[name](x)
        if name == "fact":
            if abs(x) > LARGEST_FACTORIAL:
                raise NoValue("a factorial over budget")
            return self._called(mp.factorial, x)
        if name == "binom" or abs(x) > 10_000:
            raise NoValue(f"{name} over budget")
        return self._called(getattr(mp, name), x)

    def _called(self, function: Callable[[Any], Any], x: Any) -> Any:
        try:
            return self._kept(function(x))
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise Undefined(str(error)) from error

    def _log(self, x: Any, base: tuple[Any, ...]) -> Any:
        if self._vanishes(x):
            raise Undefined("logarithm of zero")
        value = self._called(self._mp.ln, x)
        return self.div(value, self._called(self._mp.ln, base[0])) if base else value

    def _root_of(self, x: Any, degree: Any) -> Any:
        if self._vanishes(x):
            return self._mp.mpf(0)
        if self._mp.im(x) == 0 and self._mp.re(x) < 0 and degree in {3, 5, 7, 9}:
            return -self.power(-x, 1 / self._mp.mpf(degree), _NOTHING)
        if degree == 2:
            return self._kept(self._mp.sqrt(x))
        return self.power(x, self.div(self._mp.mpf(1), degree), _NOTHING)

    def _vanishes(self, x: Any) -> bool:
        return abs(x) <= self.largest * self._mp.mpf(10) ** -(DIGITS - 10)

    def _kept(self, value: Any, added: bool = False) -> Any:
        size = abs(value)
        if not self._mp.isfinite(size) or (size and abs(self._mp.mag(size)) > LARGEST_EXPONENT):
            raise NoValue("a number over budget")
        self.largest = max(self.largest, size)
        if size and not added:
            self.smallest = min(self.smallest, size)
        return value


_NOTHING = Node("num")
_local = threading.local()


def _context() -> MPContext:
    """This thread's own mpmath context: the global one keeps its precision."""
    if not hasattr(_local, "mp"):
        from mpmath import MPContext

        _local.mp = MPContext()
        _local.mp.dps = DIGITS
    return _local.mp


def compare_values(a: Node, b: Node, point: Callable[[str], Fraction]) -> bool | None:
    """Equality of two trees by their values at one point; None where rounding leaves it open.

    Raises:
        NoValue: a tree has no value there.
    """
    fields = Numerics(point), Numerics(point)
    x, y = evaluate(a, fields[0]), evaluate(b, fields[1])
    ten = _context().mpf(10)
    gap, size = abs(x - y), max(abs(x), abs(y))
    rounding = max(field.largest for field in fields) * ten ** -(DIGITS - 12)
    if gap > rounding and gap > size * ten**-CLOSE_DIGITS:
        return False
    readable = rounding * 10**5 <= min(field.smallest for field in fields)
    return True if gap <= rounding and readable else None


def real_value(node: Node) -> Any:
    """The value of a tree without symbols as a real number of `DIGITS` digits.

    Raises:
        NoValue: not real, symbolic or over budget.
    """
    value = evaluate(node, Numerics(_no_symbols))
    if value.imag != 0:
        raise NoValue("not real")
    return value.real
