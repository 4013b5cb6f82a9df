"""`laconic train colar|latent-sft|icot|coconut`: teach a model to think in latents, or without words."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from latent.settings import CoconutConfig, ColarConfig, IcotConfig, LatentSftConfig

if TYPE_CHECKING:
    from cot.training.session import Outcome
    from cot.training.task import Task


@dataclass(frozen=True)
class _Where:
    """Flags that all of them share."""

    data: Path = Path("dataset")
    """Rows as for `laconic train sft`, each with a thought between think tags."""
    out: Path = Path("latent-model")
    """Folder of the finished model, its checkpoints, losses and evaluations."""
    overwrite: bool = False
    """Delete an earlier training of another configuration in --out; one of the same configuration goes on."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


@dataclass(frozen=True)
class TrainColar(_Where, ColarConfig):
    """Teach a model to think in latents that stand for several tokens each (CoLaR).

    Running the same command again resumes.
    """


@dataclass(frozen=True)
class TrainLatentSft(_Where, LatentSftConfig):
    """Teach a model to think in mixtures of tokens (Latent-SFT): stage 1 in OUT-stage1, then the reasoner in OUT.

    Running the same command again resumes.
    """


@dataclass(frozen=True)
class TrainIcot(_Where, IcotConfig):
    """Teach a model to answer without thinking: its thoughts shrink until they are gone (internalised CoT).

    Running the same command again resumes.
    """


@dataclass(frozen=True)
class TrainCoconut(_Where, CoconutConfig):
    """Teach a model to think in hidden states that are fed back (Coconut).

    Running the same command again resumes.
    """


Command = TrainColar | TrainLatentSft | TrainIcot | TrainCoconut


def run(command: Command) -> int:
    """Train, or go on with it, and say what came out."""
    from cot.training.config import World
    from cot.training.contract import check_trl
    from cot.training.session import leave_group

    from .train_sft import show

    check_trl()
    outcome = _latent_sft(command) if isinstance(command, TrainLatentSft) else _one(command)
    if World.from_environment().rank == 0:
        show(outcome, command.json)
    leave_group()
    return 0


def _latent_sft(command: TrainLatentSft) -> Outcome:
    from latent.latent_sft_run import train_latent_sft

    from .train_sft import run_session

    config = LatentSftConfig(**{field.name: getattr(command, field.name) for field in fields(LatentSftConfig)})
    return train_latent_sft(
        config,
        command.data,
        command.out,
        lambda session: run_session(session, command.overwrite),
        overwrite=command.overwrite,
    )


def _one(command: TrainColar | TrainIcot | TrainCoconut) -> Outcome:
    from cot.training.session import Session

    from .train_sft import run_session

    kind = next(kind for kind in (ColarConfig, IcotConfig, CoconutConfig) if isinstance(command, kind))
    config = kind(**{field.name: getattr(command, field.name) for field in fields(kind)})
    return run_session(Session(_task(config), config, command.data, command.out), command.overwrite)


def _task(config: ColarConfig | IcotConfig | CoconutConfig) -> Task:
    if isinstance(config, ColarConfig):
        from latent.colar_task import Colar

        return Colar(config)
    if isinstance(config, IcotConfig):
        from latent.icot import Icot

        return Icot(config)
    from latent.coconut import Coconut

    return Coconut(config)
