"""What can be set about a training, with the only defaults; light to import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from eval_math.errors import BadInput
from eval_math.records import Json

SMALL_PARAMETERS = 100_000_000
"""Models below this are trained whole unless told otherwise, larger ones by LoRA."""

NEUTRAL = frozenset(
    {"save_every", "keep_checkpoints", "report_to", "micro_batch", "gradient_checkpointing", "device", "eval_batch"}
)
"""Settings that may change between two sessions of one training: they decide speed, memory and what is kept."""

Tuning = Literal["auto", "full", "lora"]


@dataclass(frozen=True)
class TrainingConfig:
    """What supervised and preference training share."""

    model: str = "embedded"
    """Student: model folder, hub id, or `embedded`."""
    learning_rate: float | None = None
    """Peak; default 1e-5 whole, 3e-4 for whole models under 100M parameters, 2e-4 for LoRA (DPO: a twentieth)."""
    epochs: float = 2.0
    """Passes over the rows; the last update is filled up with rows of one more pass."""
    batch_size: int = 32
    """Rows per update, over all processes."""
    micro_batch: int = 8
    """Rows per forward pass of one process; processes * micro_batch must divide batch_size."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up: to zero along a cosine or a line, or constant."""
    warmup: float = 0.03
    """Share of the updates over which the learning rate rises from zero."""
    weight_decay: float = 0.001
    """Of AdamW (betas 0.9, 0.999)."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 for none."""
    max_length: int | None = None
    """Rows with more tokens are dropped, never cut; default: the model's length."""
    length_pool: int = 8
    """Batches are made of rows of like length out of so many batches; 1 for none."""
    limit: int | None = None
    """Only the first so many rows."""
    seed: int = 0
    """Of the data order, the adapters and dropout."""
    tuning: Tuning = "auto"
    """full, lora, or auto: full for models under 100M parameters."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: int = 32
    """Scale of the adapters, over their rank."""
    lora_targets: tuple[str, ...] = ("all-linear",)
    """Modules with adapters, by the end of their name; all-linear is every linear layer but the output head."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is the GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward pass; auto is bfloat16 on a GPU and float32 on CPU. Weights trained whole are float32."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations to save memory; auto is on for models from 100M parameters."""
    save_every: int = 100
    """Updates between two checkpoints in OUT/checkpoints."""
    keep_checkpoints: int = 2
    """Older ones are deleted."""
    eval_every: int = 100
    """Updates between two evaluations, one before the first and one after the last update included; 0 for none."""
    eval_benchmark: str | None = None
    """Benchmark of `laconic eval`; default: embedded for the embedded reasoner, else no evaluation."""
    eval_split: str | None = None
    """Its split; default: dev for embedded, else test."""
    eval_limit: int = 50
    """Its first so many problems."""
    eval_method: str = "none"
    """Method of `laconic eval` with its parameters."""
    eval_max_tokens: int = 2048
    """Longest output, thinking included."""
    eval_batch: int = 32
    """Problems answered at once."""
    report_to: str = "none"
    """Where TRL reports to besides: none, tensorboard, wandb, trackio, ..."""

    def __post_init__(self) -> None:
        checks = {
            "learning_rate": self.learning_rate is None or 0 < self.learning_rate < 1,
            "epochs": 0 < self.epochs < 10_000,
            "batch_size": self.batch_size >= 1,
            "micro_batch": self.micro_batch >= 1,
            "warmup": 0 <= self.warmup < 1,
            "weight_decay": 0 <= self.weight_decay < 1,
            "gradient_clip": self.gradient_clip >= 0,
            "max_length": self.max_length is None or self.max_length >= 2,
            "length_pool": self.length_pool >= 1,
            "limit": self.limit is None or self.limit >= 1,
            "lora_rank": self.lora_rank >= 1,
            "lora_alpha": self.lora_alpha >= 1,
            "lora_targets": bool(self.lora_targets),
            "save_every": self.save_every >= 1,
            "keep_checkpoints": self.keep_checkpoints >= 1,
            "eval_every": self.eval_every >= 0,
            "eval_limit": self.eval_limit >= 1,
            "eval_max_tokens": self.eval_max_tokens >= 1,
            "eval_batch": self.eval_batch >= 1,
        }
        wrong = next((name for name, good in checks.items() if not good), None)
        if wrong:
            raise BadInput(
                f"{wrong}={getattr(self, wrong)!r}: out of range; see `laconic train --help` for its meaning"
            )

    @property
    def benchmark(self) -> str | None:
        """The benchmark to evaluate on, None for no evaluation."""
        if not self.eval_every:
            return None
        return self.eval_benchmark or ("embedded" if self.model == "embedded" else None)

    def decisive(self) -> dict[str, Json]:
        """The settings that a resumed training must share."""
        values = {name: value for name, value in asdict(self).items() if name not in NEUTRAL}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class SftConfig(TrainingConfig):
    """Supervised fine-tuning: cross-entropy on completion tokens, averaged over all of an update."""


@dataclass(frozen=True)
class DpoConfig(TrainingConfig):
    """Preference training (Rafailov et al. 2023, arXiv 2305.18290, equation 7)."""

    beta: float = 0.1
    """Weight of the log-ratios: the larger, the closer to the reference."""
    length_normalised: bool = False
    """Log-ratios per token instead of summed (TRL's `sigmoid_norm`); they are smaller, so take beta of 1 to 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise BadInput(f"beta={self.beta}: more than 0 is expected")


@dataclass(frozen=True)
class World:
    """This process among those of the training."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> World:
        """What `accelerate launch` or torchrun say in RANK and WORLD_SIZE; alone without them."""
        source = os.environ if environ is None else environ
        return cls(int(source.get("RANK", "0")), int(source.get("WORLD_SIZE", "1")))

    def accumulation(self, config: TrainingConfig) -> int:
        """Forward passes of each process per update.

        Raises:
            BadInput: batch_size cannot be shared out evenly.
        """
        together = self.size * config.micro_batch
        if config.batch_size % together:
            raise BadInput(
                f"batch_size={config.batch_size} is no multiple of {self.size} process(es) * micro_batch="
                f"{config.micro_batch} = {together}, so one update cannot be shared out evenly; change one of them"
            )
        return config.batch_size // together


def resolved(config: TrainingConfig, parameters: int, on_gpu: bool) -> TrainingConfig:
    """``config`` with every ``auto`` and None decided for a model of so many parameters."""
    small = parameters < SMALL_PARAMETERS
    tuning = config.tuning if config.tuning != "auto" else "full" if small else "lora"
    rate = 2e-4 if tuning == "lora" else 3e-4 if small else 1e-5
    if isinstance(config, DpoConfig):
        rate /= 20
    switch = "off" if small else "on"
    return replace(
        config,
        tuning=tuning,
        learning_rate=config.learning_rate or rate,
        dtype=config.dtype if config.dtype != "auto" else "bfloat16" if on_gpu else "float32",
        gradient_checkpointing=switch if config.gradient_checkpointing == "auto" else config.gradient_checkpointing,
    )
