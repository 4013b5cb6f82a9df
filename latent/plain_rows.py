"""What trainings share whose rows are a question, a thought and an answer, numbered by their place in the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cot.training.data import Encoder
from cot.training.rows import DataFiles, SftRow, read_sft_rows
from cot.training.task import Task

from .layout import Parts
from .rows import latent_row


class ThoughtRows(Task):
    """A `Task` whose collator gets ``prompt``, ``thought``, ``tail`` and ``visit``."""

    numbered = True
    loss_unit = "nats per token"

    def read(self, data: DataFiles, limit: int | None) -> Sequence[Any]:
        """See `read_sft_rows`."""
        return read_sft_rows(data, limit)

    def encode(self, encoder: Encoder, row: Any) -> Any:
        """See `rows.latent_row`."""
        return latent_row(encoder, row, (1,), "")

    def length(self, encoded: Any) -> int:
        """Question, thought and answer."""
        return encoded.length(1)

    def tokens(self, encoded: Any) -> int:
        """Question, thought and answer."""
        return encoded.length(1)

    def written(self, row: Any) -> Sequence[SftRow]:
        """The row itself."""
        return [row]

    def columns(self, rows: Sequence[Any]) -> Mapping[str, list[list[int]]]:
        """``prompt``, ``thought`` and ``tail``."""
        return {
            "prompt": [row.prompts[1] for row in rows],
            "thought": [row.thought for row in rows],
            "tail": [row.tail for row in rows],
        }


def parts_of(row: Mapping[str, Any]) -> Parts:
    """A row of the data set in its three parts."""
    return Parts(list(row["prompt"]), list(row["thought"]), list(row["tail"]))
