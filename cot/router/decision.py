"""What a router says about one question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Decision:
    """The route of one question, and what it was expected to bring."""

    route: str
    """Name of the chosen route."""
    success: Mapping[str, float]
    """Calibrated probability of a correct answer by route; empty where the router fell back."""
    tokens: Mapping[str, float]
    """Expected output tokens by route; empty where the router fell back."""
    fallback: str = ""
    """Why the router did not judge the question (`empty`, `unlike the training questions`, ...); "" if it did."""


class Decides(Protocol):
    """A router as the proxy and the method see it."""

    @property
    def routes(self) -> Sequence[str]:
        """Names of the routes, cheapest first."""
        ...

    @property
    def fallback(self) -> str:
        """The route of questions that cannot be judged."""
        ...

    def decide(self, question: str, category: str | None = None) -> Decision:
        """The route of ``question``; never raises for odd text."""
        ...
