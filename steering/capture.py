"""Reading hidden states: many texts through a model's first blocks, pooled as they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .sites import block_output, find_blocks, model_shape

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Text:
    """Token ids of one text and the positions whose states are averaged (at least one)."""

    ids: tuple[int, ...]
    positions: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class States:
    """Pooled states of texts, by block."""

    pooled: dict[int, torch.Tensor]
    """(texts, hidden) float32."""
    norms: dict[int, torch.Tensor]
    """(texts,) mean norm of the states before pooling."""


@dataclass(frozen=True)
class Reading:
    """What to read: the output of ``blocks`` (from 0) in passes of at most ``batch_tokens`` padded tokens."""

    texts: Sequence[Text]
    blocks: Sequence[int]
    batch_tokens: int
    on_progress: Progress | None = None


def read_states(model: Any, reading: Reading) -> States:
    """Run the texts through a transformers model, up to the last block wanted, and pool each text's states in float32.

    Returns states in the order of the texts. The model is left as it was, also on error.
    """
    import torch

    count, width = len(reading.texts), model_shape(model).hidden_size
    states = States(
        {b: torch.zeros(count, width) for b in reading.blocks}, {b: torch.zeros(count) for b in reading.blocks}
    )
    done = 0
    with torch.inference_mode(False), torch.no_grad():
        for batch in _batches(reading.texts, reading.batch_tokens):
            capture = _Capture([reading.texts[i] for i in batch], max(reading.blocks))
            capture.run(model, reading.blocks)
            for block in reading.blocks:
                states.pooled[block][batch], states.norms[block][batch] = capture.pooled[block], capture.norms[block]
            done += len(batch)
            if reading.on_progress is not None:
                reading.on_progress(done, count)
    return states


class _Enough(Exception):
    """Ends a forward pass after the last block that is needed."""


class _Capture:
    """One batch: its padded ids, and what the hooks found."""

    def __init__(self, batch: Sequence[Text], last: int) -> None:
        import torch

        self.last = last
        self.pooled: dict[int, torch.Tensor] = {}
        self.norms: dict[int, torch.Tensor] = {}
        longest = max(len(text.ids) for text in batch)
        # Padding stands on the right, where causal attention never lets a real token see it: no mask is needed, and
        # without one attention takes its fast path.
        self.ids = torch.tensor([[*text.ids, *[0] * (longest - len(text.ids))] for text in batch])
        self.owner = torch.tensor([row for row, text in enumerate(batch) for _ in text.positions])
        self.place = torch.tensor([position for text in batch for position in text.positions])
        self.counts = torch.tensor([float(len(text.positions)) for text in batch])

    def run(self, model: Any, blocks: Sequence[int]) -> None:
        device = model.get_input_embeddings().weight.device
        modules = find_blocks(model)
        handles = [modules[b].register_forward_hook(self._hook(b)) for b in blocks]
        try:
            model(input_ids=self.ids.to(device), use_cache=False)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, block: int) -> Callable[[Any, Any, Any], None]:
        def keep(module: Any, arguments: Any, output: Any) -> None:
            hidden = block_output(output)
            used = hidden[self.owner.to(hidden.device), self.place.to(hidden.device)].float()
            self.pooled[block] = self._means(used).cpu()
            self.norms[block] = self._means(used.norm(dim=-1, keepdim=True)).squeeze(-1).cpu()
            if block == self.last:
                raise _Enough

        return keep

    def _means(self, used: torch.Tensor) -> torch.Tensor:
        """(states, width) -> (texts, width), the mean over each text's states."""
        import torch

        sums = torch.zeros(len(self.counts), used.shape[-1], device=used.device)
        sums.index_add_(0, self.owner.to(used.device), used)
        return sums / self.counts.to(used.device)[:, None]


def _batches(texts: Sequence[Text], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts of like length, longest first so that memory runs out at once or never."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].ids))
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, len(texts[order[start]].ids)))
        yield order[start : start + size]
        start += size
