"""Which recipe makes the best test bed? Trains candidates of the embedded reasoner and puts their cards side by side.

    python -m benchmarks.embedded_candidates --recipes a.json b.json --seeds 0 1 --out candidates [--json FILE]
    python -m benchmarks.embedded_candidates --models folder-with-card another [--json FILE]

A recipe file holds what differs from the shipped recipe, e.g. {"cycles": [{"tokens": 12000000}]}. Each candidate is
measured on dev problems: accuracy by prompt, steps and decoding, a small steering sweep, one head at a time under a
window, validity of shortened traces. Killed, the same command goes on where it was.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class Candidates:
    """A table of candidates, trained here or read from their cards."""

    recipes: tuple[Path, ...] = ()
    """Files with (parts of) a recipe."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to train each recipe with."""
    models: tuple[Path, ...] = ()
    """Finished checkpoints with a card.json."""
    out: Path = Path("candidates")
    """Folder for checkpoints and run folders."""
    problems: int = 200
    """Dev problems per row of a candidate's card."""
    sweep: int = 60
    """Dev problems per point of the steering sweep."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: Candidates) -> int:
    """Train and measure what is missing, then print the table."""
    from cot.embedded.card import table_text
    from scripts.command import write_figures

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folders = [_candidate(command, recipe, seed) for recipe in command.recipes for seed in command.seeds]
    rows = [candidate_row(folder) for folder in (*command.models, *folders)]
    print(table_text(rows))
    write_figures(command.json, {"name": "embedded_candidates", "rows": rows})
    return 0


def _candidate(command: Candidates, recipe_file: Path, seed: int) -> Path:
    """Checkpoint of one recipe and seed, trained and measured if it is not there."""
    import torch

    from cot.embedded.card import CardPlan, write_card
    from cot.embedded.recipe import read_recipe
    from cot.embedded.training import Progress
    from scripts.train_embedded import sections

    recipe = replace(read_recipe(recipe_file), seed=seed)
    folder = command.out / f"{recipe_file.stem}-{seed}"
    if not (folder / "card.json").is_file():
        wanted = command.out / f"{folder.name}.json"
        wanted.parent.mkdir(parents=True, exist_ok=True)
        wanted.write_text(json.dumps(asdict(recipe)))
        train = [sys.executable, "-m", "scripts.main", "train", "embedded", "--recipe", str(wanted)]
        subprocess.run([*train, "--out", str(folder), "--card", "0"], check=True)
        runs = folder.with_name(f"{folder.name}.run")
        state = torch.load(runs / "checkpoint.pt", weights_only=True)
        plan = CardPlan("dev", command.problems, command.sweep, brief=True)
        write_card(folder, runs / "card", (recipe, Progress(**state["progress"])), sections(), plan)
    return folder


def candidate_row(folder: Path) -> dict[str, Any]:
    """What the card in ``folder`` says on everything that a recipe is chosen by."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    parts = {part["title"]: part["figures"] for part in card["parts"]}
    prompts, steering, heads = parts["Prompts"], parts["Steering"], parts["Heads"]
    return {
        "candidate": folder.name,
        "tokens": f"{card['training']['tokens'] / 1e6:.1f}M in {card['training']['minutes']} min",
        "default": _cell(prompts["default, greedy"]),
        "default T=0.6": _cell(prompts["default, T=0.6"]),
        "by steps": " ".join(f"{each['accuracy']:.2f}" for each in prompts["default, greedy"]["by_steps"]),
        "concise": _cell(prompts["Be concise., greedy"]),
        "no thinking": f"{prompts['no thinking, greedy']['accuracy']:.3f}",
        "shorten": f"{parts['Shortening']['all']['accuracy']:.3f}",
        "steered": _steered(steering),
        "head spread": f"{100 * heads['spread']:.0f} of {heads['kv_heads']} heads",
    }


def _cell(record: dict[str, Any]) -> str:
    return f"{record['accuracy']:.3f} at {record['thinking_tokens']:.0f} (n={record['n']})"


def _steered(figures: dict[str, Any]) -> str:
    best = next((each for each in figures.get("test", ()) if each["label"] == "steered"), None)
    return "fails" if best is None else f"{_cell(best)}, block {best['block']} x{best['strength']}"


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Candidates)))
