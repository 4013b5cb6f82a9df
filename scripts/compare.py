"""`laconic compare`: one run against another, problem by problem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Compare:
    """One run against a baseline, paired by problem: accuracy, tokens, and whether accuracy was kept."""

    baseline: tyro.conf.Positional[Path]
    """Run folder to compare with."""
    run: tyro.conf.Positional[Path]
    """Run folder of the method."""
    margin: float = 2.0
    """Points of accuracy that the method may lose and still count as equally accurate."""
    seed: int = 0
    """Seed of the bootstrap."""
    problems: int = 20
    """How many gained and lost problems to name; 0 for none."""
    json: str | None = None
    """File for all figures as one JSON object; - for standard output."""


def run(command: Compare) -> int:
    """Print the comparison."""
    import sys

    from eval_math.errors import BadInput
    from eval_math.paired import compare
    from eval_math.report import format_comparison
    from eval_math.statistics import Bootstrap
    from eval_math.summary import figures_json

    from .command import write_figures

    if not 0 <= command.margin <= 100:
        raise BadInput(f"--margin {command.margin}: points of accuracy from 0 to 100 are expected")
    found = compare(command.baseline, command.run, Bootstrap(seed=command.seed), margin=command.margin / 100)
    talk = sys.stderr if command.json == "-" else sys.stdout
    print(format_comparison(found, most_problems=max(0, command.problems)), file=talk)
    write_figures(command.json, figures_json(found))
    return 0
