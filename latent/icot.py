"""Internalised CoT: the thought shrinks from its start during training, in the end it is gone (arXiv 2405.14838).

Departures: the schedule is a share of the training and not tokens per epoch, so that every length of training ends
without thoughts; a longer thought loses more at once, so that all are gone together; the optimiser is not reset.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cot.training.task import Stage

from .layout import Parts as RowParts
from .layout import merge_embeddings, merged_sequence, pad_batch
from .losses import backbone, token_loss
from .plain_rows import ThoughtRows, parts_of
from .settings import IcotConfig
from .training import latent_trainer


class Icot(ThoughtRows):
    """Rows whose thoughts shrink with their place in the training."""

    name = "icot"

    def __init__(self, config: IcotConfig) -> None:
        self.config = config

    def trainer(self, stage: Stage, arguments: Mapping[str, Any]) -> Any:
        """The trainer."""
        visits = len(stage.dataset)

        def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            lines = [merged_sequence(self._shrunk(row, visits), 1, random.Random(0)) for row in rows]
            return pad_batch(lines)

        return latent_trainer(stage, arguments, collate, plain_loss, 0.0)

    def _shrunk(self, row: Mapping[str, Any], visits: int) -> RowParts:
        parts = parts_of(row)
        rng = random.Random(f"{self.config.seed}:ahead:{row['visit']}")
        share = row["visit"] / (visits * self.config.removed_by)
        gone = removed(len(parts.thought), share, rng, self.config.smoothing)
        return RowParts(parts.prompt, parts.thought[gone:], parts.tail)


def removed(length: int, share: float, rng: random.Random, smoothing: float) -> int:
    """Tokens of a thought that are gone at ``share`` of the schedule, some more by chance."""
    ahead = int(-math.log(1 - rng.random()) / smoothing)
    return min(length, int(share * length) + ahead)


def plain_loss(model: Any, batch: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Summed cross-entropy of a batch from `pad_batch`."""
    embedded = merge_embeddings(model.get_input_embeddings().weight, batch["groups"])
    hidden = backbone(model)(
        inputs_embeds=embedded,
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    ).last_hidden_state
    tokens = token_loss(model, hidden, batch["labels"])
    return {"tokens": tokens, "latents": tokens.new_zeros(()), "n_latents": 1, "figures": {}}
