"""`laconic train latent-sft`: teach a model to think in mixtures of tokens, both stages."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from latent.settings import LatentSftConfig


@dataclass(frozen=True)
class TrainLatentSft(LatentSftConfig):
    """Teach a model to think in mixtures of tokens: encoder and decoder first, in OUT-stage1, then the reasoner in OUT.

    Running the same command again resumes.
    """

    data: Path = Path("dataset")
    """Rows as for `laconic train sft`, each with a thought between think tags."""
    out: Path = Path("latent-model")
    """Folder of the finished reasoner, its checkpoints, losses and evaluations."""
    overwrite: bool = False
    """Delete an earlier training of another configuration; one of the same configuration goes on."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: TrainLatentSft) -> int:
    """Train, or go on with it, and say what came out."""
    from cot.training.contract import check_trl

    check_trl()
    from latent.latent_sft_run import train_latent_sft

    from .train_sft import run_session, show

    config = LatentSftConfig(**{field.name: getattr(command, field.name) for field in fields(LatentSftConfig)})
    overwrite = command.overwrite
    outcome = train_latent_sft(
        config, command.data, command.out, lambda session: run_session(session, overwrite), overwrite=overwrite
    )
    show(outcome, command.json)
    return 0
