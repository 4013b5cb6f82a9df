"""Latent-SFT's two stages as `Task`s of `laconic train`, the labels between them, and the method of `laconic eval`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cot.chat import Chat, template_hash
from cot.training.data import Encoder
from cot.training.rows import DataFiles, SftRow
from cot.training.task import Stage
from eval_math.errors import BadInput, StoreError
from eval_math.records import digest

from .config import LatentConfig
from .labels import SoftLabels
from .latent_sft import ENCODER, LatentEncoder, chain_loss, decoder_loss, noisy, soft_labels
from .layout import IGNORED, NO_TOKEN, Parts, group_bounds
from .plain_rows import ThoughtRows, parts_of
from .reasoner import check_embeddings
from .rows import LatentRow
from .serving import save_reasoner
from .settings import LatentSftConfig
from .thinking import CONFIG, Latent, remember
from .tracks import decoder_track, encoder_track, pad_tracks
from .training import latent_trainer

ENCODER_FILE = "latent_encoder.safetensors"


@dataclass(frozen=True)
class Numbered:
    """A row and its number in the file."""

    number: int
    row: Any


class _Rows(ThoughtRows):
    """What both stages share: rows with their number in the file."""

    def __init__(self, config: LatentSftConfig) -> None:
        self.config = config

    def read(self, data: DataFiles, limit: int | None) -> Sequence[Numbered]:
        """See `read_sft_rows`."""
        return [Numbered(number, row) for number, row in enumerate(super().read(data, limit))]

    def encode(self, encoder: Encoder, row: Numbered) -> Numbered:
        """See `rows.latent_row`."""
        return Numbered(row.number, super().encode(encoder, row.row))

    def length(self, encoded: Numbered) -> int:
        """Question, thought, a place per latent, and answer: the longer of the two lines of stage 1."""
        row: LatentRow = encoded.row
        return row.length(1) + len(group_bounds(len(row.thought), self.config.rate))

    def tokens(self, encoded: Numbered) -> int:
        """Question, thought and answer."""
        return super().tokens(encoded.row)

    def written(self, row: Numbered) -> Sequence[SftRow]:
        """The row itself."""
        return [row.row]

    def columns(self, rows: Sequence[Numbered]) -> Mapping[str, list[list[int]]]:
        """Those of `ThoughtRows`, and ``number``."""
        return {"number": [[each.number] for each in rows], **super().columns([each.row for each in rows])}


def track_batch(rows: Sequence[Parts], rate: int) -> dict[str, dict[str, Tensor]]:
    """Both lines of stage 1, padded."""
    return {
        "encoder": pad_tracks([encoder_track(each, rate) for each in rows]),
        "decoder": pad_tracks([decoder_track(each, rate) for each in rows]),
    }


class LatentVocabulary(_Rows):
    """Stage 1: the encoder, the decoder, or both.

    Args:
        part: which of them learn; the other one is frozen.
        encoder: trained encoder to start from; None = a copy of the model.
    """

    name = "latent-sft-stage1"

    def __init__(self, config: LatentSftConfig, part: str, encoder: Path | None) -> None:
        super().__init__(config)
        self.part, self._encoder = part, encoder

    def trainer(self, stage: Stage, arguments: Mapping[str, Any]) -> Any:
        """The trainer; the encoder is a submodule of its model."""
        model, config = stage.model, self.config
        check_embeddings(model)
        encoder = load_encoder(model, self._encoder) if self._encoder else LatentEncoder.of(model)
        model.requires_grad_(self.part in ("decoder", "union"))
        model.get_input_embeddings().weight.requires_grad_(False)
        setattr(model, ENCODER, encoder.requires_grad_(self.part in ("encoder", "union")))
        encoder.blocks.get_input_embeddings().weight.requires_grad_(False)

        def losses(inner: Any, batch: Mapping[str, Any]) -> Mapping[str, Any]:
            by_head = config.projection == "output"
            tokens = decoder_loss(inner, getattr(inner, ENCODER), batch, config.top_k, by_head=by_head)
            return {"tokens": tokens, "latents": tokens.new_zeros(()), "n_latents": 1, "figures": {}}

        return latent_trainer(stage, arguments, self._collate, losses, 0.0)

    def take_extras(self, model: Any) -> Callable[[Path], None]:
        """The encoder."""
        encoder = getattr(model, ENCODER)
        delattr(model, ENCODER)
        return lambda folder: save_encoder(encoder, folder)

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = track_batch([parts_of(row) for row in rows], self.config.rate)
        return {**batch, "labels": batch["decoder"]["labels"]}


class LatentChains(_Rows):
    """Stage 2: one model gives the mixtures by itself, then the answer."""

    name = "latent-sft"
    loss_unit = "nats"

    def __init__(self, config: LatentSftConfig, labels: SoftLabels) -> None:
        super().__init__(config)
        self._labels = labels

    def trainer(self, stage: Stage, arguments: Mapping[str, Any]) -> Any:
        """The trainer."""
        model, config = stage.model, self.config
        reasoner = chain_config(stage.chat, config)
        remember(model, reasoner)
        model.get_input_embeddings().weight.requires_grad_(False)

        def losses(inner: Any, batch: Mapping[str, Any]) -> Mapping[str, Any]:
            tokens, divergence = chain_loss(inner, batch)
            return {"tokens": tokens, "latents": divergence, "n_latents": len(batch["rows"]), "figures": {}}

        return latent_trainer(stage, arguments, self._collate(reasoner.end_id), losses, config.divergence_weight)

    def take_extras(self, model: Any) -> Callable[[Path], None]:
        """latent.json."""
        config = getattr(model, CONFIG)
        return lambda folder: save_reasoner(None, config, folder)

    def _collate(self, end_id: int) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            chains = [self._chain(row, end_id) for row in rows]
            return chain_batch([parts_of(row) for row in rows], chains)

        return collate

    def _chain(self, row: Mapping[str, Any], end_id: int) -> tuple[Tensor, Tensor]:
        ids, weights = map(torch.from_numpy, self._labels.row(int(row["number"][0])))
        seed = int(digest([self.config.seed, "noise", int(row["visit"])])[:12], 16)
        return ids, noisy(weights, ids, end_id, self.config.noise, torch.Generator().manual_seed(seed))


def chain_batch(rows: Sequence[Parts], chains: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The batch of `chain_loss`: question, latents, end tag and answer of each row, padded on the right."""
    lines = [
        (each.prompt + [NO_TOKEN] * len(ids) + each.tail, [IGNORED] * (len(each.prompt) + len(ids)) + each.tail,
         [NO_TOKEN] * len(each.prompt) + [at] * len(ids) + [NO_TOKEN] * len(each.tail))
        for at, (each, (ids, _)) in enumerate(zip(rows, chains, strict=True))
    ]  # fmt: skip
    width = max(len(tokens) for tokens, _, _ in lines)
    fillers = (NO_TOKEN, IGNORED, NO_TOKEN)
    padded = [
        [column + [filler] * (width - len(column)) for column, filler in zip(line, fillers, strict=True)]
        for line in lines
    ]
    tokens, labels, numbers = (torch.tensor(list(column)) for column in zip(*padded, strict=True))
    lengths = torch.tensor([len(tokens) for tokens, _, _ in lines])
    places = torch.arange(width)[None]
    return {
        "tokens": tokens,
        "labels": labels,
        "rows": numbers,
        "attention_mask": (places < lengths[:, None]).long(),
        "position_ids": places.expand(len(lines), -1),
        "ids": torch.cat([ids for ids, _ in chains]),
        "weights": torch.cat([weights for _, weights in chains]),
    }


