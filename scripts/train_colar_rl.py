"""`laconic train colar-rl`: CoLaR's reinforcement stage, from a reasoner that `laconic train colar` made."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval_math.records import Problem


@dataclass(frozen=True)
class TrainColarRl:
    """Make short correct chains of latents likelier; running the same command again resumes."""

    model: str = "latent-model"
    """Folder of a CoLaR reasoner."""
    out: Path = Path("latent-model-rl")
    """Folder of the finished reasoner, its rounds (updates.jsonl) and states."""
    benchmark: str = "embedded"
    """Problems to learn on: a benchmark, or a file with question and answer."""
    split: str = "train"
    """Their split."""
    data: Path | None = None
    """File or folder of the benchmark, where it is not to be downloaded."""
    limit: int = 512
    """The first so many problems."""
    updates: int = 64
    """Rounds of questions."""
    questions: int = 8
    """Questions per round."""
    group: int = 8
    """Answers per question."""
    mini_batch: int = 8
    """Answers per step of the optimiser."""
    learning_rate: float = 1e-6
    """The paper's, for models of a billion parameters; small ones need more."""
    per_latent: bool = False
    """Divide the reward by the number of latents."""
    rate: int = 2
    """Tokens per latent that the questions ask for."""
    max_steps: int = 64
    """Most latents of a chain."""
    max_tokens: int = 128
    """Most latents and tokens together."""
    seed: int = 0
    save_every: int = 8
    """Rounds between two states to go on from."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: TrainColarRl) -> int:
    """Train, or go on with it, and say what came out."""
    from rl.colar_rl import ColarRl, ColarRlConfig
    from rl.policies import export_policy, open_policy

    from .command import write_figures

    chosen = {field.name for field in fields(ColarRlConfig)} & {field.name for field in fields(command)}
    config = ColarRlConfig(**{name: getattr(command, name) for name in chosen})
    policy = open_policy(command.model, config)
    rows = ColarRl(policy, _problems(command), config, command.out).run()
    export_policy(policy, command.model, command.out)
    first, last = _ends(rows)
    stream = sys.stderr if command.json == "-" else sys.stdout
    for name in ("reward", "accuracy", "latents"):
        print(f"{name:<10}{first[name]:>8.3f} -> {last[name]:.3f}", file=stream)
    print(f"reasoner: {command.out}", file=stream)
    write_figures(command.json, {"start": first, "end": last, "updates": len(rows)})
    return 0


def _problems(command: TrainColarRl) -> list[Problem]:
    from cot.benchmarks import load

    return load(command.benchmark, split=command.split, data=command.data, limit=command.limit)


def _ends(rows: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Means of the first and the last tenth of the rounds."""
    part = max(1, len(rows) // 10)
    names = ("reward", "accuracy", "latents")

    def means(some: list[dict[str, Any]]) -> dict[str, float]:
        return {name: sum(row[name] for row in some) / len(some) for name in names}

    return means(rows[:part]), means(rows[-part:])
