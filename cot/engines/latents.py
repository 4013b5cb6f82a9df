"""Latent thinking in the transformers loop: the hidden state that a thinker reads, and the embeddings that it feeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..engine import Step, Thinker
from .batch import Running


@dataclass
class Latents:
    """A thinker at work on a model. ``hidden`` is what the output layer read last, (rows, d)."""

    thinker: Thinker
    table: Any
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))

    def think(self, rows: Sequence[Running], logits: Tensor, steps: list[Step]) -> None:
        """Replace the steps of the rows that think latently."""
        thinking = [at for at, row in enumerate(rows) if row.thought is not None]
        if not thinking:
            return
        with torch.no_grad():
            taken = self.thinker.steps(self.hidden[thinking], logits[thinking], [rows[at].thought for at in thinking])
        for at, step in zip(thinking, taken, strict=True):
            steps[at] = step

    def embed(self, ids: Tensor, feeds: Sequence[Tensor | None]) -> Tensor:
        """Embeddings (rows, 1, d) of ids (rows, 1), those of ``feeds`` in their places."""
        embedded = self.table(ids)
        for at, feed in enumerate(feeds):
            if feed is not None:
                embedded[at, 0] = feed
        return embedded


@contextmanager
def latents_of(model: Any, thinker: Thinker | None) -> Iterator[Latents | None]:
    """`Latents` of a model as long as the block lasts; None without a thinker."""
    if thinker is None:
        yield None
        return
    latents = Latents(thinker, model.get_input_embeddings())

    def read(_: Any, inputs: tuple[Tensor, ...]) -> None:
        latents.hidden = inputs[0][:, -1]

    handle = model.get_output_embeddings().register_forward_pre_hook(read)
    try:
        yield latents
    finally:
        handle.remove()
