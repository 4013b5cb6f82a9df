"""CoLaR as a `Task` of `laconic train`, and as a method of `laconic eval`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from cot.chat import template_hash
from cot.training.data import Encoder
from cot.training.rows import DataFiles, SftRow, read_sft_rows
from cot.training.task import Stage, Task

from .colar import ColarBatches, colar_losses, latent_config
from .reasoner import attach
from .rows import LatentRow, columns, latent_row
from .serving import save_reasoner
from .settings import SPEED, ColarConfig
from .thinking import CONFIG, Latent, remember
from .training import latent_trainer, take_head


class Colar(Task):
    """Rows of prompt and completion, as for SFT; each thought becomes latents."""

    name = "colar"
    loss_unit = "nats per token + squared error"
    numbered = True

    def __init__(self, config: ColarConfig) -> None:
        self.config = config

    def read(self, data: DataFiles, limit: int | None) -> Sequence[SftRow]:
        """See `read_sft_rows`."""
        return read_sft_rows(data, limit)

    def encode(self, encoder: Encoder, row: SftRow) -> LatentRow:
        """See `latent_row`."""
        return latent_row(encoder, row, self.config.rates, SPEED)

    def length(self, encoded: LatentRow) -> int:
        """At the slowest rate."""
        return encoded.length(min(self.config.rates))

    def tokens(self, encoded: LatentRow) -> int:
        """At the slowest rate."""
        return self.length(encoded)

    def written(self, row: SftRow) -> Sequence[SftRow]:
        """The row itself."""
        return [row]

    def columns(self, rows: Sequence[LatentRow]) -> Mapping[str, list[list[int]]]:
        """See `rows.columns`."""
        return columns(rows, self.config.rates)

    def trainer(self, stage: Stage, arguments: Mapping[str, Any]) -> Any:
        """The trainer; its model gets a fresh head."""
        model, config = stage.model, stage.config
        table = model.get_input_embeddings().weight
        reasoner = latent_config(stage.chat, table, config, template_hash(stage.chat.tokenizer))
        attach(model, reasoner)
        remember(model, reasoner)
        table.requires_grad_(not config.freeze_embeddings)

        def losses(inner: Any, batch: Mapping[str, Tensor]) -> Mapping[str, Any]:
            found = colar_losses(inner, batch, config, reasoner.embedding_std)
            return {
                "tokens": found.tokens,
                "latents": found.latents,
                "n_latents": found.n_latents,
                "figures": found.figures,
            }

        return latent_trainer(stage, arguments, ColarBatches(config), losses, config.latent_weight)

    def take_extras(self, model: Any) -> Callable[[Path], None]:
        """The head and latent.json."""
        config = getattr(model, CONFIG)
        head = take_head(model)

        return lambda folder: save_reasoner(head, config, folder)


@dataclass(frozen=True)
class AskedSpeed(Latent):
    """CoLaR: the question says how many tokens a latent stands for."""

    name: ClassVar[str] = "colar"
    summary: ClassVar[str] = "latents that stand for several tokens each (CoLaR)"
