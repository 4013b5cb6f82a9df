"""`laconic train colar`: teach a model to think in latents, by CoLaR's supervised stage."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from latent.settings import ColarConfig


@dataclass(frozen=True)
class TrainColar(ColarConfig):
    """Teach a model to think in latents that stand for several tokens each; running the same command again resumes."""

    data: Path = Path("dataset")
    """Rows as for `laconic train sft`, each with a thought between think tags."""
    out: Path = Path("latent-model")
    """Folder of the finished reasoner, its checkpoints, losses and evaluations."""
    overwrite: bool = False
    """Delete an earlier training of another configuration in --out; one of the same configuration goes on."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: TrainColar) -> int:
    """Train, or go on with it, and say what came out."""
    from cot.training.contract import check_trl

    check_trl()
    from cot.training.session import Session
    from latent.colar_task import Colar

    from .train_sft import train

    config = ColarConfig(**{field.name: getattr(command, field.name) for field in fields(ColarConfig)})
    return train(Session(Colar(config), config, command.data, command.out), command.overwrite, command.json)
