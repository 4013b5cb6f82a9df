"""What a latent reasoner's folder needs to be served by vLLM, and what the token ids beyond its vocabulary mean there.

A vLLM beside laconic serves the folder as it is: the plug-in (`vllm_plugin`) knows the architectures named here.
vLLM passes nothing but token ids between steps, so what is no token has an id beyond the vocabulary V of the weights:

    V ... V + SEEDS - 1             the start of thinking, and the noise seed that its latents are drawn with
    V + SEEDS ... V + SEEDS + M - 1 slots: the latent that lies in one of M rows of a table

A prompt that ends with the start token is enough: its request's ``seed`` (0 without one) is taken for the noise. Slots
come out among a request's ids, one for each latent; they say nothing beyond their number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cot.engine import ModelAccess
from eval_math.errors import BadInput
from eval_math.files import write_json

from .config import LatentConfig
from .noise import SEEDS, noise_seed
from .reasoner import save_extras
from .rules import GaussianHead

ARCHITECTURES = {
    "llama": "LatentLlamaForCausalLM",
    "mistral": "LatentMistralForCausalLM",
    "qwen2": "LatentQwen2ForCausalLM",
    "qwen3": "LatentQwen3ForCausalLM",
}
"""Of each model type its class in `vllm_model`."""


@dataclass(frozen=True)
class VirtualIds:
    """Ids beyond the ``vocabulary`` of a model's weights, for ``slots`` latents at a time."""

    vocabulary: int
    slots: int

    @property
    def first_slot(self) -> int:
        """The first slot's id."""
        return self.vocabulary + SEEDS

    @property
    def total(self) -> int:
        """All ids: real, starts and slots."""
        return self.first_slot + self.slots


def save_reasoner(head: GaussianHead | None, config: LatentConfig, folder: Path) -> None:
    """Make a model folder that of a reasoner: configuration, head, and its architecture where vLLM knows the type.

    Raises:
        StoreError: it cannot be written.
    """
    save_extras(head, config, folder)
    if _read_json(folder / "config.json").get("model_type") in ARCHITECTURES:
        mark_for_vllm(folder)


def mark_for_vllm(folder: Path) -> None:
    """Name the latent architecture in ``config.json``; transformers goes by the model type and loads it as before.

    Raises:
        BadInput: a model type that vLLM cannot think with, or token ids where the virtual ones have to be.
    """
    path = folder / "config.json"
    config = _read_json(path)
    known = ARCHITECTURES.get(config.get("model_type", ""))
    if known is None:
        raise BadInput(
            f"{path}: model type {config.get('model_type')!r} cannot think in vLLM; "
            f"those that can: {', '.join(ARCHITECTURES)}"
        )
    _check_tokenizer(folder, int(config["vocab_size"]))
    write_json(path, {**config, "architectures": [known]})


def seeded_start(seed: int, vocabulary: int) -> int:
    """The id that stands for the start token and for the noise of ``seed``."""
    return vocabulary + noise_seed(seed)


@contextmanager
def thinking_as(engine: ModelAccess, config: LatentConfig) -> Iterator[None]:
    """Let the reasoner of an in-process vLLM think as ``config`` says as long as the block lasts.

    Raises:
        BadInput: another start, end, rule or head, or more steps than there are slots for.
        EngineError: the model lives in another process; start it with ``hf_overrides={"latent": {...}}`` there.
    """
    before = engine.apply_model(lambda model: model.think_as(config))
    try:
        yield
    finally:
        engine.apply_model(lambda model: model.think_as(before))


def _check_tokenizer(folder: Path, vocabulary: int) -> None:
    from transformers import AutoTokenizer

    length = len(AutoTokenizer.from_pretrained(folder))
    if length > vocabulary:
        raise BadInput(
            f"{folder}: the tokenizer has {length} tokens and the model rows for {vocabulary}; resize the model's "
            "embeddings, as ids beyond them stand for latents in vLLM"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); a model folder is expected") from error
