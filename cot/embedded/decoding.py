"""Batched decoding of the embedded reasoner for its own measurements: greedy or sampled, with an optional vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer

from .tokens import END_THINK

MAX_NEW_TOKENS = 640


@dataclass(frozen=True)
class Completion:
    """What one prompt produced; `thinking_tokens` excludes the think tags."""

    thinking: str
    answer_text: str
    answer: str | None
    thinking_tokens: int
    truncated: bool


@dataclass(frozen=True)
class Reasoner:
    """A model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, folder: Path) -> Reasoner:
        """The checkpoint in `folder`, in evaluation mode."""
        return cls(AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))

    def encode(self, text: str) -> list[int]:
        """Ids of rendered text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


@dataclass(frozen=True)
class Decoding:
    """Temperature (0 is greedy), seed of the draws, rows decoded together."""

    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 64


GREEDY = Decoding()


@torch.no_grad()
def complete(reasoner: Reasoner, prompts: Sequence[str], decoding: Decoding = GREEDY) -> list[Completion]:
    """Completions of rendered prompts, in order; prompts of similar length share a batch."""
    generator = torch.Generator().manual_seed(decoding.seed)
    encoded = [reasoner.encode(prompt) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    results: dict[int, Completion] = {}
    for start in range(0, len(order), decoding.batch_size):
        chosen = order[start : start + decoding.batch_size]
        new = decode_batch(reasoner, [encoded[index] for index in chosen], decoding.temperature, generator)
        for index, ids in zip(chosen, new, strict=True):
            results[index] = read_completion(reasoner.tokenizer, prompts[index], ids)
    return [results[index] for index in range(len(prompts))]


def decode_batch(
    reasoner: Reasoner, rows: list[list[int]], temperature: float, generator: torch.Generator
) -> list[list[int]]:
    """New ids of each row (rows, <= MAX_NEW_TOKENS), end token included where one was produced."""
    model, tokenizer = reasoner.model, reasoner.tokenizer
    width = max(len(row) for row in rows)
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.zeros(len(rows), width + MAX_NEW_TOKENS, dtype=torch.long)
    for index, row in enumerate(rows):
        mask[index, width - len(row) :] = 1
    positions = (mask[:, :width].cumsum(1) - 1).clamp(min=0)
    new: list[list[int]] = [[] for _ in rows]
    alive, cache = list(range(len(rows))), reserved_cache(model, len(rows), width + MAX_NEW_TOKENS)
    done = torch.zeros(len(rows), dtype=torch.bool)
    for step in range(MAX_NEW_TOKENS):
        output = model(
            input_ids=ids,
            attention_mask=mask[:, : width + step],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = choose(output.logits[:, -1].float(), temperature, generator)
        for index, token in enumerate(chosen.tolist()):
            if not done[index]:
                new[alive[index]].append(token)
        done |= chosen == tokenizer.eos_token_id
        if bool(done.all()):
            break
        positions, ids = positions[:, -1:] + 1, chosen[:, None]
        # Dropping rows copies the cache, so finished rows are carried along until they are half of the batch.
        if 2 * int(done.sum()) >= len(alive):
            kept = (~done).nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            alive = [alive[index] for index in kept.tolist()]
            mask, positions, ids, done = mask[kept], positions[kept], ids[kept], done[kept]
    return new


class ReservedLayer(DynamicLayer):
    """A cache layer that writes into a buffer of fixed capacity, so that a step copies one token only."""

    def __init__(self, rows: int, heads: int, capacity: int, width: int) -> None:
        super().__init__()
        self.buffers = [torch.empty(rows, heads, capacity, width) for _ in range(2)]
        self.length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (rows, heads, time, width) states; returns views of everything stored."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length : end] = states
        self.length = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices`."""
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)


def reserved_cache(model: PreTrainedModel, rows: int, capacity: int) -> DynamicCache:
    """An empty cache with room for `capacity` positions of `rows` rows."""
    config = model.config
    cache = DynamicCache()
    for _ in range(config.num_hidden_layers):
        cache.layers.append(ReservedLayer(rows, config.num_key_value_heads, capacity, config.head_dim))
    return cache


def choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """Next ids (rows,) from logits (rows, vocabulary)."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator).squeeze(1)


def read_completion(tokenizer: PreTrainedTokenizerBase, prompt: str, ids: list[int]) -> Completion:
    """Split ids at the end of thinking and read the boxed answer."""
    end_think = tokenizer.convert_tokens_to_ids(END_THINK)
    truncated = ids[-1] != tokenizer.eos_token_id
    body = ids if truncated else ids[:-1]
    closed = prompt.rstrip().endswith(END_THINK)
    cut = body.index(end_think) if end_think in body and not closed else (0 if closed else len(body))
    thinking, text = (str(tokenizer.decode(part)) for part in (body[:cut], body[cut if closed else cut + 1 :]))
    return Completion(thinking, text, boxed(text), cut, truncated)


def boxed(text: str) -> str | None:
    """Content of the last `\\boxed{}` of a completion."""
    if "\\boxed{" not in text:
        return None
    return text.rsplit("\\boxed{", 1)[1].split("}", 1)[0]


@contextmanager
def steered(model: PreTrainedModel, block: int, vector: torch.Tensor) -> Iterator[None]:
    """Add `vector` (hidden,) to the output of `block` at the newest position of every forward pass."""

    def hook(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :-1], output[:, -1:] + vector], dim=1)

    handle = model.model.layers[block].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def last_token_states(reasoner: Reasoner, texts: Sequence[str], block: int) -> torch.Tensor:
    """Output of `block` at the last token of each text, (texts, hidden)."""
    states: list[torch.Tensor] = []
    handle = reasoner.model.model.layers[block].register_forward_hook(
        lambda _module, _inputs, output: states.append(output[0, -1].float())
    )
    try:
        for text in texts:
            reasoner.model(input_ids=torch.tensor([reasoner.encode(text)]), logits_to_keep=1)
    finally:
        handle.remove()
    return torch.stack(states)
