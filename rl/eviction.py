"""A KV cache that forgets tokens while decoding, by any rule that can say which: `Evicts`.

Kept keys keep the positions they were made at. Every row has its own count and its own moment; a row's states stand at
the right end of the buffer, so that rows of different counts share it. Prompts are never forgotten unless the rule says
so. Memory is released at each round: the buffer is made anew, as long as the longest row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cot.engines.cache import ROOM
from eval_math.errors import BadInput

ATTENTION = "laconic_eviction"


@dataclass(frozen=True)
class Past:
    """One row of one layer: what a rule decides by."""

    keys: Tensor
    """(KV heads, n, width), oldest first."""
    queries: Tensor
    """Of the newest tokens (query heads, r, width), the newest last."""
    weights: Tensor
    """Attention that each key has got so far (KV heads, n); zeros unless the rule asks for it."""
    prompt: int
    """The first so many are the prompt's."""
    rounds: int
    """Rounds of forgetting so far."""
    seed: int


class Evicts(Protocol):
    """A rule of forgetting."""

    @property
    def queries(self) -> int:
        """Newest queries that it wants to see; 0 for none."""
        ...

    weighs: ClassVar[bool]
    """Whether it wants the attention that keys have got (a second pass over the keys in each step)."""

    def due(self, held: int, prompt: int, rounds: int) -> bool:
        """Whether a row that holds so many states has to forget some now."""
        ...

    def keep(self, past: Past) -> Tensor:
        """Indices to keep, ascending: (n,) for all heads, or (KV heads, n)."""
        ...


