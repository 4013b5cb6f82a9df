"""Latent-SFT: latents are mixtures of token embeddings (arXiv 2510.15522, version 2).

Stage 1 learns, with an encoder that reads the thought, the mixtures from which a decoder can go on; stage 2 teaches one
model to give those mixtures by itself (KL) and then the answer (cross-entropy).

Departures: the compress token is a vector of its own, not a row of the embedding table; the thought stands between the
model's own think tags, single tokens; the encoder is a copy of the model's blocks; Gumbel noise has one clamp in
training and in use. As in the released code and not as in the paper: a latent is taught by the next chunk alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .layout import NO_TOKEN
from .losses import backbone, token_loss
from .rules import GUMBEL, mixture
from .tracks import LATENT, induction_mask, supervision_mask

ENCODER = "latent_encoder"
REDRAWS = 100
TINY = 1e-10


class LatentEncoder(nn.Module):
    """A copy of a model's blocks, and the vector that stands for the compress token (d,)."""

    def __init__(self, blocks: nn.Module, table: Tensor) -> None:
        super().__init__()
        self.blocks: Any = blocks
        self.compress = nn.Parameter(table.detach().float().mean(0))

    @classmethod
    def of(cls, model: Any) -> LatentEncoder:
        """A fresh copy of ``model``'s blocks."""
        return cls(deepcopy(backbone(model)), model.get_input_embeddings().weight)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Last hidden states (n, d) at the compress tokens of `pad_tracks`' batch, row by row."""
        places = batch["kinds"] == LATENT
        embedded = self.blocks.get_input_embeddings()(batch["tokens"].clamp(min=0))
        embedded = torch.where(places[..., None], self.compress.to(embedded.dtype), embedded)
        hidden = self.blocks(
            inputs_embeds=embedded,
            attention_mask=induction_mask(batch["kinds"]),
            position_ids=batch["positions"],
            use_cache=False,
        ).last_hidden_state
        return hidden[places]


def soft_labels(hidden: Tensor, projection: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Token ids and probabilities (n, k): the ``top_k`` of ``hidden`` (n, d) against ``projection`` (vocabulary, d)."""
    scores, ids = (hidden.float() @ projection.float().T).topk(min(top_k, projection.shape[0]), -1)
    return ids, scores.softmax(-1)


def decoder_loss(
    model: Any, encoder: LatentEncoder, batch: Mapping[str, Mapping[str, Tensor]], top_k: int, *, by_head: bool = False
) -> Tensor:
    """Stage 1: summed cross-entropy of chunks, end tag and answer, given the encoder's mixtures (section 4.2).

    Args:
        batch: `pad_tracks` of the encoder's and of the decoder's tracks.
        by_head: project the encoder's states by the output layer (the paper) and not by the input embedding (the code).
    """
    table = model.get_input_embeddings().weight.detach()
    projection = model.get_output_embeddings().weight.detach() if by_head else table
    ids, weights = soft_labels(encoder(batch["encoder"]), projection, top_k)
    track = batch["decoder"]
    embedded = feed(table, track["tokens"], track["kinds"] == LATENT, mixture(table, ids, weights))
    hidden = backbone(model)(
        inputs_embeds=embedded,
        attention_mask=supervision_mask(track["kinds"], track["segments"]),
        position_ids=track["positions"],
        use_cache=False,
    ).last_hidden_state
    return token_loss(model, hidden, track["labels"])


def feed(table: Tensor, tokens: Tensor, places: Tensor, latents: Tensor) -> Tensor:
    """Embeddings (B, T, d) of ``tokens`` (B, T), ``latents`` (n, d) at ``places`` (B, T), row by row."""
    embedded = table[tokens.clamp(min=0)]
    return embedded.masked_scatter(places[..., None], latents.to(embedded.dtype))


def noisy(weights: Tensor, ids: Tensor, end_id: int, scale: float, generator: torch.Generator) -> Tensor:
    """A chain's weights (N, k) under Gumbel noise, drawn anew while the end tag is the heaviest token of a latent.

    After 100 draws in vain the chain stays as it was. ``scale`` 0 gives the weights back.
    """
    if scale == 0:
        return weights
    for _ in range(REDRAWS):
        gumbel = -torch.empty(weights.shape).exponential_(generator=generator).log()
        drawn = ((weights + TINY).log() + (scale * gumbel).clamp(*GUMBEL)).softmax(-1)
        if not (ids.gather(-1, drawn.argmax(-1, keepdim=True)) == end_id).any():
            return drawn
    return weights


def chain_loss(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Stage 2 (section 5): cross-entropy summed over end tag and answer; KL averaged in each row and summed over rows.

    Args:
        batch: ``tokens``, ``labels``, ``attention_mask``, ``position_ids`` and ``rows`` (B, T), the latter the row's
            number at the place of a latent and -1 elsewhere; ``ids`` and ``weights`` (n, k) of the latents row by row.
    """
    table = model.get_input_embeddings().weight.detach()
    places = batch["rows"] != NO_TOKEN
    embedded = feed(table, batch["tokens"], places, mixture(table, batch["ids"], batch["weights"]))
    hidden = backbone(model)(
        inputs_embeds=embedded,
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    ).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1][places[:, 1:]])
    each = divergence(batch["weights"], batch["ids"], logits)
    return token_loss(model, hidden, batch["labels"]), row_means(each, batch["rows"][places], len(batch["rows"])).sum()


def divergence(weights: Tensor, ids: Tensor, logits: Tensor) -> Tensor:
    """KL (n,) in nats of sparse teachers ``weights`` over ``ids`` (n, k) from students ``logits`` (n, vocabulary)."""
    weights = weights.float()
    chosen = logits.float().log_softmax(-1).gather(-1, ids)
    return (weights * (weights.clamp(min=TINY).log() - chosen)).sum(-1)


def row_means(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Means (count,) of ``values`` (n,) by row number (n,)."""
    sums = values.new_zeros(count).index_add(0, rows, values)
    return sums / values.new_zeros(count).index_add(0, rows, torch.ones_like(values)).clamp(min=1)
