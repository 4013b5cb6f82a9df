"""Reasoning Path Compression: the generated part of the cache is compressed periodically (arXiv 2505.13866).

After every P generated tokens all candidates (what was generated, but for the newest R) are scored by the attention of
the newest R queries, and a growing number is kept: a share 1/c of all that was generated. Softmax over the candidates
alone, mean over all heads of a layer, average over 7 neighbours.

Departures: R distinct queries (the released code has R - 1, the newest twice); rows are compressed when they are due,
each by its own count; ``aggregation=group`` gives each KV head its own tokens; the code's `none` does not run there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from eval_math.errors import BadInput

from .forgetting import Forgetting
from .planner import RpcPlan

if TYPE_CHECKING:
    from torch import Tensor

    from .eviction import Past


@dataclass(frozen=True)
class Rpc(Forgetting):
    """What was generated is compressed by c after every P tokens."""

    name: ClassVar[str] = "rpc"
    summary: ClassVar[str] = "the generated part of the KV cache is compressed periodically (RPC)"

    interval: int = 4096
    """P, generated tokens between two compressions."""
    ratio: int = 4
    """c, of which one in so many is kept."""
    newest: int = 32
    """R, tokens that are always kept; their queries choose the others."""
    pool: int = 7
    """Neighbours that share a score."""
    aggregation: Literal["all", "group"] = "all"
    """One choice for all heads of a layer, or one for each KV head."""

    def __post_init__(self) -> None:
        RpcPlan(self.interval, self.ratio, self.newest)
        if self.pool < 1 or self.pool % 2 == 0:
            raise BadInput(f"rpc: pool={self.pool}: an odd number is expected")

    def rule(self) -> RpcRule:
        """See `RpcRule`."""
        return RpcRule(self)


@dataclass(frozen=True)
class RpcRule:
    """See `Evicts`."""

    weighs: ClassVar[bool] = False

    how: Rpc

    @property
    def queries(self) -> int:
        """R."""
        return self.how.newest

    @property
    def each(self) -> int:
        """Tokens kept of each interval."""
        return self.how.interval // self.how.ratio

    def due(self, held: int, prompt: int, rounds: int) -> bool:
        """An interval is full."""
        return held - prompt - rounds * self.each - self.how.newest >= self.how.interval

    def keep(self, past: Past) -> Tensor:
        """Prompt, the best candidates, the newest."""
        from .key_scores import around, best

        n = past.keys.shape[1]
        chosen = best(self.scores(past), (past.rounds + 1) * self.each)
        return around(past.prompt, chosen, self.how.newest, n)

    def scores(self, past: Past) -> Tensor:
        """Of the candidates: (n,), or (KV heads, n) with ``aggregation=group``."""
        from .key_scores import attention_of, averaged

        candidates = past.keys[:, past.prompt : past.keys.shape[1] - self.how.newest]
        by_head = attention_of(past.queries, candidates).sum(2).mean(1)
        scores = by_head.mean(0, keepdim=True) if self.how.aggregation == "all" else by_head
        pooled = averaged(scores, self.how.pool)
        return pooled[0] if self.how.aggregation == "all" else pooled
