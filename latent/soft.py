"""Soft Thinking: without training, every step of thinking feeds a mixture of the likely tokens (arXiv 2505.15778).

Defaults are those of the published runs on a 32B model, whose authors warn that small models do worse. Departure: the
mixture is deterministic, as in the paper; noise of follow-up work is left to Latent-SFT's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cot.engine import Engine, Step
from cot.engines.sampling import keep_likely
from cot.method import Method
from cot.phases import think_tags
from eval_math.errors import BadInput
from eval_math.records import Request, Sampling, Trace

from .rules import mixture
from .thinking import opened, thinking_by


@dataclass
class Calm:
    """Steps in a row in which the model was sure."""

    steps: int = 0


@dataclass(frozen=True)
class SoftThinker:
    """Takes the steps; ``table`` is the input embedding (vocabulary, d)."""

    how: SoftThinking
    table: Tensor
    start_id: int
    end_id: int

    def open(self, request: Request, prompt_ids: Sequence[int]) -> Calm | None:
        """A new count."""
        return Calm() if prompt_ids[-1] == self.start_id else None

    def steps(self, hidden: Tensor, logits: Tensor, states: Sequence[Calm]) -> list[Step]:
        """The mixture, or the end tag where it is the likeliest or the model has been sure for long (cold stop)."""
        weights, ids = self.how.likely(logits)
        entropy = -(weights * weights.clamp(min=1e-12).log()).sum(-1)
        for state, calm in zip(states, (entropy < self.how.entropy).tolist(), strict=True):
            state.steps = state.steps + 1 if calm else 0
        feeds = mixture(self.table, ids, weights)
        first = ids[:, 0].tolist()
        return [
            Step(self.end_id) if top == self.end_id or state.steps >= self.how.patience else Step(None, feed)
            for top, state, feed in zip(first, states, feeds, strict=True)
        ]


@dataclass(frozen=True)
class SoftThinking(Method):
    """Mixtures of likely tokens as thoughts, without training."""

    name: ClassVar[str] = "soft"
    summary: ClassVar[str] = "mixtures of likely tokens as thoughts, without training (Soft Thinking)"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "latent"})

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

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Let the mixtures take the steps."""
        start, end = tag_ids(engine)
        return thinking_by(engine, lambda model: SoftThinker(self, model.get_input_embeddings().weight, start, end))

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """Prompts that do not end with the start tag are given one."""
        start = tag_ids(engine)[0]
        return engine.generate(opened(engine, request, start) for request in requests)


def tag_ids(engine: Engine) -> tuple[int, int]:
    """Ids of the start and end tag.

    Raises:
        BadInput: the tokenizer spells them with several tokens.
    """
    ids = [engine.encode(tag) for tag in think_tags(engine)]
    if any(len(each) != 1 for each in ids):
        raise BadInput("the tokenizer has no tokens of their own for the think tags; latent thoughts need them")
    return ids[0][0], ids[1][0]
