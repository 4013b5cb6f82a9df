"""Rules of forgetting that others are measured against, all with one budget, prompt protected or not.

A row that holds ``budget + every`` states beyond what is protected forgets down to ``budget``: the newest ``recent``
stay, the rest are those that score highest, by head.

    streaming  the newest alone (StreamingLLM, arXiv 2309.17453; positions stay what they were, not re-counted)
    h2o        attention received so far, over the queries that could see the key (arXiv 2306.14048; the paper's sum
               favours old keys, and RLKV's re-implementation scores prompts without a causal mask)
    snapkv     attention of the newest queries, maximum over 7 neighbours (arXiv 2404.14469, applied while decoding)
    r-kv       0.1 * attention - 0.9 * redundancy of keys (arXiv 2505.24133)
    random-kv  at random, by head: the null baseline (arXiv 2609.03430)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from eval_math.errors import BadInput

from .forgetting import Forgetting

if TYPE_CHECKING:
    from torch import Tensor

    from .eviction import Past

OBSERVED = 32
SIMILAR = 0.5
"""Cosine above which R-KV calls keys near-duplicates."""


@dataclass(frozen=True)
class BudgetRule(Forgetting):
    """A budget of states by row; see `Evicts`, which it is itself."""

    budget: int = 1024
    """States kept beside the protected ones."""
    every: int = 128
    """So many more are gathered before the next round."""
    recent: int = 32
    """Newest states that are never forgotten."""
    protect: bool = True
    """Keep the prompt; without it the first ``sink`` tokens alone."""
    sink: int = 4

    weighs: ClassVar[bool] = False
    observed: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.budget <= self.recent or self.every < 1 or self.recent < 1 or self.sink < 0:
            raise BadInput(
                f"{self.name}: budget={self.budget}, every={self.every}, recent={self.recent}, sink={self.sink}: a "
                "budget above recent, and at least 1, 1 and 0 are expected"
            )

    @property
    def queries(self) -> int:
        """Newest queries that are looked at."""
        return self.observed

    def rule(self) -> BudgetRule:
        """Itself."""
        return self

    def first(self, prompt: int) -> int:
        """States at the start that are protected."""
        return prompt if self.protect else min(prompt, self.sink)

    def due(self, held: int, prompt: int, rounds: int) -> bool:
        """Budget and room are full."""
        return held - self.first(prompt) >= self.budget + self.every

    def keep(self, past: Past) -> Tensor:
        """What is protected, the best, the newest."""
        from .key_scores import around, best

        first, n = self.first(past.prompt), past.keys.shape[1]
        chosen = best(self.scores(past)[:, first : n - self.recent], self.budget - self.recent)
        return around(first, chosen, self.recent, n)

    @abstractmethod
    def scores(self, past: Past) -> Tensor:
        """Of all states (KV heads, n): the higher, the longer it stays."""


@dataclass(frozen=True)
class Streaming(BudgetRule):
    """The newest stay."""

    name: ClassVar[str] = "streaming"
    summary: ClassVar[str] = "the KV cache keeps the prompt and the newest tokens (StreamingLLM)"

    def scores(self, past: Past) -> Tensor:
        """Position."""
        import torch

        heads, n, _ = past.keys.shape
        return torch.arange(n, device=past.keys.device).expand(heads, n)


@dataclass(frozen=True)
class RandomKept(BudgetRule):
    """The null baseline."""

    name: ClassVar[str] = "random-kv"
    summary: ClassVar[str] = "the KV cache forgets at random: the null baseline of the others"

    seed: int = 0

    def scores(self, past: Past) -> Tensor:
        """Uniform draws, by head, by layer and round."""
        import torch

        heads, n, _ = past.keys.shape
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + past.seed * 10_007 + past.rounds)
        return torch.rand(heads, n, generator=generator).to(past.keys.device)


@dataclass(frozen=True)
class HeavyHitters(BudgetRule):
    """Keys that got attention stay."""

    name: ClassVar[str] = "h2o"
    summary: ClassVar[str] = "the KV cache keeps what got attention so far (H2O)"
    weighs: ClassVar[bool] = True

    def scores(self, past: Past) -> Tensor:
        """Attention received, over the steps in which the key was there."""
        import torch

        n = past.keys.shape[1]
        age = torch.arange(n, 0, -1, device=past.weights.device)
        return past.weights / age.clamp(max=n - past.prompt + 1)


@dataclass(frozen=True)
class SnapKv(BudgetRule):
    """Keys that the newest queries ask for stay."""

    name: ClassVar[str] = "snapkv"
    summary: ClassVar[str] = "the KV cache keeps what the newest queries ask for (SnapKV while decoding)"
    observed: ClassVar[int] = OBSERVED

    def scores(self, past: Past) -> Tensor:
        """Attention of the newest queries, by KV head, pooled."""
        from .key_scores import attention_of, strongest

        return strongest(attention_of(past.queries, past.keys).sum(2).mean(1), 7)


@dataclass(frozen=True)
class RedundancyAware(BudgetRule):
    """Keys that are asked for and not doubled stay."""

    name: ClassVar[str] = "r-kv"
    summary: ClassVar[str] = "the KV cache drops what is redundant (R-KV)"
    observed: ClassVar[int] = 8

    importance: float = 0.1
    """Weight of attention beside 1 minus it of redundancy."""

    def scores(self, past: Past) -> Tensor:
        """Weighted attention minus redundancy."""
        from .key_scores import attention_of, strongest

        asked = strongest(attention_of(past.queries, past.keys).mean(2).mean(1), 7)
        return self.importance * asked - (1 - self.importance) * redundancy(past.keys)


def redundancy(keys: Tensor) -> Tensor:
    """How much ``keys`` (heads, n, width) are like others, softmax over n; a key's newest near-duplicate is spared."""
    import torch

    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    like = unit @ unit.mT
    like.diagonal(dim1=-2, dim2=-1).zero_()
    near = like > SIMILAR
    newest = like.shape[-1] - 1 - near.flip(-1).int().argmax(-1)
    spared = torch.zeros_like(near).scatter_(-1, newest[..., None], near.any(-1, keepdim=True))
    return like.masked_fill(spared, 0.0).mean(-2).softmax(-1)
