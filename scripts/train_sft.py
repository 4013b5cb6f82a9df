"""`laconic train sft`: fine-tune a model on rows of prompt and completion."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from cot.training.config import SftConfig

if TYPE_CHECKING:
    from cot.training.session import Outcome, Session


@dataclass(frozen=True)
class TrainSft(SftConfig):
    """Fine-tune a model on rows of prompt and completion; running the same command again resumes.

    For more than one process: torchrun --nproc_per_node N -m laconic_cli.main train sft ...
    """

    data: Path = Path("dataset")
    """JSON lines with the columns prompt and completion, or a folder with train*.jsonl or a saved dataset."""
    out: Path = Path("trained-model")
    """Folder of the finished model, its checkpoints, losses and evaluations."""
    overwrite: bool = False
    """Delete an earlier training of another configuration in --out; one of the same configuration goes on."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: TrainSft) -> int:
    """Train, or go on with it, and say what came out."""
    from cot.training.contract import check_trl

    check_trl()
    from cot.training.session import Session
    from cot.training.sft import Sft

    config = SftConfig(**{field.name: getattr(command, field.name) for field in fields(SftConfig)})
    return train(Session(Sft(), config, command.data, command.out), command.overwrite, command.json)


def train(session: Session, overwrite: bool, target: str | None) -> int:
    """Run a session with words around it; on rank 0 alone they are printed."""
    from cot.training.session import leave_group

    outcome = run_session(session, overwrite)
    if session.world.rank == 0:
        show(outcome, target)
    leave_group()
    return 0


def run_session(session: Session, overwrite: bool) -> Outcome:
    """Run a session; its plan, and where it stands when it is interrupted, are printed on rank 0."""
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    first = session.world.rank == 0
    if first:
        print(_plan(session), file=sys.stderr)
    try:
        return session.run(overwrite=overwrite)
    except KeyboardInterrupt:
        if first:
            print(f"\n{_kept(session.out)}", file=sys.stderr)
        raise


def _plan(session: Session) -> str:
    facts, config = session.prepared.facts, session.config
    lines = [
        f"{facts['rows']} rows read, {facts['too_long']} left out (over {facts['max_length']} tokens), "
        f"{facts['trained']} to train on",
        f"{session.updates} updates of {config.batch_size} rows: {session.world.size} process(es) x "
        f"{session.accumulation} pass(es) x {config.micro_batch} rows; {config.tuning}, {config.dtype}, "
        f"learning rate {config.learning_rate:g}",
        *(f"WARNING: {text}" for text in session.prepared.warnings),
    ]
    return "\n".join(lines)


def _kept(out: Path) -> str:
    from cot.training.folder import checkpoint_step, last_checkpoint

    found = last_checkpoint(out)
    if found is None:
        return f"no checkpoint in {out} yet: the same command starts anew"
    return f"the last checkpoint in {out} is kept: the same command goes on from update {checkpoint_step(found)}"


def show(outcome: Outcome, target: str | None) -> None:
    """Print what came out of a training, and write its figures to ``target``."""
    from .command import write_figures

    figures = dict(outcome.figures)
    stream = sys.stderr if target == "-" else sys.stdout
    if not outcome.updates:
        print(f"{outcome.folder} was finished before; nothing to do", file=stream)
    elif outcome.resumed:
        print(f"went on from update {outcome.resumed}", file=stream)
    print(f"loss {figures['loss_start']:.4f} -> {figures['loss_end']:.4f} in {figures['updates']} updates", file=stream)
    print(f"model: {outcome.folder}\nevaluate it: laconic eval --model {outcome.folder}", file=stream)
    write_figures(target, {"folder": str(outcome.folder), **figures})
