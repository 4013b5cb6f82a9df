"""Rows of a latent training: `laconic train sft`'s rows, cut at the tags of the thought, with a prompt per rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cot.training.data import Encoder
from cot.training.rows import SftRow
from eval_math.errors import BadInput
from eval_math.records import Message

from .layout import Parts, group_bounds, split_row


@dataclass(frozen=True)
class LatentRow:
    """A row as ids: its prompt for each rate, ending with the start tag; the thought; the end tag with the answer."""

    id: str
    prompts: Mapping[int, list[int]]
    thought: list[int]
    tail: list[int]

    def length(self, rate: int) -> int:
        """Positions of its sequence with so many tokens per latent."""
        return len(self.prompts[rate]) + len(group_bounds(len(self.thought), rate)) + len(self.tail)

    def parts(self, rate: int) -> Parts:
        """The row as it is asked at ``rate``."""
        return Parts(self.prompts[rate], self.thought, self.tail)


def latent_row(encoder: Encoder, row: SftRow, rates: Sequence[int], speed_text: str) -> LatentRow:
    """The ids of a row.

    Raises:
        BadInput: no thought between its tags, or a tokenizer without tags; see `Encoder.row` for others.
    """
    cut = {}
    for rate in rates:
        asked = replace(row, prompt=with_speed(row.prompt, speed_text.replace("{rate}", str(rate))))
        encoded = encoder.row(asked)
        try:
            cut[rate] = split_row(encoder.chat, encoded.prompt_ids, encoded.completion_ids)
        except BadInput as error:
            raise BadInput(f"{row.where}: {error}") from error
    first = cut[rates[0]]
    return LatentRow(row.id, {rate: parts.prompt for rate, parts in cut.items()}, first.thought, first.tail)


def with_speed(messages: tuple[Message, ...], said: str) -> tuple[Message, ...]:
    """The conversation with ``said`` at the end of its last turn."""
    return (*messages[:-1], replace(messages[-1], content=messages[-1].content + said))


def columns(rows: Sequence[LatentRow], rates: Sequence[int]) -> dict[str, list[list[int]]]:
    """``prompt_R`` for each rate, ``thought`` and ``tail``."""
    prompts = {f"prompt_{rate}": [row.prompts[rate] for row in rows] for rate in rates}
    return {**prompts, "thought": [row.thought for row in rows], "tail": [row.tail for row in rows]}
