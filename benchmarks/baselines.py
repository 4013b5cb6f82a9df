"""What shortens without training, on the embedded reasoner: every such method beside thinking cut at a budget.

    python -m benchmarks.baselines --out FOLDER [--test 500] [--json FILE]

Each setting answers the same held-out problems, greedily, into a run folder of its own; report.html shows accuracy
against tokens, probe tokens charged to thinking. The same command again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

SETTINGS: tuple[str, ...] = (
    "none",
    "concise",
    "draft",
    "draft:shots=0",
    "nothink",
    "nothinking",
    *(f"cut:tokens={budget}" for budget in (60, 100, 140, 180)),
    *(f"limit:tokens={budget}" for budget in (100, 180)),
    "budget:tokens=140,ignores=0",
    "budget:tokens=500,ignores=1",
    "nowait",
    *(f"deer:threshold={threshold},mean=geometric" for threshold in (0.95, 0.99999, 0.999999)),
    *(f"deer:threshold={threshold},mean=arithmetic" for threshold in (0.95, 0.99999, 0.999999)),
)
"""Plain generation first: the others are compared with it."""


@dataclass(frozen=True)
class Baselines:
    """Methods without training on the embedded reasoner."""

    out: Path = Path("baselines")
    """Folder for the runs and the report."""
    test: int = 500
    """Held-out problems."""
    seed: int = 1000
    """Draw of the problems."""
    settings: tuple[str, ...] = SETTINGS
    """Methods with their parameters; the first is the baseline."""
    engine: str = "auto"
    """Engine that decodes: auto, hf or vllm."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: Baselines) -> int:
    """Answer, print a line per setting, write the report."""
    from eval_math.report import collect, format_table, write_report
    from eval_math.summary import figures_json
    from scripts.command import write_figures

    folders = _answered(command)
    collection = collect(folders)
    print(format_table(collection.rows, collection.comparisons))
    write_report(folders, command.out / "report.html")
    figures = {row.run: {"summary": figures_json(row)} for row in collection.rows}
    for comparison in collection.comparisons:
        figures[comparison.run]["comparison"] = figures_json(comparison)
    write_figures(command.json, figures)
    return 0


def _answered(command: Baselines) -> list[Path]:
    from cot.benchmarks import load
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from cot.evaluate import EvalConfig, evaluate_into
    from cot.methods import parse_method

    problems = load("embedded", split="test", limit=command.test, seed=command.seed)
    engine: Any = open_engine(EngineConfig("embedded", command.engine, batch_size=64))
    folders = []
    try:
        for spec in command.settings:
            folder = command.out / spec.replace(":", "-").replace(",", "-")
            evaluate_into(folder, problems, parse_method(spec), engine, EvalConfig("embedded"))
            folders.append(folder)
    finally:
        engine.close()
    return folders


if __name__ == "__main__":
    raise SystemExit(run(tyro.cli(Baselines, description=__doc__)))
