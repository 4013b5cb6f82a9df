"""Endless training batches: rows of one chunk, tokenised, grouped by length and shuffled.

A chunk is a pure function of (seed, chunk number, phase), so a resumed run sees the rows an undisturbed one sees.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from .mix import Row, draw_drill, draw_first_phase_row, draw_row
from .problems import EmbeddedProblem, stream_problems
from .recipe import Cycle
from .tokens import PAD, token_id

ROWS_PER_CHUNK = 1_024
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Right-padded rows: `ids` and `labels` (rows, time); `labels` is -100 where no loss counts."""

    ids: torch.Tensor
    labels: torch.Tensor
    tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(self.ids.to(device), self.labels.to(device), self.tokens)


@dataclass(frozen=True)
class EncodedRow:
    """Token ids of a row and the index of the first token whose loss counts."""

    ids: list[int]
    loss_from: int


def chunk_batches(
    tokenizer: PreTrainedTokenizerBase, cycle: Cycle, seed: int, chunk: int, first_phase: bool
) -> Iterator[Batch]:
    """The batches of one chunk, in their fixed order."""
    rng = random.Random(f"{seed}:{chunk}:{int(first_phase)}")
    problems = stream_problems("train", f"mix-{seed}-{chunk}", cycle.mix.steps, cycle.mix.largest)
    rows = encode_rows(tokenizer, chunk_rows(problems, cycle, first_phase, rng))
    groups = group_by_length(rows, cycle.batch_tokens)
    rng.shuffle(groups)
    for group in groups:
        yield collate(group, token_id(tokenizer, PAD))


def chunk_rows(problems: Iterator[EmbeddedProblem], cycle: Cycle, first_phase: bool, rng: random.Random) -> list[Row]:
    """Rows of one chunk."""
    rows = []
    for _ in range(ROWS_PER_CHUNK):
        if first_phase:
            rows.append(draw_first_phase_row(next(problems), cycle.mix, rng, cycle.verbosity))
        elif rng.random() < cycle.mix.drill_later:
            rows.append(draw_drill(rng, cycle.mix.largest))
        else:
            rows.append(draw_row(next(problems), cycle.mix, rng, cycle.verbosity))
    return rows


def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[EncodedRow]:
    """Token ids of each row; prompt, unscored part and scored part are joined at special tokens."""
    prompts = tokenizer([row.prompt for row in rows], add_special_tokens=False)["input_ids"]
    unscored = tokenizer([row.completion[: row.loss_from] for row in rows], add_special_tokens=False)["input_ids"]
    scored = tokenizer([row.completion[row.loss_from :] for row in rows], add_special_tokens=False)["input_ids"]
    return [
        EncodedRow(before + middle + after, len(before) + len(middle))
        for before, middle, after in zip(prompts, unscored, scored, strict=True)
    ]


def group_by_length(rows: list[EncodedRow], batch_tokens: int) -> list[list[EncodedRow]]:
    """Rows of similar length together, each group within `batch_tokens` after padding."""
    groups: list[list[EncodedRow]] = [[]]
    for row in sorted(rows, key=lambda each: len(each.ids)):
        if (len(groups[-1]) + 1) * len(row.ids) > batch_tokens and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    return groups


def collate(rows: list[EncodedRow], pad_id: int) -> Batch:
    """One right-padded batch."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORED)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        labels[index, row.loss_from : len(row.ids)] = torch.tensor(row.ids[row.loss_from :])
    return Batch(ids, labels, sum(len(row.ids) for row in rows))
