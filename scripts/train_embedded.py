"""`laconic train embedded`: train the embedded reasoner from scratch on CPU cores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TrainEmbedded:
    """Train the embedded reasoner; running the same command again resumes."""

    out: Path = Path("embedded-model")
    """Folder for the finished checkpoint; the state of the run is kept beside it in OUT.run."""
    size: Literal["test", "default"] = "default"
    """`test` trains a smaller model on one and two steps in under a minute."""
    seed: int = 0
    """Seed of weights and data."""
    length: float = 1.0
    """Scale of the training length; 1 is 18 million tokens for the default size."""
    processes: bool = True
    """One single-threaded process per batch of a step (two by default); otherwise one process with two threads."""
    card: int = 1000
    """Held-out problems for the model card (default size only); 0 writes none."""
    evaluate_every: int = 300
    """Steps between measurements on dev problems; 0 for none."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: TrainEmbedded) -> int:
    """Train, export, and measure the model card."""
    import logging
    import sys

    import torch

    from cot.embedded.card import write_card
    from cot.embedded.decoding import Reasoner
    from cot.embedded.export import export_model
    from cot.embedded.measuring import dev_line
    from cot.embedded.recipe import recipe_for
    from cot.embedded.tokens import save_tokenizer
    from cot.embedded.training import Schedule, Trainer
    from cot.embedded.workers import train_in_processes

    from .command import write_figures

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1 if command.processes else 2)
    recipe = recipe_for(command.size, command.seed, command.length)
    folder = command.out.with_name(command.out.name + ".run")
    tokenizer = save_tokenizer(folder / "tokenizer")
    schedule = Schedule(evaluate_every=command.evaluate_every)
    trainer = Trainer(recipe, tokenizer, folder, schedule)

    def evaluate(model: PreTrainedModel) -> str:
        return dev_line(Reasoner(model, tokenizer), recipe)

    if command.processes:
        train_in_processes(trainer, evaluate)
    else:
        trainer.run(evaluate)
    export_model(trainer.averaged_model(), command.out)
    if command.card and command.size == "default":
        write_card(command.out, recipe, trainer.progress, problems=command.card)
    print(f"wrote {command.out}", file=sys.stderr)
    write_figures(command.json, _figures(command, trainer.progress.tokens, trainer.progress.seconds))
    return 0


def _figures(command: TrainEmbedded, tokens: int, seconds: float) -> dict[str, Any]:
    """What was trained for how long, and the model card if one was measured."""
    import json

    card = command.out / "card.json"
    measured = json.loads(card.read_text(encoding="utf-8")) if command.card and card.exists() else None
    return {"model": str(command.out), "size": command.size, "seed": command.seed, "tokens": tokens,
            "seconds": seconds, "card": measured}  # fmt: skip
