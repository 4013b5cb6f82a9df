"""Gates between whole and local attention, one per KV head: what RLKV learns (arXiv 2510.08525, section 3).

With a gate ``a`` the output of a head is ``a * full + (1 - a) * local``, both on the same queries, keys and values
after RoPE; ``local`` sees key j from query i if j <= i and (j < sink or j > i - recent), counted from the row's first
real token. One exact window in training, rollouts and use; the released trainer works in blocks of 128.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from eval_math.errors import BadInput
from steering.sites import find_blocks

from .windows import window_mask

ATTENTION = "laconic_gates"
GATES = "kv_gates"
"""Attribute of each attention module: the gates of its layer."""


@dataclass(frozen=True)
class Window:
    """Keys that local attention sees: the first ``sink`` and the last ``recent``, the query's own among them."""

    sink: int = 16
    recent: int = 64

    def __post_init__(self) -> None:
        if self.sink < 0 or self.recent < 1:
            raise BadInput(f"sink={self.sink}, recent={self.recent}: 0 or more and 1 or more are expected")

    @property
    def size(self) -> int:
        """Keys seen at most."""
        return self.sink + self.recent

    def slots(self, positions: Tensor) -> Tensor:
        """Where positions are kept in a ring of `size` slots, the sink first."""
        return torch.where(positions < self.sink, positions, self.sink + (positions - self.sink) % self.recent)

    def positions(self, lengths: Tensor) -> Tensor:
        """Positions (rows, size) that a ring holds after ``lengths`` (rows,) tokens; -1 for an empty slot."""
        slots = torch.arange(self.size, device=lengths.device)
        newest = lengths[:, None] - 1
        ring = newest - (newest - slots) % self.recent
        held = torch.where(slots < self.sink, slots, ring)
        return torch.where((held <= newest) & (held >= slots), held, -1)

    def sees(self, keys: Tensor, queries: Tensor) -> Tensor:
        """Whether each query sees each key (rows, queries, keys), by positions; negative ones are not there."""
        key, query = keys[:, None], queries[:, :, None]
        return (key >= 0) & (key <= query) & ((key < self.sink) | (key > query - self.recent))


@dataclass
class Gates:
    """The gates (layers, KV heads) of one model, in float32; `values` is what learns."""

    values: nn.Parameter
    window: Window
    _mask: tuple[Any, ...] = field(default=())

    def clamp(self) -> None:
        """Project onto [0, 1], in place."""
        with torch.no_grad():
            self.values.clamp_(0, 1)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """All gates at 1 as long as the block lasts; then they are what they were."""
        before = self.values.detach().clone()
        with torch.no_grad():
            self.values.fill_(1.0)
        try:
            yield
        finally:
            with torch.no_grad():
                self.values.copy_(before)

    def local_mask(self, mask: Tensor | None, query: Tensor, keys: int) -> Tensor:
        """The window's mask (rows, 1, queries, keys) out of the model's own; made once per forward pass."""
        rows, queries = query.shape[0], query.shape[2]
        known = self._mask and self._mask[0] is mask and self._mask[1] == (rows, queries, keys, query.device)
        if not known:
            made = _window(mask, (rows, queries, keys), query.device, self.window)
            self._mask = (mask, (rows, queries, keys, query.device), made)
        return self._mask[2]


@dataclass(frozen=True)
class LayerGates:
    """One layer's share of `Gates`; no module, so that the model's parameters stay what they were."""

    gates: Gates
    layer: int

    def blend(self, full: Tensor, local: Tensor) -> Tensor:
        """Outputs (rows, queries, heads, width) of both kinds of attention, mixed by KV head."""
        each = self.gates.values[self.layer]
        a = each.repeat_interleave(full.shape[2] // len(each)).to(full.dtype)[None, None, :, None]
        return a * full + (1 - a) * local


@contextmanager
def gated(model: Any, window: Window) -> Iterator[Gates]:
    """Give a model gates of 1, exactly its own attention, as long as the block lasts.

    Raises:
        BadInput: the model's attention has no KV heads to be gated, or windows of its own.
    """
    shape = gate_shape(model)
    register()
    gates = Gates(nn.Parameter(torch.ones(shape, dtype=torch.float32, device=model.device)), window)
    modules = [block.self_attn for block in find_blocks(model)]
    before = model.config._attn_implementation
    try:
        for layer, module in enumerate(modules):
            setattr(module, GATES, LayerGates(gates, layer))
        model.set_attn_implementation(ATTENTION)
        yield gates
    finally:
        model.set_attn_implementation(before)
        for module in modules:
            if hasattr(module, GATES):
                delattr(module, GATES)


def gate_shape(model: Any) -> tuple[int, int]:
    """(layers, KV heads).

    Raises:
        BadInput: see `gated`.
    """
    config = model.config.get_text_config()
    blocks: Any = find_blocks(model)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or not all(hasattr(block, "self_attn") for block in blocks):
        raise BadInput(f"model type {config.model_type!r}: heads can be gated where every layer has full attention")
    return len(blocks), int(config.num_key_value_heads)


def register() -> None:
    """Make the attention known to transformers, and its mask, without which padding would be seen."""
    AttentionInterface.register(ATTENTION, _mixed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _mixed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    mine: LayerGates = getattr(module, GATES)
    full, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    mask = mine.gates.local_mask(attention_mask, query, key.shape[2])
    local, _ = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    return mine.blend(full, local), None


def _window(mask: Tensor | None, shape: tuple[int, int, int], device: torch.device, window: Window) -> Tensor:
    rows, queries, keys = shape
    if mask is None:
        visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None]
    else:
        visible = mask[:, 0].expand(rows, -1, -1)
    return window_mask(visible, window.sink, window.recent)[:, None]
