"""Equal accuracy, and how many problems it takes to tell: non-inferiority and power of paired comparisons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from .errors import BadInput
from .statistics import Interval

MARGIN = 0.02
"""Accuracy that a shorter trace may cost and still count as equally accurate; state it with the result."""

Equality = Literal["kept", "lost", "open"]


def equality(difference: Interval, margin: float = MARGIN) -> Equality:
    """Is accuracy kept to within ``margin`` (a fraction)? One-sided at 2.5% where the interval is of 95%.

    ``kept``: the whole interval lies above -margin (non-inferior). ``lost``: all of it lies below. ``open``: the data
    allow both; more problems are needed (`problems_needed`).

    Raises:
        BadInput: a negative margin.
    """
    if not margin >= 0:
        raise BadInput(f"equality: margin {margin}; a fraction from 0 is expected, 0.02 for two points")
    if difference.low > -margin:
        return "kept"
    return "lost" if difference.high < -margin else "open"


@dataclass(frozen=True)
class Power:
    """How sure a comparison shall be: chance to see a true difference, and chance to see one that is not there."""

    power: float = 0.8
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.power < 1 and 0 < self.alpha < 1):
            raise BadInput(f"power {self.power} at alpha {self.alpha}; both must lie between 0 and 1")


USUAL = Power()


def problems_needed(difference: float, discordant: float, power: Power = USUAL) -> int:
    """Problems that a paired comparison needs to see ``difference`` in accuracy (Connor 1987, Biometrics 43:207).

    Args:
        difference: true difference as a fraction; 0.01 is one point.
        discordant: share of problems on which the two runs differ, gained and lost together.

    Raises:
        BadInput: the difference is 0 or larger than the share of problems that differ.
    """
    size = abs(difference)
    if not 0 < size <= discordant <= 1:
        raise BadInput(
            f"problems_needed: difference {difference} with {discordant} of the problems differing; "
            "0 < |difference| <= differing share <= 1 is expected"
        )
    by_chance, by_miss = (NormalDist().inv_cdf(p) for p in (1 - power.alpha / 2, power.power))
    root = by_chance * math.sqrt(discordant) + by_miss * math.sqrt(discordant - size * size)
    return math.ceil((root / size) ** 2)


def smallest_difference(problems: int, discordant: float, power: Power = USUAL) -> float:
    """The smallest difference that ``problems`` paired problems can show; NaN if even the largest cannot be seen.

    Raises:
        BadInput: no problems, or a share outside 0..1.
    """
    if problems < 1 or not 0 < discordant <= 1:
        raise BadInput(f"smallest_difference: {problems} problems, {discordant} differing; 1 or more, 0..1 expected")
    if problems_needed(discordant, discordant, power) > problems:
        return math.nan
    low, high = 0.0, discordant
    for _ in range(60):
        middle = (low + high) / 2
        enough = problems_needed(middle, discordant, power) <= problems if middle else False
        low, high = (low, middle) if enough else (middle, high)
    return high