class EvictingLayer(CacheLayerMixin):
    """The past of one layer under a rule; like `TwoGroupLayer` it attends itself."""

    is_sliding = False
    is_croppable = False

    def __init__(self, rule: Evicts, layer: int) -> None:
        super().__init__()
        self.rule, self.layer = rule, layer
        self.columns = self.stop = 0
        self.held: list[int] = []
        self.prompts: list[int] = []
        self.seen: list[int] = []
        self.rounds: list[int] = []
        self.newest: Tensor | None = None
        self.weights: Tensor | None = None
        self._new: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is held yet."""
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take (rows, KV heads, new, width) states; what is returned goes to the attention function."""
        self.is_initialized = True
        self._new = (key_states, value_states)
        self.columns += key_states.shape[2]
        return self, self

    def get_seq_length(self) -> int:
        """Columns seen, padding and what was forgotten included."""
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All columns, from 0."""
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        """There is none."""
        return -1

    def attend(self, module: Any, query: Tensor, mask: Tensor | None, **kwargs: Any) -> Tensor:
        """Outputs (rows, new, query heads, width); then rows that are due forget.

        Raises:
            BadInput: several tokens at once after the prompt.
        """
        if self._new is None:
            raise RuntimeError("attention before an update of the cache")
        (keys, values), self._new = self._new, None
        if not self.held:
            found, _ = sdpa_attention_forward(module, query, keys, values, mask, **kwargs)
            self._open(keys, values, mask)
        elif query.shape[2] > 1:
            raise BadInput("a cache that forgets takes one token at a time after the prompt")
        else:
            self._append(keys, values)
            kept = self._kept(self.keys), self._kept(self.values)
            found, _ = sdpa_attention_forward(module, query, *kept, self._mask(query.device), **kwargs)
        self._note(query, module.num_key_value_groups)
        due = [row for row, n in enumerate(self.held) if self.rule.due(n, self.prompts[row], self.rounds[row])]
        if due:
            self._forget(due)
        return found

    def held_bytes(self) -> int:
        """Bytes of what is held; shorter rows are padded to the longest."""
        return 2 * self._kept(self.keys).numel() * self._buffer().element_size() if self.held else 0

    def allocated_bytes(self) -> int:
        """Bytes of the buffers, room kept free included."""
        return 2 * self._buffer().numel() * self._buffer().element_size() if self.held else 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``, in that order."""
        chosen = indices.tolist()
        self.held, self.prompts, self.seen, self.rounds = (
            [each[at] for at in chosen] for each in (self.held, self.prompts, self.seen, self.rounds)
        )
        for name in ("keys", "values", "newest", "weights"):
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor[indices])

    def join(self, other: CacheLayerMixin, columns: int) -> None:
        """Add the rows of another layer."""
        assert isinstance(other, EvictingLayer)
        width = max(*self.held, *other.held)
        for name, room in (("keys", ROOM), ("values", ROOM), ("weights", 0)):
            if getattr(self, name) is not None:
                pair = [_widened(layer._kept(getattr(layer, name)), width) for layer in (self, other)]
                setattr(self, name, pad(torch.cat(pair), (0, 0, 0, room)))
        self.newest = torch.cat([_widened(layer._queries(), self.rule.queries) for layer in (self, other)])
        self.held, self.prompts = self.held + other.held, self.prompts + other.prompts
        self.seen = self.seen + other.seen
        self.rounds, self.columns, self.stop = self.rounds + other.rounds, columns, width

    def trim(self, columns: int) -> None:
        """Columns are only counted here."""
        self.columns -= columns

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Refused.

        Raises:
            BadInput: always.
        """
        raise BadInput("a cache that forgets cannot follow beam search; take num_beams=1")

    def _open(self, keys: Tensor, values: Tensor, mask: Tensor | None) -> None:
        rows, heads, columns, _ = keys.shape
        counts = [columns] * rows if mask is None else mask[:, 0, -1].expand(rows, -1).sum(-1).tolist()
        self.held, self.prompts, self.seen, self.rounds = list(counts), list(counts), list(counts), [0] * rows
        self.keys, self.values = (pad(states, (0, 0, 0, ROOM)) for states in (keys, values))
        self.stop = columns
        self.weights = keys.new_zeros(rows, heads, columns, 1, dtype=torch.float32) if self.rule.weighs else None

    def _append(self, keys: Tensor, values: Tensor) -> None:
        if self.stop == self._buffer().shape[2]:
            self.keys, self.values = (pad(self._kept(s), (0, 0, 0, ROOM)) for s in (self.keys, self.values))
            self.stop = max(self.held)
        for buffer, states in ((self.keys, keys), (self.values, values)):
            assert buffer is not None
            buffer[:, :, self.stop] = states[:, :, 0]
        self.stop += 1
        self.held, self.seen = [n + 1 for n in self.held], [n + 1 for n in self.seen]
        if self.rule.weighs:
            self.weights = pad(self._weights(), (0, 0, 0, 1))

    def _note(self, query: Tensor, group: int) -> None:
        """Remember the newest queries, and what attention keys get."""
        wanted = self.rule.queries
        past = query if self.newest is None else torch.cat([self.newest, query], 2)
        self.newest = past[:, :, past.shape[2] - min(wanted, past.shape[2]) :].clone()
        if self.rule.weighs:
            scores = query[:, :, -1:].float() @ self._kept(self.keys).repeat_interleave(group, 1).float().mT
            hidden = self._mask(query.device)
            if hidden is not None:
                scores = scores.masked_fill(~hidden, -torch.inf)
            share = (scores / query.shape[-1] ** 0.5).softmax(-1).unflatten(1, (-1, group)).mean(2)
            self.weights = self._weights()[:, :, -share.shape[-1] :] + share.mT

    def _forget(self, due: list[int]) -> None:
        kept = {row: self._chosen(row) for row in due}
        width = max(n if row not in kept else kept[row].shape[-1] for row, n in enumerate(self.held))
        buffers = []
        for states, room in ((self.keys, ROOM), (self.values, ROOM), (self.weights, 0)):
            if states is None:
                buffers.append(None)
                continue
            old = self._kept(states)
            made = old.new_zeros(*old.shape[:2], width + room, old.shape[3])
            for row, n in enumerate(self.held):
                whole = old[row, :, old.shape[2] - n :]
                chosen = _gathered(whole, kept[row]) if row in kept else whole
                made[row, :, width - chosen.shape[1] : width] = chosen
            buffers.append(made)
        self.keys, self.values, self.weights = buffers
        self.stop = width
        for row in due:
            self.held[row], self.rounds[row] = kept[row].shape[-1], self.rounds[row] + 1

    def _chosen(self, row: int) -> Tensor:
        n = self.held[row]
        keys = self._kept(self.keys)[row]
        weights = self._weights()[row, :, -n:, 0] if self.rule.weighs else keys.new_zeros(keys.shape[0], n)
        # Queries of padding are none.
        queries = self._queries()[row]
        queries = queries[:, queries.shape[1] - min(queries.shape[1], self.seen[row]) :]
        past = Past(keys[:, keys.shape[1] - n :], queries, weights, self.prompts[row], self.rounds[row],
                    self.layer)  # fmt: skip
        return self.rule.keep(past)

    def _kept(self, states: Tensor | None) -> Tensor:
        """What any row holds of a buffer (rows, heads, time, ...)."""
        assert states is not None
        if states is self.weights:
            return states[:, :, max(0, states.shape[2] - max(self.held)) :]
        return states[:, :, self.stop - max(self.held) : self.stop]

    def _mask(self, device: torch.device) -> Tensor | None:
        """Columns that rows hold (rows, 1, 1, time); None if all hold as many."""
        longest = max(self.held)
        if min(self.held) == longest:
            return None
        first = longest - torch.tensor(self.held, device=device)
        return (torch.arange(longest, device=device)[None] >= first[:, None])[:, None, None]

    def _buffer(self) -> Tensor:
        assert self.keys is not None
        return self.keys

    def _weights(self) -> Tensor:
        assert self.weights is not None
        return self.weights

    def _queries(self) -> Tensor:
        assert self.newest is not None
        return self.newest


def evicting_cache(rule: Evicts, layers: int) -> Cache:
    """An empty cache; the model's attention must be `ATTENTION`."""
    return Cache(layers=[EvictingLayer(rule, layer) for layer in range(layers)])


def register() -> None:
    """Make the attention known to transformers, and its mask, without which padding would be seen."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _attention(
    module: Any, query: Tensor, key: Any, value: Any, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    if not isinstance(key, EvictingLayer):
        raise BadInput("a rule of forgetting needs its cache: pass past_key_values=evicting_cache(rule, layers)")
    return key.attend(module, query, attention_mask, **kwargs), None


def _gathered(states: Tensor, indices: Tensor) -> Tensor:
    """Rows ``indices``, (n,) or (heads, n), of (heads, time, width)."""
    if indices.ndim == 1:
        return states[:, indices]
    return states.gather(1, indices[..., None].expand(-1, -1, states.shape[-1]))


def _widened(states: Tensor, columns: int) -> Tensor:
    return pad(states, (0, 0, columns - states.shape[2], 0)) if states.shape[2] < columns else states
