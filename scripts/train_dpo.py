"""`laconic train dpo`: train a model to prefer one completion over another."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from cot.training.config import DpoConfig


@dataclass(frozen=True)
class TrainDpo(DpoConfig):
    """Train a model to prefer the chosen over the rejected completion; running the same command again resumes.

    For more than one process: torchrun --nproc_per_node N -m laconic_cli.main train dpo ...
    """

    data: Path = Path("dataset")
    """JSON lines with the columns prompt, chosen and rejected, or a folder with train*.jsonl or a saved dataset."""
    out: Path = Path("trained-model")
    """Folder of the finished model, its checkpoints, losses and evaluations."""
    overwrite: bool = False
    """Delete an earlier training of another configuration in --out; one of the same configuration goes on."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: TrainDpo) -> int:
    """Train, or go on with it, and say what came out."""
    from cot.training.contract import check_trl

    check_trl()
    from cot.training.dpo import Dpo
    from cot.training.session import Session

    from .train_sft import train

    config = DpoConfig(**{field.name: getattr(command, field.name) for field in fields(DpoConfig)})
    return train(Session(Dpo(), config, command.data, command.out), command.overwrite, command.json)