def chain_config(chat: Chat, config: LatentSftConfig) -> LatentConfig:
    """What the trained folder says of itself."""
    start, end = chat.tags.start_id, chat.tags.end_id
    if start is None or end is None:
        raise BadInput("the tokenizer has no tokens of their own for <think> and </think>")
    return LatentConfig(
        "latent-sft",
        "mixture",
        start,
        end,
        rates=(config.rate,),
        top_k=config.top_k,
        temperature=0.0,
        template_hash=template_hash(chat.tokenizer),
    )


def soft_chains(
    model: Any, encoder: LatentEncoder, rows: Sequence[Parts], config: LatentSftConfig, batch: int = 64
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Ids and weights (N, k) of each row's latents, by the trained encoder."""
    table = model.get_input_embeddings().weight
    projection = model.get_output_embeddings().weight if config.projection == "output" else table
    for start in range(0, len(rows), batch):
        group = rows[start : start + batch]
        tracks = pad_tracks([encoder_track(each, config.rate) for each in group])
        with torch.no_grad():
            hidden = encoder({name: column.to(table.device) for name, column in tracks.items()})
            ids, weights = soft_labels(hidden, projection, config.top_k)
        counts = [len(group_bounds(len(each.thought), config.rate)) for each in group]
        for each, weight in zip(ids.cpu().split(counts), weights.float().cpu().split(counts), strict=True):
            yield each.numpy(), weight.numpy()


def save_encoder(encoder: LatentEncoder, folder: Path) -> None:
    """Write the encoder beside its decoder.

    Raises:
        StoreError: it cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    try:
        save_file(tensors, str(folder / ENCODER_FILE))
    except OSError as error:
        raise StoreError(f"{folder}: the encoder cannot be written ({error}); free some space") from error


def load_encoder(model: Any, folder: Path) -> LatentEncoder:
    """The encoder that lies in ``folder``, of the shape of ``model``.

    Raises:
        BadInput: it is missing or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    encoder = LatentEncoder.of(model)
    try:
        encoder.load_state_dict(load_file(str(folder / ENCODER_FILE)))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(f"{folder / ENCODER_FILE}: the encoder cannot be used ({error}); train stage 1 anew") from error
    return encoder


@dataclass(frozen=True)
class Superposed(Latent):
    """Latent-SFT: mixtures of likely tokens until the end tag is the likeliest."""

    name: ClassVar[str] = "latent-sft"
    summary: ClassVar[str] = "latents that are mixtures of tokens (Latent-SFT)"
