"""Counts and times of the proxy, as Prometheus reads them; labels take few values, and never a prompt."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0)
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
        found, below = [f"# TYPE {name} histogram"], 0
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
    """By kind."""
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By route and kind (prompt, completion), where the upstream's answer says."""
    cache: Counter[str] = field(default_factory=Counter)
    """Look-ups by outcome."""
    hung_up: int = 0
    """Callers who left before their answer's end."""
    router_seconds: Histogram = field(default_factory=Histogram)
    first_byte_seconds: Histogram = field(default_factory=Histogram)
    upstream_seconds: Histogram = field(default_factory=Histogram)
    inflight: int = 0

    def text(self) -> str:
        """The exposition format."""
        lines = _counted("laconic_decisions_total", ("route", "reason"), self.decisions)
        lines += _counted("laconic_answers_total", ("code",), {(str(code),): n for code, n in self.answers.items()})
        errors = {(kind,): count for kind, count in self.upstream_errors.items()}
        lines += _counted("laconic_upstream_errors_total", ("kind",), errors)
        lines += _counted("laconic_tokens_total", ("route", "kind"), self.tokens)
        lines += _counted("laconic_cache_total", ("outcome",), {(kind,): n for kind, n in self.cache.items()})
        lines += ["# TYPE laconic_hung_up_total counter", f"laconic_hung_up_total {self.hung_up}"]
        lines += self.router_seconds.lines("laconic_router_seconds")
        lines += self.first_byte_seconds.lines("laconic_first_byte_seconds")
        lines += self.upstream_seconds.lines("laconic_upstream_seconds")
        return "\n".join([*lines, "# TYPE laconic_inflight gauge", f"laconic_inflight {self.inflight}"]) + "\n"


def _counted(name: str, labels: tuple[str, ...], counts: Mapping[tuple[str, ...], int]) -> list[str]:
    lines = [f"# TYPE {name} counter"]
    for values, count in sorted(counts.items()):
        inside = ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))
        lines.append(f"{name}{{{inside}}} {count}")
    return lines


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
