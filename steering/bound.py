"""How strong a vector may be: the bound on the divergence of one next-token distribution (arXiv 2507.04742, A.1).

Let ``a = ||W v||`` be the change of the logits per unit of strength, W the Jacobian of the logits at one state, and
``curvature`` L bound their second derivative along v. A strength g moves the logits by at most ``a g + L g^2 / 2``, and

    KL(p || p~) <= (1/4) ||z~ - z||^2 <= (1/4) (a g + L g^2 / 2)^2                                         (B)

since the Hessian of log-sum-exp has no eigenvalue above 1/2. The right side is a perfect square, so the largest g that
keeps it within eps has a closed form, `safe_strength`; the paper drops a term and solves a cubic, `paper_strength`.
"""

from __future__ import annotations

import math

from eval_math.errors import BadInput

_SERIES_BELOW = 1e-10
_TRIGONOMETRIC_BELOW = 4 / 27


def divergence_bound(strength: float, sensitivity: float, curvature: float) -> float:
    """The right side of (B), in nats."""
    return 0.25 * (sensitivity * strength + curvature * strength**2 / 2) ** 2


def safe_strength(sensitivity: float, curvature: float, eps: float) -> float:
    """The largest strength with `divergence_bound` <= ``eps``: 4 sqrt(eps) / (a + sqrt(a^2 + 4 L sqrt(eps))).

    Increasing in ``eps``, and divided by c where the vector is multiplied by c. Infinite where nothing moves.

    Raises:
        BadInput: a negative or non-finite argument.
    """
    _check(sensitivity, curvature, eps)
    root = math.sqrt(eps)
    below = sensitivity + math.sqrt(sensitivity**2 + 4 * curvature * root)
    return 4 * root / below if below else math.inf


def paper_strength(sensitivity: float, curvature: float, eps: float) -> float:
    """The paper's rule (eq. 11-13): never above `safe_strength`, but not monotone in ``eps``.

    With x = L g / a it solves x^3 + x^2 = 4 eps L^2 / a^4 and takes max(0, (1 - x / 4) a x / L). The printed root is
    complex for a right side below 4/27, so the trigonometric form of the same root stands in there, and the first terms
    of its series where that one cancels.

    Raises:
        BadInput: a negative or non-finite argument.
    """
    _check(sensitivity, curvature, eps)
    if curvature == 0:
        return 2 * math.sqrt(eps) / sensitivity if sensitivity else math.inf
    if sensitivity == 0:
        return (16 * eps) ** 0.25 / math.sqrt(curvature)
    x = cubic_root(4 * eps * curvature**2 / sensitivity**4)
    return max(0.0, (1 - x / 4) * sensitivity * x / curvature)


def cubic_root(beta: float) -> float:
    """The non-negative root of x^3 + x^2 = beta, for beta >= 0."""
    if beta < _SERIES_BELOW:
        return math.sqrt(beta) - beta / 2
    inside = 13.5 * beta - 1
    third = math.cos(math.acos(inside) / 3) if beta < _TRIGONOMETRIC_BELOW else math.cosh(math.acosh(inside) / 3)
    return 2 / 3 * third - 1 / 3


def fisher_strength(variance: float, eps: float) -> float:
    """The strength at which the second-order divergence g^2 Var_p(W v) / 2 is ``eps``; exact for small ones.

    Raises:
        BadInput: a negative or non-finite argument.
    """
    _check(variance, 0.0, eps)
    return math.sqrt(2 * eps / variance) if variance else math.inf


def _check(*values: float) -> None:
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise BadInput(f"strength: {values} given; sensitivity, curvature and eps are finite numbers from 0")
