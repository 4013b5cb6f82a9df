"""Counts and times of the proxy, as Prometheus reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0)
"""Seconds."""


@dataclass
class Histogram:
    """Times in buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str) -> list[str]:
        """Cumulative buckets, sum and count."""
        found, below = [], 0
        for limit, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{limit}"}} {below}')
        return [*found, f"{name}_sum {self.total:.6f}", f"{name}_count {below}"]


@dataclass
class Metrics:
    """All of them."""

    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By route and reason."""
    answers: Counter[int] = field(default_factory=Counter)
    """By status code."""
    upstream_errors: Counter[str] = field(default_factory=Counter)
    router_seconds: Histogram = field(default_factory=Histogram)
    first_byte_seconds: Histogram = field(default_factory=Histogram)
    inflight: int = 0

    def text(self) -> str:
        """The exposition format."""
        lines = ["# TYPE laconic_decisions_total counter"]
        lines += [
            f'laconic_decisions_total{{route="{route}",reason="{reason}"}} {count}'
            for (route, reason), count in sorted(self.decisions.items())
        ]
        lines.append("# TYPE laconic_answers_total counter")
        lines += [f'laconic_answers_total{{code="{code}"}} {count}' for code, count in sorted(self.answers.items())]
        lines.append("# TYPE laconic_upstream_errors_total counter")
        lines += [
            f'laconic_upstream_errors_total{{kind="{kind}"}} {count}'
            for kind, count in sorted(self.upstream_errors.items())
        ]
        for name, histogram in (("router", self.router_seconds), ("first_byte", self.first_byte_seconds)):
            lines += [f"# TYPE laconic_{name}_seconds histogram", *histogram.lines(f"laconic_{name}_seconds")]
        lines += ["# TYPE laconic_inflight gauge", f"laconic_inflight {self.inflight}"]
        return "\n".join(lines) + "\n"
