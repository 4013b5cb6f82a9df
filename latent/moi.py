"""Mixture of Inputs: a token is drawn as usual, and a mixture around it is fed (arXiv 2505.14827); without training.

With prior the distribution of the ``top_n`` likeliest tokens and H its entropy over log n, the input is
``H * sum_j (prior_j + beta 1[j = y]) / (1 + beta) E_j + (1 - H) E_y`` for the drawn token y, as the released code has
it. Length does not shrink by design: what may change is accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cot.engine import Step
from cot.engines.sampling import Chooser, choose
from eval_math.errors import BadInput
from eval_math.records import Request

from .rules import mixture
from .untrained import Tags, Untrained


@dataclass
class Drawing:
    """A request's own draws, and what it has said so far."""

    chooser: Chooser
    prompt: Sequence[int]
    said: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class InputMixer:
    """Takes the steps; ``table`` is the input embedding (vocabulary, d)."""

    how: MixtureOfInputs
    table: Tensor
    tags: Tags

    def open(self, request: Request, prompt_ids: Sequence[int]) -> Drawing | None:
        """A request with its draws."""
        return Drawing(Chooser.of(request.sampling), prompt_ids) if prompt_ids[-1] == self.tags.start_id else None

    def steps(self, hidden: Tensor, logits: Tensor, states: Sequence[Drawing]) -> list[Step]:
        """The drawn token and its mixture; the end tag ends the mixing."""
        seen = [[*state.prompt, *state.said] for state in states]
        tokens = choose(logits, [state.chooser for state in states], seen)
        feeds = self.how.inputs(self.table, logits, torch.tensor(tokens, device=logits.device))
        for state, token in zip(states, tokens, strict=True):
            state.said.append(token)
        return [
            Step(token) if token == self.tags.end_id else Step(token, feed)
            for token, feed in zip(tokens, feeds, strict=True)
        ]


@dataclass(frozen=True)
class MixtureOfInputs(Untrained):
    """Each drawn token of the thinking is fed with a mixture around it."""

    name: ClassVar[str] = "moi"
    summary: ClassVar[str] = "tokens are drawn, mixtures around them fed (Mixture of Inputs)"

    beta: float = 1.0
    """Weight of the drawn token in the mixture."""
    top_n: int = 10
    """Tokens of the mixture."""

    def __post_init__(self) -> None:
        if self.beta < 0 or self.top_n < 2:
            raise BadInput(f"moi: beta={self.beta}, top_n={self.top_n}: beta from 0 and top_n from 2 are expected")

    def inputs(self, table: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
        """What is fed (rows, d) for drawn ``tokens`` (rows,)."""
        scores, ids = logits.float().topk(min(self.top_n, logits.shape[-1]), -1)
        prior = scores.softmax(-1)
        entropy = -(prior * prior.clamp(min=1e-12).log()).sum(-1, keepdim=True) / math.log(prior.shape[-1])
        drawn = table[tokens].float()
        around = mixture(table.float(), ids, prior) + self.beta * drawn
        return (entropy * around / (1 + self.beta) + (1 - entropy) * drawn).to(table.dtype)

    def thinker(self, table: Tensor, tags: Tags) -> InputMixer:
        """The mixer takes the steps."""
        return InputMixer(self, table, tags)
