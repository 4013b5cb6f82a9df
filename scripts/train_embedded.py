"""`laconic train embedded`: train the embedded reasoner from scratch on CPU cores, and measure it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from cot.embedded.card import Section
    from cot.embedded.recipe import Recipe


@dataclass(frozen=True)
class TrainEmbedded:
    """Train the embedded reasoner; running the same command again resumes."""

    out: Path = Path("embedded-model")
    """Folder for the finished checkpoint; the state of the run is kept beside it in OUT.run."""
    size: Literal["test", "default", "large"] = "default"
    """`test` trains a smaller model on one and two steps in under a minute; `large` is meant for a GPU."""
    seed: int = 0
    """Seed of weights and data."""
    length: float = 1.0
    """Scale of the training length; 1 is 20.5 million tokens for the default size."""
    recipe: Path | None = None
    """A card.json, or a file with its `recipe`, to train instead of a size; seed and length are then the file's."""
    processes: bool = True
    """One single-threaded process per batch of a step (two by default); otherwise one process with two threads."""
    device: str = "auto"
    """auto, cpu or cuda; auto takes a GPU only for the large size. Training on a GPU takes one process."""
    card: int = 1000
    """Held-out problems for each row of the model card (not for the test size); 0 writes none."""
    evaluate_every: int = 500
    """Steps between measurements on dev problems; 0 for none."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: TrainEmbedded) -> int:
    """Train, export, and measure the model card."""
    import logging
    import sys

    import torch

    from cot.embedded.card import CardPlan, write_card
    from cot.embedded.export import export_model
    from cot.embedded.recipe import read_recipe, recipe_for
    from cot.embedded.tokens import save_tokenizer
    from cot.embedded.training import Schedule, Trainer, choose_device
    from cot.embedded.workers import train_in_processes

    from .command import write_figures

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = read_recipe(command.recipe) if command.recipe else recipe_for(command.size, command.seed, command.length)
    device = choose_device(command.device, recipe)
    folder = command.out.with_name(command.out.name + ".run")
    tokenizer = save_tokenizer(folder / "tokenizer")
    trainer = Trainer(recipe, tokenizer, folder, Schedule(evaluate_every=command.evaluate_every), device)
    together = command.processes and device.type == "cpu"
    torch.set_num_threads(1 if together else 2)
    if together:
        train_in_processes(trainer, _evaluation(recipe, folder))
    else:
        trainer.run(_evaluation(recipe, folder))
    export_model(trainer.averaged_model(), command.out)
    if command.card and recipe.size != "test":
        plan = CardPlan(problems=command.card)
        write_card(command.out, folder / "card", (recipe, trainer.progress), sections(), plan)
    print(f"wrote {command.out}", file=sys.stderr)
    write_figures(command.json, _figures(command, trainer.progress.tokens, trainer.progress.seconds))
    return 0


def sections() -> list[Section]:
    """The sections of a model card, from every package that brings one."""
    from cot.embedded.card import Prompts, Shortening
    from rl.embedded import HeadSection
    from steering.embedded import SteeringSection

    return [Prompts(), Shortening(), SteeringSection(), HeadSection()]


def _evaluation(recipe: Recipe, folder: Path) -> Any:
    """What the trainer calls between steps: export the averaged model, measure it, one line for the log."""
    from cot.embedded.export import export_model
    from cot.embedded.probes import dev_line

    mix = recipe.cycles[-1].mix
    steps = (min(2, mix.steps[1]), min(5, mix.steps[1]))

    def evaluate(model: LlamaForCausalLM) -> str:
        export_model(model, folder / "averaged")
        return dev_line(folder / "averaged", steps, mix.largest, mix.concise > 0)

    return evaluate


def _figures(command: TrainEmbedded, tokens: int, seconds: float) -> dict[str, Any]:
    """What was trained for how long, and the model card if one was measured."""
    import json

    card = command.out / "card.json"
    measured = json.loads(card.read_text(encoding="utf-8")) if command.card and card.exists() else None
    return {"model": str(command.out), "size": command.size, "seed": command.seed, "tokens": tokens,
            "seconds": seconds, "card": measured}  # fmt: skip
