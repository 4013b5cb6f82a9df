"""Counts and distributions of a rewriting job, gathered row by row in memory that does not grow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from eval_math.records import Json

from .records import Outcome, SourceRow

RATIO_STEP = 0.01
LENGTH_BUCKETS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass
class Distribution:
    """Values in bins of ``step``: quantiles are exact to one bin."""

    step: float
    bins: Counter[int] = field(default_factory=Counter)
    total: float = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.bins[int(value / self.step)] += 1
        self.total += value

    @property
    def n(self) -> int:
        """How many values there are."""
        return self.bins.total()

    def quantile(self, share: float) -> float | None:
        """The value below which ``share`` of all lie, to one bin; None without values."""
        if not self.n:
            return None
        left = share * (self.n - 1)
        for place in sorted(self.bins):
            left -= self.bins[place]
            if left < 0:
                return round(place * self.step, 6)
        raise AssertionError("the bins hold every value")

    def figures(self) -> dict[str, Json]:
        """n, mean, median and the 5th and 95th percentile."""
        mean = self.total / self.n if self.n else None
        return {
            "n": self.n,
            "mean": mean,
            "p5": self.quantile(0.05),
            "median": self.quantile(0.5),
            "p95": self.quantile(0.95),
        }


@dataclass
class JobStats:
    """What a dataset card and a report say about a job."""

    sources: int = 0
    duplicates: int = 0
    unfinished: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    """Dataset rows by condition."""
    splits: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    rejected_attempts: int = 0
    gates: Counter[str] = field(default_factory=Counter)
    """Rejections by gate; an attempt can fail at several."""
    errors: Counter[str] = field(default_factory=Counter)
    ratios: dict[str, Distribution] = field(default_factory=dict)
    """Kept ratio by condition."""
    thinking: dict[str, Distribution] = field(default_factory=dict)
    """Thinking tokens by condition."""
    figures: dict[str, Distribution] = field(default_factory=dict)
    """Numbers that the rewriter notes about each source row."""
    kept_by_length: Counter[int] = field(default_factory=Counter)
    seen_by_length: Counter[int] = field(default_factory=Counter)
    kept_by_level: Counter[str] = field(default_factory=Counter)
    seen_by_level: Counter[str] = field(default_factory=Counter)

    def add(self, row: SourceRow, outcome: Outcome) -> None:
        """Note what became of one source row."""
        self.statuses[outcome.status] += 1
        self.attempts += len(outcome.attempts)
        for attempt in outcome.attempts:
            self.rejected_attempts += bool(attempt.rejections)
            self.gates.update({rejection.gate for rejection in attempt.rejections})
        if outcome.error:
            self.errors[outcome.error.split(":")[0][:80]] += 1
        for made in outcome.rows:
            self.rows[made.condition or "rewritten"] += 1
            name = made.condition or "rewritten"
            self.ratios.setdefault(name, Distribution(RATIO_STEP)).add(made.kept_ratio)
            self.thinking.setdefault(name, Distribution(1)).add(made.n_thinking_tokens)
        for name, value in outcome.figures.items():
            if isinstance(value, int | float):
                self.figures.setdefault(name, Distribution(0.001)).add(float(value))
        self._note_acceptance(row, outcome)

    def _note_acceptance(self, row: SourceRow, outcome: Outcome) -> None:
        if outcome.status in ("excluded", "error"):
            return
        bucket = next((each for each in LENGTH_BUCKETS if outcome.n_source_tokens <= each), LENGTH_BUCKETS[-1] * 2)
        level = str(row.problem.level) if row.problem.level is not None else "unknown"
        self.seen_by_length[bucket] += 1
        self.seen_by_level[level] += 1
        if outcome.status == "kept":
            self.kept_by_length[bucket] += 1
            self.kept_by_level[level] += 1

    def to_json(self) -> dict[str, Json]:
        """All of it, readable by machines."""
        return {
            "sources": self.sources,
            "duplicates": self.duplicates,
            "unfinished": self.unfinished,
            "statuses": _sorted(self.statuses),
            "rows": _sorted(self.rows),
            "splits": _sorted(self.splits),
            "attempts": self.attempts,
            "rejected_attempts": self.rejected_attempts,
            "gates": _sorted(self.gates),
            "errors": _sorted(self.errors),
            "kept_ratio": {name: each.figures() for name, each in sorted(self.ratios.items())},
            "thinking_tokens": {name: each.figures() for name, each in sorted(self.thinking.items())},
            "figures": {name: each.figures() for name, each in sorted(self.figures.items())},
            "accepted_by_length": {
                f"<={bucket}": [self.kept_by_length[bucket], n] for bucket, n in sorted(self.seen_by_length.items())
            },
            "accepted_by_level": {
                level: [self.kept_by_level[level], n] for level, n in sorted(self.seen_by_level.items())
            },
        }


def _sorted(counter: Counter[str]) -> dict[str, Json]:
    return dict(sorted(counter.items()))
