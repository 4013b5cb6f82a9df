"""Grading policies: which extraction rules apply, in which order, and how strictly two numbers are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import BadInput

Rule = Literal["hash", "box", "phrase", "whole", "math_span", "number", "last"]

FALLBACK_RULES: frozenset[str] = frozenset({"math_span", "number", "last"})


@dataclass(frozen=True)
class Policy:
    """How the outputs of one family of benchmarks are read and compared."""

    name: str
    rules: tuple[Rule, ...]
    """Extraction rules in order; the first that finds something wins."""
    numeric: bool = False
    """The answer is one number: phrases and ``####`` lines are cut down to the number in them."""
    fallback: bool = True
    """Allow the rules of `FALLBACK_RULES` (last math span, last number, the later of both)."""
    significant_digits: int = 4
    """A rounded decimal equals an exact number if it has at least so many digits and all agree; 0 = never."""
    relative_tolerance: float = 0.0
    """Two numbers this close are equal; 0 = exact."""
    integer_range: tuple[int, int] | None = None
    """The answer must be an integer within these bounds, else it is unparsable."""
    percent: bool = True
    """``28\\%`` equals 28 and 0.28."""
    symbolic: bool = True
    """Ask the symbolic tier about what the cheaper tiers cannot decide."""
    limit_seconds: float = 2.0
    """Wall time of the symbolic tier for one pair, from when its work starts."""
    memory_mib: int = 1024
    """Address space of a symbolic worker."""
    think_start: str = "<think>"
    think_end: str = "</think>"


_NUMBER = Policy("gsm8k", ("hash", "box", "phrase", "number"), numeric=True, significant_digits=0)
_MATH = Policy("math", ("box", "phrase", "math_span"))
_AIME = Policy(
    "aime",
    ("box", "phrase", "number"),
    numeric=True,
    significant_digits=0,
    integer_range=(0, 999),
    percent=False,
    symbolic=False,
)
_GSM_HARD = Policy("gsm-hard", _NUMBER.rules, numeric=True, significant_digits=0, relative_tolerance=1e-4)
_AUTO = Policy("auto", ("hash", "box", "phrase", "whole", "last"))

POLICIES: Mapping[str, Policy] = {
    "auto": _AUTO,
    "gsm8k": _NUMBER,
    "gsm8k-aug": _NUMBER,
    "gsm-hard": _GSM_HARD,
    "svamp": _NUMBER,
    "multiarith": _NUMBER,
    "embedded": _NUMBER,
    "math": _MATH,
    "math500": _MATH,
    "aime": _AIME,
    "aime24": _AIME,
    "aime25": _AIME,
}


def policy_for(benchmark: str) -> Policy:
    """The policy of a benchmark; ``_`` and case do not matter.

    Raises:
        BadInput: unknown name; lists the known ones.
    """
    policy = find_policy(benchmark)
    if policy is None:
        raise BadInput(f"benchmark {benchmark!r} has no grading policy; known: {', '.join(sorted(POLICIES))}")
    return policy


def find_policy(benchmark: str) -> Policy | None:
    """As `policy_for`, but None for an unknown name."""
    return POLICIES.get(benchmark.strip().lower().replace("_", "-"))
