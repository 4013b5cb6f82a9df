"""A KV cache that writes into room kept free for it, so that a decoding step copies one token and not the past."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

ROOM = 256
MakeCache = Callable[[Any], Cache]
"""From a model to an empty cache."""


class GrowingLayer(DynamicLayer):
    """As `DynamicLayer`, without its concatenation in every step.

    ``keys`` and ``values`` (rows, heads, time, width) are views of larger buffers. Whoever replaces them (cropping,
    joining) costs one copy at the next update.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._buffers: tuple[Tensor, ...] = ()
        self._views: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, new, width) states; returns all states so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, stop = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if not self._owns_views() or stop > self._buffers[0].shape[-2]:
            self._buffers = tuple(
                self._roomier(past, new, stop) for past, new in ((self.keys, key_states), (self.values, value_states))
            )
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:stop] = states
        self._show(stop)
        return self._views[0], self._views[1]

    @property
    def buffers(self) -> tuple[Tensor, ...]:
        """What the states are views of."""
        return self._buffers

    def join(self, other: CacheLayerMixin, columns: int) -> None:
        """Add the rows of another layer; both are padded on the left to so many columns."""
        keys, values = (
            torch.cat([_widened(getattr(layer, name), columns) for layer in (self, other)])
            for name in ("keys", "values")
        )
        self.keys, self.values = keys, values

    def trim(self, columns: int) -> None:
        """Drop the first so many columns."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, columns:], self.values[:, :, columns:]

    def held_bytes(self) -> int:
        """Bytes of the states."""
        return sum(states.numel() * states.element_size() for states in self._views)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``, in that order; a row that stays in its place is not copied.

        Only rows that move down are supported in place: ``indices[i] >= i`` wherever row ``i`` is overwritten.
        """
        if not self._owns_views() or bool((indices < torch.arange(len(indices), device=indices.device)).any()):
            super().batch_select_indices(indices)
            return
        moved = [(to, origin) for to, origin in enumerate(indices.tolist()) if to != origin]
        length = self.get_seq_length()
        for buffer in self._buffers:
            for to, origin in moved:
                buffer[to, :, :length] = buffer[origin, :, :length]
        self._buffers = tuple(buffer[: len(indices)] for buffer in self._buffers)
        self._show(length)

    def _show(self, length: int) -> None:
        self._views = tuple(buffer[:, :, :length] for buffer in self._buffers)
        self.keys, self.values = self._views

    def _owns_views(self) -> bool:
        return bool(self._views) and self.keys is self._views[0] and self.values is self._views[1]

    def _roomier(self, past: Tensor | None, new: Tensor, stop: int) -> Tensor:
        rows, heads, _, width = new.shape
        buffer = torch.empty(rows, heads, stop + ROOM, width, dtype=new.dtype, device=new.device)
        if past is not None and past.numel():
            buffer[:, :, : past.shape[-2]] = past
        return buffer


def _widened(states: Tensor, columns: int) -> Tensor:
    return pad(states, (0, 0, columns - states.shape[2], 0))


@runtime_checkable
class JoinableLayer(Protocol):
    """A layer of a cache to whose rows others can be added."""

    def join(self, other: CacheLayerMixin, columns: int) -> None:
        """Add the rows of another layer; both are padded on the left to so many columns."""
        ...

    def trim(self, columns: int) -> None:
        """Drop the first so many columns, which are padding in every row."""
        ...

    def held_bytes(self) -> int:
        """Bytes of keys and values."""
        ...


def growing_cache(model: Any) -> DynamicCache:
    """An empty cache with the layer kinds that ``model`` needs, those that keep everything as `GrowingLayer`."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
