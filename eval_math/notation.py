"""Names in mathematical notation: tables shared by extraction, normal form and parser."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CIRCULAR = _words("sin cos tan cot sec csc")
_HYPERBOLIC = _words("sinh cosh tanh coth")
_INVERTIBLE = (_CIRCULAR | _HYPERBOLIC) - {"coth"}

TRIGONOMETRIC = _CIRCULAR
FUNCTIONS: dict[str, str] = {
    **{name: name for name in sorted(_CIRCULAR | _HYPERBOLIC | {"ln", "log", "exp"})},
    **{f"arc{name}": f"a{name}" for name in sorted(_INVERTIBLE)},
    **{f"a{name}": f"a{name}" for name in sorted(_INVERTIBLE)},
    **{f"ar{name}": f"a{name}" for name in sorted(_HYPERBOLIC - {"coth"})},
}
"""Function names as written -> as evaluated."""
INVERSES = frozenset(f"a{name}" for name in _INVERTIBLE)
GREEK = _words(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma tau phi varphi "
    "chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar emptyset varnothing"
)
CONSTANTS = {
    "\\pi": "pi", "pi": "pi", "e": "e", "i": "i", "\\infty": "inf", "inf": "inf", "infinity": "inf", "oo": "inf"
}  # fmt: skip
RELATIONS = {"=": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\in": "in", "\\equiv": "=="}
MATH_WORDS = frozenset(FUNCTIONS) | _words("and or pi sqrt inf infinity oo")
"""Plain words that belong to an expression, not to prose."""
UNITS = _words(
    "mm cm dm km kg mg lb lbs oz ft yd mi mph hr hrs min sec am pm sq cu ml deg rad hz kw mw inch in day days cents "
    "cent usd eur gal pts units unit"
)
SHORT_WORDS = _words("yes odd two one six ten red sum all mon tue wed thu fri sat sun jan feb mar may jun")
"""Words of three letters that are answers."""
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
