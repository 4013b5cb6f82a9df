"""How a latent reasoner goes on without a token: its next input embedding, and when it stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from .config import LatentConfig
from .noise import gumbel_noise, normal_noise, uniform_noise

LOG_SIGMA = (-8.0, 2.0)
"""Bounds of the head's log standard deviation (ours)."""
GUMBEL = (-1.5, 3.0)
"""Bounds of Gumbel noise, in training and in use."""
Places = Sequence[tuple[int, int]]
"""Of each row its noise seed and the number of latents it has made."""


class FeedRule(Protocol):
    """From the last hidden state to the next input embedding."""

    def __call__(self, hidden: Tensor, logits: Tensor, places: Places) -> Tensor:
        """Next input embeddings (rows, d).

        Args:
            hidden: (rows, d), after the final norm.
            logits: (rows, vocabulary).
            places: seed and step of each row.
        """
        ...


class GaussianHead(nn.Module):
    """CoLaR's latent head: a Gaussian over the next latent, in units of the embedding table's spread (float32)."""

    def __init__(self, size: int, width: int, deterministic: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.mean = nn.Linear(width, size)
        self.log_sigma = None if deterministic else nn.Linear(width, size)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, (..., d) each; minus infinity for a head without spread."""
        with torch.autocast(hidden.device.type, enabled=False):
            features = self.body(hidden.to(self.mean.weight.dtype))
            mean = self.mean(features)
            if self.log_sigma is None:
                return mean, torch.full_like(mean, -torch.inf)
            return mean, self.log_sigma(features).clamp(*LOG_SIGMA)


class Gaussian:
    """A draw from the head, scaled to embeddings."""

    def __init__(self, head: GaussianHead, unit: float, temperature: float) -> None:
        self.head, self.unit, self.temperature = head, unit, temperature

    def __call__(self, hidden: Tensor, logits: Tensor, places: Places) -> Tensor:
        """See `FeedRule`."""
        mean, log_sigma = self.head(hidden)
        if self.temperature > 0:
            noise = normal_noise(places, mean.shape[-1]).to(mean.device)
            mean = mean + self.temperature * log_sigma.exp() * noise
        return (mean * self.unit).to(hidden.dtype)


class Mixture:
    """The likeliest tokens' embeddings, weighted by their probabilities among themselves."""

    def __init__(self, table: Tensor, top_k: int, noise: float = 0.0) -> None:
        self.table, self.top_k, self.noise = table, top_k, noise

    def __call__(self, hidden: Tensor, logits: Tensor, places: Places) -> Tensor:
        """See `FeedRule`."""
        scores, ids = logits.float().topk(min(self.top_k, logits.shape[-1]), -1)
        if self.noise > 0:
            gumbel = gumbel_noise(places, scores.shape[-1]).to(scores.device)
            scores = scores.log_softmax(-1) + (self.noise * gumbel).clamp(*GUMBEL)
        return mixture(self.table, ids, scores.softmax(-1))


class Hidden:
    """The hidden state itself, as Coconut feeds it."""

    def __call__(self, hidden: Tensor, logits: Tensor, places: Places) -> Tensor:
        """See `FeedRule`."""
        return hidden


def mixture(table: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of ``table`` (vocabulary, d): ``ids`` and ``weights`` (..., k) give (..., d).

    Summed in float32, so that one token of weight 1 gives its embedding exactly.
    """
    return (table[ids].float() * weights.float().unsqueeze(-1)).sum(-2).to(table.dtype)


def ends(logits: Tensor, places: Places, config: LatentConfig) -> Tensor:
    """Rows (bool) whose thinking ends now; ``logits`` are those of the newest latent, or of the prompt's end."""
    steps = torch.tensor([step for _, step in places], device=logits.device)
    if config.stop == "likeliest":
        found = logits.argmax(-1) == config.end_id
    elif config.stop == "count":
        found = torch.zeros_like(steps, dtype=torch.bool)
    else:
        chance = logits.double().softmax(-1)[:, config.end_id]
        found = uniform_noise(places).to(chance.device) < chance if config.stop == "sample" else chance >= 0.5
    return (found & (steps >= config.least_steps)) | (steps >= config.max_steps)


def feed_rule(config: LatentConfig, table: Tensor, head: GaussianHead | None) -> FeedRule:
    """The rule that a configuration names; ``table`` is the input embedding (vocabulary, d)."""
    if config.rule == "gaussian":
        if head is None:
            raise ValueError("a Gaussian rule needs its head")
        return Gaussian(head, config.embedding_std, config.temperature)
    return Mixture(table, config.top_k, config.temperature) if config.rule == "mixture" else Hidden()
