"""Next tokens from logits: greedy, or drawn with one seeded uniform per request and step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from eval_math.records import Sampling


@dataclass(frozen=True)
class Chooser:
    """How one request picks its tokens; its ``random`` is its own, so other requests never change its draws."""

    sampling: Sampling
    random: Random

    @classmethod
    def of(cls, sampling: Sampling) -> Chooser:
        """Seeded by the sampling's seed."""
        return cls(sampling, Random(sampling.seed))

    @property
    def knobs(self) -> tuple[float, int, float, float]:
        """Requests with equal knobs are drawn together."""
        s = self.sampling
        return s.temperature, s.top_k, s.top_p, s.min_p


def choose(logits: Tensor, choosers: Sequence[Chooser], seen: Sequence[Sequence[int]]) -> list[int]:
    """One token per row.

    Order of steps: repetition penalty, temperature, min_p, top_k, top_p (as in vLLM).

    Args:
        logits: (rows, vocabulary), any float type; worked on in float32.
        seen: prompt and output ids of each row so far, for the repetition penalty.
    """
    logits = logits.float()
    for row, chooser in enumerate(choosers):
        if chooser.sampling.repetition_penalty != 1.0:
            logits = _penalised(logits, row, seen[row], chooser.sampling.repetition_penalty)
    chosen = logits.argmax(-1).tolist()
    groups: dict[tuple[float, int, float, float], list[int]] = defaultdict(list)
    for row, chooser in enumerate(choosers):
        if chooser.sampling.temperature > 0:
            groups[chooser.knobs].append(row)
    for rows in groups.values():
        uniforms = torch.tensor([choosers[row].random.random() for row in rows], dtype=torch.float64)
        drawn = draw(logits[rows], choosers[rows[0]].sampling, uniforms.to(logits.device))
        for row, token in zip(rows, drawn.tolist(), strict=True):
            chosen[row] = token
    return chosen


def draw(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """Token ids (rows,) by inverting the cumulative distribution at ``uniforms`` (rows,) in [0, 1)."""
    kept = keep_likely(logits / sampling.temperature, sampling)
    cumulative = torch.softmax(kept.double(), -1).cumsum(-1)
    at = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return at.squeeze(1).clamp(max=logits.shape[-1] - 1)


def keep_likely(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (rows, vocabulary) with the tokens that min_p, top_k and top_p drop at minus infinity."""
    if sampling.min_p > 0:
        probabilities = torch.softmax(logits, -1)
        limit = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < limit, -torch.inf)
    if 0 < sampling.top_k < logits.shape[-1]:
        limit = logits.topk(sampling.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < limit, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = torch.softmax(logits, -1).sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits


def _penalised(logits: Tensor, row: int, seen: Sequence[int], penalty: float) -> Tensor:
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    logits = logits.clone()
    scores = logits[row, ids]
    logits[row, ids] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits
