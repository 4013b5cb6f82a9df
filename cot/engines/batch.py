"""Rows that decode together in transformers: left-padded, finished ones dropped, new ones joined in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, CacheLayerMixin

from ..engine import Row
from .cache import JoinableLayer
from .sampling import Chooser
from .work import Work

TRIMMED_COLUMNS = 64
"""Trimming copies the cache: fewer columns of padding than this are carried along."""


@dataclass
class Running:
    """One request while it decodes. ``think_end`` is the position of its end tag, fed or about to be."""

    work: Work
    chooser: Chooser
    stop_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    think_end: int | None
    generated: list[int] = field(default_factory=list)
    thought: Any = None
    """State of latent thinking while it goes on."""
    feed: Tensor | None = None
    """Embedding (d,) that is fed next in place of the newest token's."""
    n_latent: int = 0

    @property
    def next_position(self) -> int:
        """Position of what is fed next: the newest token or latent."""
        return len(self.work.ids) + self.n_steps - 1

    @property
    def n_steps(self) -> int:
        """Tokens and latents so far."""
        return len(self.generated) + self.n_latent

    def row(self, batch_row: int, offset: int, first: int, length: int) -> Row:
        """This request's share of a forward pass over positions ``first ... first + length - 1``."""
        fed = self.think_end is not None and self.think_end < first + length
        return Row(
            request=self.work.request,
            batch_row=batch_row,
            offset=offset,
            length=length,
            first_position=first,
            n_prompt=self.work.n_prompt,
            think_end=self.think_end if fed else None,
            ids=self.generated[-1:] or self.work.ids,
        )


@dataclass
class Batch:
    """Rows with their cache and attention mask (rows, time), the newest time at the right."""

    rows: list[Running]
    cache: Cache
    mask: Tensor

    @property
    def joinable(self) -> bool:
        """Whether rows of another length can join."""
        return all(isinstance(layer, JoinableLayer) for layer in self.cache.layers)

    def row_bytes(self) -> int:
        """Bytes of keys and values per row, over all layers."""
        held = sum(cast(JoinableLayer, layer).held_bytes() for layer in self.cache.layers)
        return held // max(1, len(self.rows))

    def keep(self, indices: list[int]) -> None:
        """Drop all other rows, and the columns that then hold only padding; the last rows take the free places."""
        if len(indices) == len(self.rows):
            return
        indices = _closed_up(indices)
        self.rows = [self.rows[at] for at in indices]
        chosen = torch.tensor(indices, device=self.mask.device, dtype=torch.long)
        self.mask = self.mask[chosen]
        if self.rows:
            layers: Any = self.cache.layers
            for layer in layers:
                layer.batch_select_indices(chosen)
            self._trim()

    def join(self, other: Batch) -> None:
        """Add the rows of ``other``; the shorter side is padded on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        for mine, new in zip(self.cache.layers, other.cache.layers, strict=True):
            cast(JoinableLayer, mine).join(cast(CacheLayerMixin, new), width)
        masks = [pad(mask, (width - mask.shape[1], 0)) for mask in (self.mask, other.mask)]
        self.mask = torch.cat(masks)
        self.rows = self.rows + other.rows

    def _trim(self) -> None:
        unused = int(self.mask.any(0).int().argmax())
        if unused < TRIMMED_COLUMNS or not self.joinable:
            return
        self.mask = self.mask[:, unused:]
        for layer in self.cache.layers:
            cast(JoinableLayer, layer).trim(unused)


@dataclass(frozen=True)
class Padded:
    """Prompts as model input: ids, mask and positions, each (rows, time), padding on the left."""

    ids: Tensor
    mask: Tensor
    positions: Tensor


def left_padded(prompts: list[list[int]], filler: int, device: torch.device) -> Padded:
    """Prompts of different lengths side by side; ``filler`` stands where the mask is 0."""
    width = max(map(len, prompts))
    ids = [[filler] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Padded(torch.tensor(ids, device=device), mask, positions)


def _closed_up(indices: list[int]) -> list[int]:
    """The same rows, those below ``len(indices)`` in their places and the others in the places left free."""
    count, kept = len(indices), set(indices)
    later = [at for at in indices if at >= count]
    return [at if at in kept else later.pop() for at in range(count)]
