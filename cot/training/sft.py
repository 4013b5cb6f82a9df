"""Supervised fine-tuning by TRL's SFTTrainer: cross-entropy of completion tokens, averaged over those of an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl.trainer.sft_config import SFTConfig as TrlConfig
from trl.trainer.sft_trainer import SFTTrainer

from .data import EncodedRow, Encoder
from .quiet import QuietTrainer
from .rows import DataFiles, SftRow, read_sft_rows
from .task import Stage, Task


class Sft(Task):
    """A `Task`: rows of prompt and completion."""

    name = "sft"
    loss_unit = "nats per token"

    def read(self, data: DataFiles, limit: int | None) -> Sequence[SftRow]:
        """See `read_sft_rows`."""
        return read_sft_rows(data, limit)

    def encode(self, encoder: Encoder, row: SftRow) -> EncodedRow:
        """See `Encoder.row`."""
        return encoder.row(row)

    def length(self, encoded: EncodedRow) -> int:
        """Prompt and completion."""
        return len(encoded.prompt_ids) + len(encoded.completion_ids)

    def tokens(self, encoded: EncodedRow) -> int:
        """Prompt and completion."""
        return self.length(encoded)

    def written(self, row: SftRow) -> Sequence[SftRow]:
        """The row itself."""
        return [row]

    def columns(self, rows: Sequence[EncodedRow]) -> Mapping[str, list[list[int]]]:
        """``input_ids`` and ``labels``, which TRL's collator pads and leaves as they are otherwise."""
        return {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}

    def trainer(self, stage: Stage, arguments: Mapping[str, Any]) -> Any:
        """TRL's trainer on rows that it is not to prepare any more."""
        settings = TrlConfig(**arguments, packing=False, dataset_kwargs={"skip_prepare_dataset": True})
        return CompletionTrainer(
            model=stage.model,
            args=settings,
            train_dataset=stage.dataset,
            processing_class=stage.chat.tokenizer,
            peft_config=stage.adapters,
        )


class CompletionTrainer(QuietTrainer, SFTTrainer):
    """TRL's trainer of completions."""
