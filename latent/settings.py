"""Settings of the latent trainings, free of torch, so that a command's help is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cot.training.config import TrainingConfig
from eval_math.errors import BadInput

SPEED = " (Thinking speed: {rate})"


@dataclass(frozen=True)
class ColarConfig(TrainingConfig):
    """CoLaR: one model for several speeds; a Gaussian head predicts the next merged embedding."""

    rates: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Tokens per latent, one drawn for each update."""
    loss: Literal["soft-mse", "nll"] = "soft-mse"
    """Of the head: squared error of a draw, or negative log-likelihood."""
    latent_weight: float = 1.0
    """Weight of the head's loss beside the cross-entropy."""
    entropy_bonus: float = 1e-6
    """Reward for spread, per nat of the head's entropy."""
    label_groups: bool = True
    """Teach the output layer a token of each next latent; without it only end and answer."""
    pooling: Literal["root", "mean"] = "root"
    """Merged embedding: the sum over the root of the number of tokens, or over the number."""
    head_width: int = 0
    """Hidden width of the head; 0 = twice the model's, at most 2048."""
    deterministic_head: bool = False
    """A head without spread."""
    freeze_embeddings: bool = True
    """Leave the embedding table, which the latents are measured by, as it is; a tied output layer stays too."""
    eval_method: str = "colar"
    """Method of `laconic eval` with its parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rates or min(self.rates) < 1 or max(self.rates) > 64:
            raise BadInput(f"rates={self.rates}: whole numbers from 1 to 64 are expected")
        for name in ("latent_weight", "entropy_bonus", "head_width"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name}={getattr(self, name)}: 0 or more is expected")


@dataclass(frozen=True)
class LatentSftConfig(TrainingConfig):
    """Latent-SFT: an encoder finds mixtures of tokens that stand for the thought; the model learns to give them."""

    rate: int = 2
    """Tokens of the thought per latent."""
    top_k: int = 10
    """Tokens of a mixture."""
    stages: tuple[Literal["encoder", "decoder", "union"], ...] = ("encoder", "decoder", "union")
    """Stage 1 in order: the encoder alone, the decoder alone, both. `union` alone is cheaper, and not the paper's."""
    stage_epochs: float = 1.0
    """Passes over the rows in each part of stage 1; ``epochs`` are those of stage 2."""
    projection: Literal["embedding", "output"] = "embedding"
    """What the encoder's states are compared with: the embedding table (the code), or the output layer (the paper)."""
    noise: float = 1.0
    """Scale of the Gumbel noise on the mixtures in stage 2."""
    divergence_weight: float = 1.0
    """Weight of the divergence from the mixtures beside the cross-entropy."""
    eval_method: str = "latent-sft"
    """Method of `laconic eval` with its parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.rate <= 64:
            raise BadInput(f"rate={self.rate}: 1 to 64 tokens per latent are expected")
        if self.top_k < 1 or self.noise < 0 or self.divergence_weight < 0 or not 0 < self.stage_epochs < 10_000:
            raise BadInput(
                f"top_k={self.top_k}, noise={self.noise}, divergence_weight={self.divergence_weight}, "
                f"stage_epochs={self.stage_epochs}: out of range"
            )
        if not self.stages or self.stages[-1] == "encoder":
            raise BadInput(f"stages={self.stages}: the decoder must be trained in the end, by decoder or union")


@dataclass(frozen=True)
class IcotConfig(TrainingConfig):
    """Internalised CoT: the thought is taken away token by token, from its start, until none is left.

    The finished model answers without thinking, on any engine.
    """

    removed_by: float = 0.7
    """Share of the training after which whole thoughts are gone."""
    smoothing: float = 4.0
    """A row is ahead of the schedule by j tokens with probability proportional to exp(-j * this)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.removed_by <= 1 or self.smoothing <= 0:
            raise BadInput(f"removed_by={self.removed_by}, smoothing={self.smoothing}: a share, and more than 0")


@dataclass(frozen=True)
class CoconutConfig(TrainingConfig):
    """Coconut: step by step the thought is replaced by hidden states that are fed back."""

    latents_per_step: int = 2
    """Hidden states in place of each step."""
    stages: int = 3
    """Most steps that are replaced; in the last stage what is left of the thought is left out too."""
    first_stage: float = 0.0
    """Share of the training before the first step is replaced."""
    eval_method: str = "latent"
    """Method of `laconic eval` with its parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latents_per_step < 1 or self.stages < 1 or not 0 <= self.first_stage < 1:
            raise BadInput(
                f"latents_per_step={self.latents_per_step}, stages={self.stages}, first_stage={self.first_stage}: "
                "at least 1, at least 1, and a share below 1 are expected"
            )
