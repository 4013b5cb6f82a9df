"""Heads that see only a window of the past: the null surgery of head-wise cache compression, and its oracle.

A KV head in `heads` sees key j from query i if j <= i and (j < sink or j > i - recent), counted from the first real
token: sink + recent keys, the query's own among them. Nothing is saved here; the cache stays whole and the attention
mask hides what a compressed one would have dropped. See RLKV (arXiv 2510.08525), equation of M_local.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cot.engine import Engine, ModelAccess
from cot.method import Method
from eval_math.errors import BadInput
from steering.sites import find_blocks

if TYPE_CHECKING:
    import torch

Head = tuple[int, int]
"""(layer, KV head), both from 0."""


@dataclass(frozen=True)
class WindowedHeads(Method):
    """Some KV heads see only the first ``sink`` and the last ``recent`` tokens, the query's own included."""

    name: ClassVar[str] = "windowed-heads"
    summary: ClassVar[str] = "chosen KV heads see a window only (nothing is saved: an ablation)"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "capture"})

    heads: tuple[Head, ...] = ()
    sink: int = 4
    recent: int = 16

    def __post_init__(self) -> None:
        if self.sink < 0 or self.recent < 1:
            raise BadInput(
                f"windowed-heads: sink={self.sink}, recent={self.recent}; 0 or more and 1 or more are expected"
            )

    def check(self, engine: Engine) -> None:
        """Refuse an engine whose attention cannot be masked by head, and heads that the model lacks.

        Raises:
            BadInput: names what was given and what the model has.
        """
        layers, heads = head_grid(engine)
        wrong = [head for head in self.heads if not (0 <= head[0] < layers and 0 <= head[1] < heads)]
        if wrong:
            raise BadInput(
                f"windowed-heads: (layer, head) {wrong[0]} given; the model has layers 0 ... {layers - 1} "
                f"with KV heads 0 ... {heads - 1}"
            )

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Mask the heads for the length of a ``with`` block."""
        return self._masked(engine)

    @contextmanager
    def _masked(self, engine: Engine) -> Iterator[None]:
        self.check(engine)
        handles = _access(engine).apply_model(self._hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, model: Any) -> list[Any]:
        by_layer: Mapping[int, list[int]] = defaultdict(list)
        for layer, head in self.heads:
            by_layer[layer].append(head)
        config = model.config.get_text_config()
        group = config.num_attention_heads // config.num_key_value_heads
        blocks: Any = find_blocks(model)
        handles = []
        for layer, heads in by_layer.items():
            queries = [head * group + i for head in heads for i in range(group)]
            masking = _Masking(queries, config.num_attention_heads, layer, self.sink, self.recent)
            handles.append(blocks[layer].self_attn.register_forward_pre_hook(masking, with_kwargs=True))
        return handles


def head_grid(engine: Engine) -> tuple[int, int]:
    """(layers, KV heads per layer) of the engine's model.

    Raises:
        BadInput: the model is not a transformers model in this process.
    """

    def shape(model: Any) -> tuple[int, int] | None:
        from transformers import PreTrainedModel

        if not isinstance(model, PreTrainedModel):
            return None
        return len(find_blocks(model)), int(model.config.get_text_config().num_key_value_heads)

    found = _access(engine).apply_model(shape)
    if found is None:
        raise BadInput(f"engine {engine.identity.engine!r}: attention cannot be masked by head there; use engine hf")
    return found


def window_mask(visible: torch.Tensor, sink: int, recent: int) -> torch.Tensor:
    """``visible`` (rows, queries, keys) bool with only sink and recent keys left.

    The last query's position is the last key; a row's first visible key is its first real token.
    """
    import torch

    queries, keys = visible.shape[-2:]
    column = torch.arange(keys, device=visible.device)
    first = visible[:, -1].int().argmax(-1)
    own = column[keys - queries :]
    near = column[None, :] > own[:, None] - recent
    return visible & ((column < first[:, None] + sink)[:, None, :] | near[None])


@dataclass(frozen=True)
class _Masking:
    """Forward pre-hook of one attention module: a mask by head in the place of the one for all heads."""

    queries: Sequence[int]
    n_heads: int
    layer: int
    sink: int
    recent: int

    def __call__(self, module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        import torch

        hidden = arguments[0] if arguments else keywords["hidden_states"]
        given = keywords.get("attention_mask")
        rows, queries = hidden.shape[:2]
        if given is None:
            cache = keywords.get("past_key_values")
            keys = queries + (cache.get_seq_length(self.layer) if cache is not None else 0)
            visible = torch.ones(queries, keys, dtype=torch.bool, device=hidden.device).tril(keys - queries)
            visible = visible.expand(rows, -1, -1)
        else:
            visible = (given if given.dtype == torch.bool else given == 0)[:, 0].expand(rows, -1, -1)
        by_head = visible[:, None].repeat(1, self.n_heads, 1, 1)
        by_head[:, list(self.queries)] = window_mask(visible, self.sink, self.recent)[:, None]
        if given is not None and given.dtype != torch.bool:
            by_head = torch.zeros_like(by_head, dtype=given.dtype).masked_fill(~by_head, torch.finfo(given.dtype).min)
        return arguments, {**keywords, "attention_mask": by_head}


def _access(engine: Engine) -> ModelAccess:
    if not isinstance(engine, ModelAccess):
        raise BadInput(f"engine {engine.identity.engine!r}: its model is not in this process; use engine hf")
    return engine
