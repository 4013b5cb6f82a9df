"""A KV cache in two groups of heads: some keep everything, the others a window (RLKV, arXiv 2510.08525, section 8).

Keys keep the positions they were made at. Windowed heads see the same keys as under `gates.Window` at every query, of
the prompt too; their past is a ring of sink + recent slots, whose order attention does not care about. Bytes of a layer
with f whole and c windowed heads after T tokens: ``2 * rows * width * itemsize * (f * T + c * min(T, sink + recent))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cot.engines.cache import GrowingLayer
from eval_math.errors import BadInput

from .gates import Window
from .head_table import Kept

ATTENTION = "laconic_two_groups"


@dataclass(frozen=True)
class Groups:
    """KV heads of one layer: those that keep everything, and those with a window."""

    whole: tuple[int, ...]
    windowed: tuple[int, ...]

    @classmethod
    def of(cls, kept: Sequence[bool]) -> Groups:
        """From a row of a table's `kept`."""
        return cls(
            tuple(head for head, keeps in enumerate(kept) if keeps),
            tuple(head for head, keeps in enumerate(kept) if not keeps),
        )

    def queries(self, heads: Sequence[int], group: int) -> list[int]:
        """Query heads of KV ``heads`` with ``group`` of them each."""
        return [head * group + each for head in heads for each in range(group)]


