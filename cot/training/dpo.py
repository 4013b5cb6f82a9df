"""Preference training by TRL's DPOTrainer: the chosen completion is made likelier than the rejected one, both measured
against the model as it was (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

The loss is a mean over pairs, so that updates do not depend on how they are shared out over processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl.trainer.dpo_config import DPOConfig as TrlConfig
from trl.trainer.dpo_trainer import DPOTrainer

from .data import EncodedPair, Encoder
from .quiet import QuietTrainer
from .rows import DataFiles, PairRow, SftRow, read_pair_rows
from .student import load_model
from .task import Stage, Task


class Dpo(Task):
    """A `Task`: rows of prompt, chosen and rejected completion."""

    name = "dpo"
    loss_unit = "nats per pair"

    def read(self, data: DataFiles, limit: int | None) -> Sequence[PairRow]:
        """See `read_pair_rows`."""
        return read_pair_rows(data, limit)

    def encode(self, encoder: Encoder, row: PairRow) -> EncodedPair:
        """See `Encoder.pair`."""
        return encoder.pair(row)

    def length(self, encoded: EncodedPair) -> int:
        """The prompt with the longer completion."""
        return len(encoded.prompt_ids) + max(len(encoded.chosen_ids), len(encoded.rejected_ids))

    def tokens(self, encoded: EncodedPair) -> int:
        """Both sequences."""
        return 2 * len(encoded.prompt_ids) + len(encoded.chosen_ids) + len(encoded.rejected_ids)

    def written(self, row: PairRow) -> Sequence[SftRow]:
        """Two rows, one for each completion."""
        return [SftRow(row.id, row.prompt, text, None, row.where) for text in (row.chosen, row.rejected)]

    def columns(self, rows: Sequence[EncodedPair]) -> Mapping[str, list[list[int]]]:
        """What TRL's collator for preferences joins."""
        return {name: [getattr(row, name) for row in rows] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}

    def trainer(self, stage: Stage, arguments: Mapping[str, Any]) -> Any:
        """TRL's trainer; the reference is the source model, or the model without its adapters."""
        config = stage.config
        loss = "sigmoid_norm" if config.length_normalised else "sigmoid"
        return PreferenceTrainer(
            model=stage.model,
            ref_model=None if stage.adapters else load_model(stage.source, config),
            args=TrlConfig(**arguments, beta=config.beta, loss_type=[loss]),
            train_dataset=stage.dataset,
            processing_class=stage.chat.tokenizer,
            peft_config=stage.adapters,
        )


class PreferenceTrainer(QuietTrainer, DPOTrainer):
    """TRL's trainer on pairs that are tokenised already."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The dataset as it is: rendering the rows anew could lose the thinking."""
        return dataset
