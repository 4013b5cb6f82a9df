"""`laconic demo`: pairs, vector, sweep, baseline and steered runs, table and report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Demo:
    """The main job on this machine in minutes: a reasoning model is steered to think shorter at equal accuracy.

    Pairs of long and short traces give a vector, a sweep on dev problems its block and strength; on held-out problems
    plain generation, the steered model, a random vector of equal norm, a brevity prompt and thinking cut at equal
    length are compared. The same command again shows the stored result.
    """

    out: Path = Path("laconic-demo")
    """Folder for runs, vector and report."""
    model: str = "embedded"
    """Model folder, hub id, or `embedded` for the reasoner that ships with laconic."""
    engine: str = "auto"
    """hf, vllm, or auto: vllm where it is installed, else hf."""
    pairs: int = 100
    """Pairs behind the vector."""
    dev: int = 80
    """Problems per point of the sweep."""
    test: int = 300
    """Held-out problems per method."""
    blocks: tuple[int, ...] = ()
    """Blocks to sweep, from 0; default: the last two."""
    strengths: tuple[float, ...] = (0.15, 0.25, 0.35, 0.5)
    """Strengths to sweep."""
    margin: float = 0.02
    """Accuracy that the sweep may give up, as a fraction."""
    batch_size: int = 64
    """Requests decoded at once."""
    seed: int = 0
    """Seed of decoding and of the random vector."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: Demo) -> int:
    """Run what is missing and show the table."""
    import logging
    import sys

    from eval_math.report.terminal import format_table
    from eval_math.summary import figures_json
    from steering.demo import DemoPlan, run_demo

    from .command import write_figures

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    plan = DemoPlan(
        model=command.model, engine=command.engine, pairs=command.pairs, dev=command.dev, test=command.test,
        blocks=command.blocks or None, strengths=command.strengths, margin=command.margin,
        batch_size=command.batch_size, seed=command.seed,
    )  # fmt: skip
    result = run_demo(plan, command.out, lambda text: print(text, file=sys.stderr, flush=True))
    shown = sys.stderr if command.json == "-" else sys.stdout
    print("\n" + format_table(result.rows, result.comparisons), file=shown)
    print(f"\nreport: {result.report}", file=shown)
    write_figures(
        command.json,
        {
            "block": result.block,
            "strength": result.strength,
            "rows": [figures_json(row) for row in result.rows],
            "comparisons": [figures_json(comparison) for comparison in result.comparisons],
        },
    )
    return 0
