"""Soft Thinking: without training, every step of thinking feeds a mixture of the likely tokens (arXiv 2505.15778).

Defaults are those of the published runs on a 32B model, whose authors warn that small models do worse. Departure: the
mixture is deterministic, as in the paper; noise of follow-up work is left to Latent-SFT's rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cot.engine import Step
from cot.engines.sampling import keep_likely
from eval_math.errors import BadInput
from eval_math.records import Request, Sampling

from .rules import mixture
from .untrained import Tags, Untrained


@dataclass
class Calm:
    """Steps in a row in which the model was sure."""

    steps: int = 0


@dataclass(frozen=True)
class SoftThinker:
    """Takes the steps; ``table`` is the input embedding (vocabulary, d)."""

    how: SoftThinking
    table: Tensor
    tags: Tags

    def open(self, request: Request, prompt_ids: Sequence[int]) -> Calm | None:
        """A new count."""
        return Calm() if prompt_ids[-1] == self.tags.start_id else None

    def steps(self, hidden: Tensor, logits: Tensor, states: Sequence[Calm]) -> list[Step]:
        """The mixture, or the end tag where it is the likeliest or the model has been sure for long (cold stop)."""
        weights, ids = self.how.likely(logits)
        entropy = -(weights * weights.clamp(min=1e-12).log()).sum(-1)
        for state, calm in zip(states, (entropy < self.how.entropy).tolist(), strict=True):
            state.steps = state.steps + 1 if calm else 0
        feeds = mixture(self.table, ids, weights)
        first, end = ids[:, 0].tolist(), self.tags.end_id
        return [
            Step(end) if top == end or state.steps >= self.how.patience else Step(None, feed)
            for top, state, feed in zip(first, states, feeds, strict=True)
        ]


@dataclass(frozen=True)
class SoftThinking(Untrained):
    """Mixtures of likely tokens as thoughts, without training."""

    name: ClassVar[str] = "soft"
    summary: ClassVar[str] = "mixtures of likely tokens as thoughts, without training (Soft Thinking)"

    temperature: float = 0.6
    """Of the distribution that is mixed."""
    top_k: int = 10
    """Tokens of a mixture."""
    top_p: float = 0.95
    min_p: float = 0.001
    entropy: float = 0.01
    """Nats below which a step counts as sure."""
    patience: int = 256
    """So many sure steps in a row end the thinking."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.top_k < 1 or self.patience < 1:
            raise BadInput(
                f"soft: temperature={self.temperature}, top_k={self.top_k}, patience={self.patience}: above 0 expected"
            )

    def likely(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and ids (rows, k) of the likely tokens, the likeliest first."""
        how = Sampling(temperature=self.temperature, top_p=self.top_p, min_p=self.min_p)
        kept = keep_likely(logits.float() / self.temperature, how)
        weights, ids = kept.softmax(-1).topk(min(self.top_k, logits.shape[-1]), -1)
        return weights / weights.sum(-1, keepdim=True), ids

    def thinker(self, table: Tensor, tags: Tags) -> SoftThinker:
        """Mixtures take the steps."""
        return SoftThinker(self, table, tags)
