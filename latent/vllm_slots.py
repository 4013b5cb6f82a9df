"""The table of latents: each lies in a slot, from the pass that made it until its request is finished.

A pre-empted request is computed anew from all its ids, so that its slots must live as long as it does. Which requests
live, the scheduler knows: when the free slots run out, those that no live request has among its output are taken back
(also those of aborted requests and of passes whose result was dropped).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from .rules import Places
from .serving import VirtualIds

tables: WeakValueDictionary[str, SlotTable] = WeakValueDictionary()
"""By the engine's ``instance_id``: model and scheduler meet here, as they share a process."""


class SlotTable:
    """``ids.slots`` embeddings of ``width`` numbers, and the place (seed, number of latents so far) of each."""

    def __init__(self, ids: VirtualIds, width: int) -> None:
        self.ids = ids
        self.rows: Tensor = torch.zeros(ids.slots, width)
        self.live: Callable[[], set[int]] | None = None
        """Ids of the slots in use."""
        self._places = [(0, 0)] * ids.slots
        self._free = deque(range(ids.slots))

    def place(self, token: int) -> tuple[int, int]:
        """The place that the next latent is drawn with, after the start or the latent ``token``."""
        at = token - self.ids.first_slot
        return self._places[at] if at >= 0 else (token - self.ids.vocabulary, 0)

    def put(self, feeds: Tensor, places: Places) -> list[int]:
        """Keep the embeddings (rows, width) that follow on ``places``; returns their ids."""
        taken = self._take(len(places))
        self.rows[torch.tensor(taken, device=self.rows.device)] = feeds.to(self.rows.dtype)
        for at, (seed, step) in zip(taken, places, strict=True):
            self._places[at] = (seed, step + 1)
        return [self.ids.first_slot + at for at in taken]

    def _take(self, count: int) -> Sequence[int]:
        if len(self._free) < count:
            live = self.live() if self.live is not None else set[int]()
            self._free = deque(at for at in range(self.ids.slots) if self.ids.first_slot + at not in live)
        if len(self._free) < count:
            raise RuntimeError(
                f"all {self.ids.slots} slots for latents are taken; raise latent_slots or lower max_num_seqs"
            )
        return [self._free.popleft() for _ in range(count)]
