"""CoLaR's supervised stage: latents that stand for ``rate`` tokens each (arXiv 2505.16552, sections 4 to 6).

Departures: sequences are contiguous, so that every row has its stop label (the released code loses it in a good part of
the rows for rates over 1); the speed is said in the user's turn of the chat template, between the model's own think
tags in place of ``###``; ``entropy_bonus`` is subtracted from the loss; log sigma is clamped; the unit of the latents
is measured on the embedding table; the rate is drawn per update, the same for all processes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cot.chat import Chat
from eval_math.errors import BadInput
from eval_math.records import digest

from .config import LatentConfig
from .layout import Parts, merge_embeddings, merged_sequence, pad_batch
from .losses import backbone, token_loss
from .reasoner import HEAD
from .settings import SPEED, ColarConfig


@dataclass(frozen=True)
class Losses:
    """Sums over a batch, to be divided by the counts of a whole update."""

    tokens: Tensor
    latents: Tensor
    n_latents: int
    figures: Mapping[str, float]


def latent_config(chat: Chat, table: Tensor, config: ColarConfig, template: str) -> LatentConfig:
    """What the trained folder says of itself."""
    start, end = chat.tags.start_id, chat.tags.end_id
    if start is None or end is None:
        raise BadInput("the tokenizer has no tokens of their own for <think> and </think>")
    return LatentConfig(
        "colar",
        "gaussian",
        start,
        end,
        rates=config.rates,
        speed_text=SPEED,
        embedding_std=float(table.detach().float().std()),
        head_width=config.head_width or min(2048, 2 * table.shape[1]),
        deterministic_head=config.deterministic_head,
        stop="likeliest",
        least_steps=1,
        temperature=0.0,
        template_hash=template,
    )


class ColarBatches:
    """Collator: rows with their number in the training (``visit``) become merged sequences of one rate."""

    pad_token_id: ClassVar[int] = 0

    def __init__(self, config: ColarConfig) -> None:
        self.config = config

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of `pad_batch`, and the seed of its draws."""
        rate = self.rate(int(rows[0]["visit"]) // self.config.batch_size)
        lines = [
            merged_sequence(
                Parts(list(row[f"prompt_{rate}"]), list(row["thought"]), list(row["tail"])),
                rate,
                random.Random(f"{self.config.seed}:tokens:{row['visit']}"),
                label_groups=self.config.label_groups,
            )
            for row in rows
        ]
        seed = int(digest([self.config.seed, "draws", int(rows[0]["visit"])])[:12], 16)
        return {**pad_batch(lines), "seed": torch.tensor([seed])}

    def rate(self, update: int) -> int:
        """The rate of an update."""
        return random.Random(f"{self.config.seed}:rate:{update}").choice(self.config.rates)


def colar_losses(model: Any, batch: Mapping[str, Tensor], config: ColarConfig, unit: float) -> Losses:
    """Both losses of a batch from `pad_batch`; one forward pass."""
    table = model.get_input_embeddings().weight
    embedded = merge_embeddings(table, batch["groups"], mean=config.pooling == "mean")
    hidden = backbone(model)(
        inputs_embeds=embedded,
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    ).last_hidden_state
    at = batch["predicts"][:, :-1]
    targets = embedded[:, 1:][at].detach().float() / unit
    generator = torch.Generator().manual_seed(int(batch["seed"][0]))
    latents, figures = head_loss(getattr(model, HEAD), hidden[:, :-1][at], targets, config, generator)
    return Losses(token_loss(model, hidden, batch["labels"]), latents, int(at.sum()), figures)


def head_loss(
    head: Any, hidden: Tensor, targets: Tensor, config: ColarConfig, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Summed over positions, averaged over dimensions, minus the bonus for entropy; (n, d) each.

    Soft MSE (section 6.2) is the squared error of one draw; NLL that of the Gaussian.
    """
    mean, log_sigma = head(hidden)
    error = (mean - targets).square()
    if config.deterministic_head:
        return error.mean(-1).sum(), {"latent_error": float(error.detach().mean())}
    entropy = log_sigma + 0.5 * (1 + torch.log(torch.tensor(2 * torch.pi)))
    if config.loss == "nll":
        each = log_sigma + 0.5 * (error * torch.exp(-2 * log_sigma) + torch.log(torch.tensor(2 * torch.pi)))
    else:
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        each = (mean + log_sigma.exp() * noise - targets).square()
    figures = {"latent_error": float(error.detach().mean()), "latent_sigma": float(log_sigma.detach().exp().mean())}
    return (each - config.entropy_bonus * entropy).mean(-1).sum(), figures
