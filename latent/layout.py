"""Training sequences of latent reasoners as plain integers: question, start, latents, end, answer; no padding inside.

A line says position by position what stands there and what is learnt, so that batch and loss follow from it alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cot.chat import Chat
from eval_math.errors import BadInput

IGNORED = -100
NO_TOKEN = -1


@dataclass(frozen=True)
class Parts:
    """A row in three: the prompt up to and including the start tag, the thought, the end tag with the answer."""

    prompt: list[int]
    thought: list[int]
    tail: list[int]


@dataclass(frozen=True)
class Line:
    """A sequence by position: the tokens that are merged there, the label, and whether the next position is a latent
    to be predicted (or the end tag after the last one)."""

    groups: list[list[int]]
    labels: list[int]
    predicts: list[bool]


def split_row(chat: Chat, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Parts:
    """Cut prompt and completion at the tags around the thought; blanks next to the tags stay with the thought.

    Raises:
        BadInput: the tokenizer has no tags of their own, or the row no thought between them.
    """
    start, end = chat.tags.start_id, chat.tags.end_id
    if start is None or end is None:
        raise BadInput("the tokenizer has no tokens for <think> and </think>; latent thoughts need a token at each end")
    prompt, completion = list(prompt_ids), list(completion_ids)
    if chat.opens_thinking(prompt):
        at = len(prompt) - 1 - prompt[::-1].index(start)
        prompt, completion = prompt[: at + 1], prompt[at + 1 :] + completion
    elif completion[:1] == [start]:
        prompt, completion = [*prompt, start], completion[1:]
    else:
        raise BadInput("the completion does not start with a thought; rows need <think> ... </think> answer")
    if end not in completion or completion.index(end) == 0:
        raise BadInput("the completion has no thought that ends; rows need <think> ... </think> answer")
    at = completion.index(end)
    return Parts(prompt, completion[:at], completion[at:])


def group_bounds(length: int, rate: int) -> list[tuple[int, int]]:
    """Half-open ranges of ``rate`` neighbours; the last may be shorter."""
    return [(at, min(at + rate, length)) for at in range(0, length, rate)]


def merged_sequence(parts: Parts, rate: int, rng: random.Random, *, label_groups: bool = True) -> Line:
    """The sequence with ``rate`` tokens of the thought in each latent.

    A latent's label is one of its tokens, drawn anew by ``rng``; the end tag is a label in every row.
    """
    latents = [parts.thought[start:stop] for start, stop in group_bounds(len(parts.thought), rate)]
    drawn = [rng.choice(latent) if label_groups else IGNORED for latent in latents]
    labels = [IGNORED] * len(parts.prompt) + drawn + parts.tail
    predicts = [False] * (len(parts.prompt) - 1) + [True] * (1 + len(latents)) + [False] * len(parts.tail)
    groups = [[token] for token in parts.prompt] + latents + [[token] for token in parts.tail]
    return Line(groups, labels, predicts)


def pad_batch(sequences: Sequence[Line], *, left: bool = False) -> dict[str, Tensor]:
    """``groups`` (B, T, C), and ``labels``, ``predicts``, ``attention_mask`` and ``position_ids`` (B, T) each.

    Empty places hold -1 in ``groups`` and -100 in ``labels``.
    """
    width = max(len(each.groups) for each in sequences)
    most = max(len(group) for each in sequences for group in each.groups)
    rows = [_padded(each, width, most, left) for each in sequences]
    groups, labels, predicts, mask = (torch.tensor(list(column)) for column in zip(*rows, strict=True))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {
        "groups": groups,
        "labels": labels,
        "predicts": predicts.bool(),
        "attention_mask": mask,
        "position_ids": positions,
    }


def _padded(each: Line, width: int, most: int, left: bool) -> tuple[list[list[int]], list[int], list[bool], list[int]]:
    missing = width - len(each.groups)
    groups = [group + [NO_TOKEN] * (most - len(group)) for group in each.groups]
    empty = [[NO_TOKEN] * most] * missing
    before, after = (missing, 0) if left else (0, missing)
    return (
        empty * left + groups + empty * (not left),
        [IGNORED] * before + each.labels + [IGNORED] * after,
        [False] * before + each.predicts + [False] * after,
        [0] * before + [1] * len(each.groups) + [0] * after,
    )


def merge_embeddings(table: Tensor, groups: Tensor, *, mean: bool = False) -> Tensor:
    """Embeddings (..., d) of groups (..., C) of tokens, -1 for none: sum / sqrt(m), or with ``mean`` sum / m.

    Sum / sqrt(m) keeps the spread of independent embeddings (CoLaR, section 4 of arXiv 2505.16552). Summed in float32;
    one token gives its embedding exactly, none gives zeros.
    """
    present = groups != NO_TOKEN
    count = present.sum(-1, keepdim=True).clamp(min=1).float()
    rows = table[groups.clamp(min=0)].float() * present.unsqueeze(-1)
    return (rows.sum(-2) / (count if mean else count.sqrt())).to(table.dtype)