class TwoGroupLayer(CacheLayerMixin):
    """The past of one layer. It attends itself, so `update` hands it on to the attention function as it is.

    A row's first token is its first visible column in the mask of the first pass; columns before are padding.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, groups: Groups, window: Window) -> None:
        super().__init__()
        self.groups, self.window = groups, window
        self.whole = GrowingLayer()
        self.ring_keys: Tensor | None = None
        self.ring_values: Tensor | None = None
        self.starts: Tensor | None = None
        self.columns = 0
        self._new: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Room for the ring (rows, windowed heads, sink + recent, width)."""
        rows, _, _, width = key_states.shape
        shape = (rows, len(self.groups.windowed), self.window.size, width)
        self.ring_keys, self.ring_values = key_states.new_zeros(shape), value_states.new_zeros(shape)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take (rows, KV heads, new, width) states; what is returned goes to the attention function."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._new = (key_states, value_states)
        self.columns += key_states.shape[2]
        return self, self

    def get_seq_length(self) -> int:
        """Columns seen, padding included."""
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All columns, from 0."""
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        """There is none."""
        return -1

    def attend(self, module: Any, query: Tensor, mask: Tensor | None, **kwargs: Any) -> Tensor:
        """Outputs (rows, new, query heads, width) for ``query`` (rows, query heads, new, width); stores the new states.

        Raises:
            RuntimeError: no states were handed over before.
        """
        if self._new is None:
            raise RuntimeError("attention before an update of the cache")
        keys, values = self._new
        self._new = None
        if self.starts is None:
            self.starts = _first_columns(mask, query.shape[0], query.device)
        group = query.shape[1] // keys.shape[1]
        parts: list[Tensor] = []
        for heads, attend in ((self.groups.whole, self._whole), (self.groups.windowed, self._windowed)):
            if heads:
                asked = _heads(query, self.groups.queries(heads, group))
                call = _Call(module, asked, _heads(keys, heads), _heads(values, heads), mask, kwargs)
                parts.append(attend(call))
        order = self.groups.queries((*self.groups.whole, *self.groups.windowed), group)
        found = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
        return found if order == sorted(order) else found[:, :, torch.tensor(order, device=found.device).argsort()]

    def held_bytes(self) -> int:
        """Bytes of the states that are held; equal to the formula for rows without padding."""
        if self.ring_keys is None:
            return 0
        rows, heads, _, width = self.ring_keys.shape
        each = 2 * width * self.ring_keys.element_size()
        whole = rows * len(self.groups.whole) * self.columns
        lengths = (self.columns - self._starts()).clamp(max=self.window.size)
        return each * (whole + heads * int(lengths.sum()))

    def allocated_bytes(self) -> int:
        """Bytes of the buffers, room kept free included."""
        tensors = (*self.whole.buffers, self.ring_keys, self.ring_values)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``, in that order."""
        if self.groups.whole:
            self.whole.batch_select_indices(indices)
        self.ring_keys, self.ring_values = self._ring()[0][indices], self._ring()[1][indices]
        self.starts = self._starts()[indices]

    def join(self, other: CacheLayerMixin, columns: int) -> None:
        """Add the rows of another layer; both are padded on the left to so many columns."""
        assert isinstance(other, TwoGroupLayer)
        mine, theirs = self._starts() + columns - self.columns, other._starts() + columns - other.columns
        if self.groups.whole:
            self.whole.join(other.whole, columns)
        rings = [torch.cat(pair) for pair in zip(self._ring(), other._ring(), strict=True)]
        self.ring_keys, self.ring_values = rings
        self.starts, self.columns = torch.cat([mine, theirs]), columns

    def trim(self, columns: int) -> None:
        """Drop the first so many columns, which are padding in every row."""
        if self.groups.whole:
            self.whole.trim(columns)
        self.starts, self.columns = self._starts() - columns, self.columns - columns

    def reset(self) -> None:
        """Forget everything."""
        self.__init__(self.groups, self.window)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Refused.

        Raises:
            BadInput: always.
        """
        raise BadInput("a cache in two groups of heads cannot follow beam search; take num_beams=1")

    def _whole(self, call: _Call) -> Tensor:
        keys, values = self.whole.update(call.keys, call.values)
        return call.attended(keys, values, call.mask)

    def _windowed(self, call: _Call) -> Tensor:
        new = call.keys.shape[2]
        # Positions within the row: of the first new column, negative while it is padding.
        first = self.columns - new - self._starts()
        if new == 1 and self.columns > 1:
            return self._one(call, first)
        return self._many(call, first)

    def _one(self, call: _Call, position: Tensor) -> Tensor:
        """A decoding step: write the slot, look at the ring."""
        keys, values = self._ring()
        rows, slots = torch.arange(len(position), device=position.device), self.window.slots(position)
        keys[rows, :, slots], values[rows, :, slots] = call.keys[:, :, 0], call.values[:, :, 0]
        if bool((position >= self.window.size - 1).all()):
            return call.attended(keys, values, None)
        filled = torch.arange(self.window.size, device=position.device)[None] <= position[:, None]
        return call.attended(keys, values, filled[:, None, None])

    def _many(self, call: _Call, first: Tensor) -> Tensor:
        """A prompt, or a piece of one: look at the ring and at the new states, then store those that stay."""
        keys, values = self._ring()
        own = first[:, None] + torch.arange(call.keys.shape[2], device=first.device)
        past = self.window.positions(first)
        mask = self.window.sees(torch.cat([past, own], 1), own)[:, None]
        found = call.attended(torch.cat([keys, call.keys], 2), torch.cat([values, call.values], 2), mask)
        stays = (own >= 0) & ((own < self.window.sink) | (own > own[:, -1:] - self.window.recent))
        rows, columns = stays.nonzero(as_tuple=True)
        slots = self.window.slots(own[rows, columns])
        keys[rows, :, slots], values[rows, :, slots] = call.keys[rows, :, columns], call.values[rows, :, columns]
        return found

    def _ring(self) -> tuple[Tensor, Tensor]:
        assert self.ring_keys is not None and self.ring_values is not None
        return self.ring_keys, self.ring_values

    def _starts(self) -> Tensor:
        assert self.starts is not None
        return self.starts


@dataclass(frozen=True)
class _Call:
    """One group's share of an attention call."""

    module: Any
    query: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    options: dict[str, Any]

    def attended(self, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        return sdpa_attention_forward(self.module, self.query, keys, values, mask, **self.options)[0]


def two_group_cache(kept: Kept, window: Window) -> Cache:
    """An empty cache; the model's attention must be `ATTENTION`."""
    return Cache(layers=[TwoGroupLayer(Groups.of(row), window) for row in kept])


def register() -> None:
    """Make the attention known to transformers, and its mask, without which padding would be seen."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _attention(
    module: Any, query: Tensor, key: Any, value: Any, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    if not isinstance(key, TwoGroupLayer):
        raise BadInput("heads with a window need their cache: pass past_key_values=two_group_cache(kept, window)")
    return key.attend(module, query, attention_mask, **kwargs), None


def _first_columns(mask: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """Each row's first visible column (rows,)."""
    if mask is None:
        return torch.zeros(rows, dtype=torch.long, device=device)
    return mask[:, 0, -1].expand(rows, -1).int().argmax(-1)


def _heads(states: Tensor, heads: Sequence[int]) -> Tensor:
    """Those heads of (rows, heads, time, width); a run of neighbours is a view."""
    first, count = heads[0], len(heads)
    if list(heads) == list(range(first, first + count)):
        return states[:, first : first + count]
    return states[:, list(heads)]
