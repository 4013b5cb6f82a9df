"""Counters and histograms in Prometheus' text format; labels take few values by construction, never a prompt."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass
class Counter:
    """A sum per combination of labels."""

    name: str
    about: str
    labels: tuple[str, ...] = ()
    kind: str = "counter"
    values: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Add ``by`` at these labels."""
        self.values[labels] = self.values.get(labels, 0.0) + by

    def lines(self) -> Iterator[str]:
        """The exposition of this metric."""
        yield f"# HELP {self.name} {self.about}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in (self.values or ({} if self.labels else {(): 0.0})).items():
            yield f"{self.name}{_braces(zip(self.labels, labels, strict=True))} {value:g}"


@dataclass
class Histogram:
    """How many seconds something took."""

    name: str
    about: str
    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Note one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def lines(self) -> Iterator[str]:
        """The exposition of this metric; buckets are cumulative."""
        yield f"# HELP {self.name} {self.about}"
        yield f"# TYPE {self.name} histogram"
        below = 0
        for bound, count in zip([f"{b:g}" for b in self.bounds] + ["+Inf"], self.counts, strict=True):
            below += count
            yield f'{self.name}_bucket{{le="{bound}"}} {below}'
        yield f"{self.name}_sum {self.total:.9g}"
        yield f"{self.name}_count {below}"


class Metrics:
    """All that the proxy counts."""

    def __init__(self) -> None:
        self.requests = Counter("laconic_route_requests_total", "Requests by answered status.", ("status",))
        self.decisions = Counter("laconic_route_decisions_total", "Routed requests.", ("route", "reason"))
        self.fallbacks = Counter("laconic_route_fallback_total", "Requests the router did not judge.", ("reason",))
        self.bypasses = Counter("laconic_route_bypass_total", "Requests for auto left unrouted.", ("reason",))
        self.upstream_errors = Counter("laconic_route_upstream_errors_total", "Errors upstream.", ("code",))
        self.tokens = Counter("laconic_route_tokens_total", "Tokens as the upstream counts them.", ("route", "kind"))
        self.cache = Counter("laconic_route_cache_total", "Look-ups in the cache.", ("outcome",))
        self.disconnects = Counter("laconic_route_client_disconnects_total", "Clients gone before their answer.")
        self.inflight = Counter("laconic_route_inflight", "Requests now upstream.", kind="gauge")
        self.waiting = Counter("laconic_route_waiting", "Requests now waiting for a place.", kind="gauge")
        self.router_seconds = Histogram("laconic_route_decision_seconds", "Time to decide.")
        self.first_byte_seconds = Histogram("laconic_route_first_byte_seconds", "From the call to its first byte.")
        self.upstream_seconds = Histogram("laconic_route_upstream_seconds", "From the call to its last byte.")

    def text(self) -> str:
        """What a scrape is answered."""
        return "\n".join(line for metric in vars(self).values() for line in metric.lines()) + "\n"


def _braces(pairs: Iterable[tuple[str, str]]) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
