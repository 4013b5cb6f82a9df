"""The grader as a reward function for reinforcement learning, in the shape that TRL's trainers call.

It imports nothing of TRL: ``GRPOTrainer(reward_funcs=MathReward("gsm8k"), ...)`` on a dataset with a column of
reference answers is all. Safe in threads and with any number of trainers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import BadInput
from .grading import GradingItem, Verdict, grade_many
from .policies import policy_for
from .records import STATUSES

Completion = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class MathReward:
    """1 for a correct answer, 0 for a wrong, missing or timed-out one, None where the reference cannot be read.

    TRL leaves samples with None out. The share of each verdict is logged apart (``grader/unparsable`` and so on): a
    policy that stops writing answers shows there, not as worse reasoning.
    """

    benchmark: str = "auto"
    """Policy of the grader: auto, gsm8k, math500, aime24, ..."""
    gold: str = "answer"
    """Column of the dataset with the reference answers."""
    workers: int = 2
    """Symbolic comparisons beside each other."""

    def __post_init__(self) -> None:
        policy_for(self.benchmark)

    @property
    def __name__(self) -> str:
        """What trainers call this reward in their logs."""
        return "math_reward"

    def __call__(
        self,
        completions: Sequence[Completion],
        *,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of ``completions`` (texts, or lists of messages whose last one counts), in their order.

        Raises:
            BadInput: the dataset has no column called as `gold`.
        """
        golds = columns.get(self.gold)
        if golds is None or len(golds) != len(completions):
            known = ", ".join(sorted(columns)) or "none"
            raise BadInput(f"no column {self.gold!r} with one reference per completion; columns given: {known}")
        verdicts = self.grade(completions, golds)
        if log_metric is not None:
            _log_shares(verdicts, log_metric)
        if log_extra is not None:
            log_extra("extracted", [verdict.extracted for verdict in verdicts])
            log_extra("verdict", [verdict.status for verdict in verdicts])
        return [verdict.reward for verdict in verdicts]

    def grade(self, completions: Sequence[Completion], golds: Sequence[str | list[str]]) -> list[Verdict]:
        """The verdicts themselves, for rewards that add more to them."""
        items = [
            GradingItem(_text(completion), _reference(gold), self.benchmark)
            for completion, gold in zip(completions, golds, strict=True)
        ]
        return list(grade_many(items, workers=self.workers))


def _reference(gold: Any) -> str | list[str]:
    """A column's value as the grader takes it; None and NaN, as tables write what is missing, are no reference."""
    if isinstance(gold, list | tuple):
        return [str(one) for one in gold if one is not None and one == one]  # noqa: PLR0124
    missing = gold is None or gold != gold  # noqa: PLR0124
    return "" if missing else str(gold)


def _text(completion: Completion) -> str | None:
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else None


def _log_shares(verdicts: Sequence[Verdict], log_metric: Callable[[str, float], None]) -> None:
    if not verdicts:
        return
    count = Counter(verdict.status for verdict in verdicts)
    for status in STATUSES:
        log_metric(f"grader/{status}", count[status] / len(verdicts))
    log_metric("grader/truncated", sum(verdict.truncated for verdict in verdicts) / len(verdicts))
