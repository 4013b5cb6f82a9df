"""Coconut: hidden states fed back in place of steps, more of them from stage to stage (arXiv 2412.06769).

Departures: stages are shares of the training and not epochs; the optimiser is not reset; a step ends with the token
that ends a sentence; in the last stage the whole thought is replaced. All latents of a batch stand in one column, so
that one pass per latent serves all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cot.chat import Chat, template_hash
from cot.training.task import Stage
from eval_math.errors import BadInput

from .config import LatentConfig
from .layout import IGNORED, Parts
from .losses import backbone, token_loss
from .plain_rows import ThoughtRows, parts_of
from .reasoner import check_embeddings
from .serving import save_reasoner
from .settings import CoconutConfig
from .thinking import CONFIG, remember
from .training import latent_trainer

SENTENCE_ENDS = (".", "!", "?", "\n")


class Coconut(ThoughtRows):
    """Rows whose first steps become hidden states, by their place in the training."""

    name = "coconut"

    def __init__(self, config: CoconutConfig) -> None:
        self.config = config

    def trainer(self, stage: Stage, arguments: Mapping[str, Any]) -> Any:
        """The trainer."""
        check_embeddings(stage.model)
        remember(stage.model, coconut_config(stage.chat, self.config))
        ends, visits = step_ends(stage.chat), len(stage.dataset)

        def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            number = stage_at(int(rows[0]["visit"]) / visits, self.config)
            shown = [replaced(parts_of(row), number, self.config.stages, ends) for row in rows]
            return coconut_batch(shown, number * self.config.latents_per_step)

        return latent_trainer(stage, arguments, collate, coconut_loss, 0.0)

    def take_extras(self, model: Any) -> Callable[[Path], None]:
        """latent.json."""
        config = getattr(model, CONFIG)
        return lambda folder: save_reasoner(None, config, folder)


def stage_at(share: float, config: CoconutConfig) -> int:
    """The stage (0 to ``stages``) at a share of the training; the later ones take equal parts."""
    if share < config.first_stage:
        return 0
    return min(config.stages, 1 + int((share - config.first_stage) / (1 - config.first_stage) * config.stages))


def step_ends(chat: Chat) -> frozenset[int]:
    """Tokens that end a step: those whose text ends a sentence."""
    vocabulary = chat.tokenizer.get_vocab().values()
    return frozenset(token for token in vocabulary if chat.decode([token]).rstrip(" ").endswith(SENTENCE_ENDS))


def replaced(parts: Parts, stage: int, stages: int, ends: frozenset[int]) -> Parts:
    """The row without its first ``stage`` steps; without any in the last stage."""
    if stage >= stages:
        return Parts(parts.prompt, [], parts.tail)
    bounds = [0, *(at + 1 for at, token in enumerate(parts.thought) if token in ends)]
    return Parts(parts.prompt, parts.thought[bounds[min(stage, len(bounds) - 1)] :], parts.tail)


def coconut_batch(rows: Sequence[Parts], n_latents: int) -> dict[str, Tensor]:
    """``before`` (B, P) padded on the left with ``before_mask``, ``labels`` and ``after_mask`` (B, R) padded on the
    right, and ``n_latents`` between them; what is written after the latents is label and input at once."""
    before = max(len(row.prompt) for row in rows)
    written = [row.thought + row.tail for row in rows]
    after = max(map(len, written))
    return {
        "before": torch.tensor([[0] * (before - len(row.prompt)) + row.prompt for row in rows]),
        "before_mask": torch.tensor([[0] * (before - len(row.prompt)) + [1] * len(row.prompt) for row in rows]),
        "labels": torch.tensor([each + [IGNORED] * (after - len(each)) for each in written]),
        "after_mask": torch.tensor([[1] * len(each) + [0] * (after - len(each)) for each in written]),
        "n_latents": torch.tensor([n_latents]),
    }


def coconut_loss(model: Any, batch: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Summed cross-entropy after ``n_latents`` passes, each of which feeds the last hidden state back."""
    table, blocks = model.get_input_embeddings(), backbone(model)
    n_latents = int(batch["n_latents"][0])
    rows = len(batch["before"])
    mask = torch.cat([batch["before_mask"], batch["after_mask"].new_ones(rows, n_latents), batch["after_mask"]], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    fed, cache, start, states = table(batch["before"]), None, 0, list[Tensor]()
    for number in range(n_latents + 1):
        if number == n_latents:
            fed = torch.cat([fed, table(batch["labels"].clamp(min=0))], 1)
        stop = start + fed.shape[1]
        out = blocks(
            inputs_embeds=fed,
            attention_mask=mask[:, :stop],
            position_ids=positions[:, start:stop],
            past_key_values=cache,
            use_cache=True,
        )
        states.append(out.last_hidden_state)
        fed, cache, start = out.last_hidden_state[:, -1:], out.past_key_values, stop
    width = batch["labels"].shape[1]
    hidden = states[-1][:, -(width + 1) :]
    labels = torch.cat([batch["labels"].new_full((rows, 1), IGNORED), batch["labels"]], 1)
    tokens = token_loss(model, hidden, labels)
    return {"tokens": tokens, "latents": tokens.new_zeros(()), "n_latents": 1, "figures": {}}


def coconut_config(chat: Chat, config: CoconutConfig) -> LatentConfig:
    """What the trained folder says of itself: a fixed number of hidden states, then the end tag."""
    start, end = chat.tags.start_id, chat.tags.end_id
    if start is None or end is None:
        raise BadInput("the tokenizer has no tokens of their own for <think> and </think>")
    steps = config.stages * config.latents_per_step
    return LatentConfig("coconut", "hidden", start, end, stop="count", least_steps=steps, max_steps=steps,
                        temperature=0.0, template_hash=template_hash(chat.tokenizer))  # fmt: skip
