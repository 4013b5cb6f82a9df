"""What do datasets of shorter chains of thought do to a student?

    python -m benchmarks.rewriting --study c3ot|r1-compress|others [--seeds 0 1 2] [--out FOLDER] [--json FILE]

The embedded reasoner answers train problems verbosely; `laconic compress` makes the datasets, `laconic train` the
students, `laconic eval` their runs on test problems that each seed draws anew; every step is resumed where it is found.
c3ot: both conditions of one student, and students of long rows only, short rows only, and both without a condition.
r1-compress: chunks rewritten and searched, beside whole traces rewritten. others: TokenSkip at two ratios, shortest of
eight samples as rows and as pairs. Goals: C3oT's short condition saves half of the long condition's thinking at no more
than 2 points, and the long condition is unharmed; R1-Compress saves a fifth at no more than 1 point.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

Study = Literal["c3ot", "r1-compress", "others"]


@dataclass(frozen=True)
class Rewriting:
    """Datasets, students and runs of one study, each seed compared problem by problem."""

    study: Study = "c3ot"
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of data order, training and test problems."""
    train: int = 1200
    """Train problems whose traces are rewritten."""
    test: int = 500
    """Test problems per seed."""
    epochs: float = 1.0
    """Passes over the rows."""
    out: Path = Path("rewriting")
    """Folder of everything; what is in it is not made again."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


@dataclass(frozen=True)
class Student:
    """A model to train and the runs it is asked for: name -> method."""

    name: str
    data: Sequence[str]
    """Words of `laconic compress` that make its rows."""
    runs: dict[str, str]
    train: Sequence[str] = ()
    """More words of `laconic train`."""
    kind: Literal["sft", "dpo"] = "sft"


SAMPLED = ("shortest", "--n", "4", "--limit", "400", "--max-tokens", "512")
STUDENTS: dict[Study, list[Student]] = {
    "c3ot": [
        Student("long-only", ("c3ot", "--long-share", "1", "--conditions", "none"), {"long-only": "none"}),
        Student("conditioned", ("c3ot",), {"short": "c3ot:condition=short", "long": "c3ot:condition=long"}),
        Student("short-only", ("c3ot", "--long-share", "0", "--conditions", "none"), {"short-only": "none"}),
        Student("unconditioned", ("c3ot", "--conditions", "none"), {"unconditioned": "none"}),
    ],
    "r1-compress": [
        Student("chunks", ("r1-compress", "--versions", "4"), {"r1-compress": "none"}),
        Student(
            "whole",
            ("c3ot", "--long-share", "0", "--conditions", "none"),
            {"whole-trace": "none"},
        ),
    ],
    "others": [
        Student(
            "tokenskip", ("tokenskip",), {f"tokenskip-{r}": f"tokenskip:ratio={r}" for r in ("1", "0.7", "0.5")}
        ),
        Student("shortest", SAMPLED, {"shortest-sft": "none"}),
        Student("preferred", SAMPLED, {"shortest-dpo": "none"}, ("--learning-rate", "1e-4"), kind="dpo"),
    ],
}  # fmt: skip


def run(command: Rewriting) -> int:
    """Make everything that is missing, compare, print; exit code 1 where a goal is missed."""
    from eval_math.report import collect, format_table
    from eval_math.summary import figures_json
    from scripts.command import write_figures

    traces = command.out / "long"
    words = ("--benchmark", "embedded", "--split", "train", "--limit", str(command.train), "--max-tokens", "512")
    _do(traces, "eval", *words, "--out", traces, "--batch-size", "64")
    found: dict[str, Any] = {}
    for seed in command.seeds:
        runs = _one_seed(command, seed, traces)
        collection = collect(runs)
        print(f"\nseed {seed}\n{format_table(collection.rows, collection.comparisons)}", flush=True)
        found[str(seed)] = {
            "rows": [figures_json(row) for row in collection.rows],
            "comparisons": [_short(figures_json(each)) for each in collection.comparisons],
        }
    write_figures(command.json, found)
    return int(not all(_holds(command.study, each["comparisons"]) for each in found.values()))


def _one_seed(command: Rewriting, seed: int, traces: Path) -> list[Path]:
    """The runs of one seed, the base of comparison first."""
    folder = command.out / f"seed{seed}"
    runs: list[Path] = []
    students = STUDENTS[command.study]
    if command.study != "c3ot":
        runs.append(_eval(command, seed, "embedded", "base", "none"))
    for student in students:
        data = command.out / f"data-{'-'.join(student.data).replace('--', '')}"
        source = () if student.data[0] == "shortest" else ("--traces", traces)
        if not (data / "_SUCCESS").exists():
            _do(data, "compress", *student.data, *source, "--out", data, "--batch-size", "64")
        model = folder / f"model-{student.name}"
        rows = data / "pairs.jsonl" if student.kind == "dpo" else data
        words = ("--data", rows, "--out", model, "--seed", str(seed), "--epochs", str(command.epochs))
        speed = ("--micro-batch", "32", "--eval-every", "0", "--save-every", "500", *student.train)
        _do(model, "train", student.kind, *words, *speed)
        runs += [_eval(command, seed, model, name, method) for name, method in student.runs.items()]
    return runs


def _eval(command: Rewriting, seed: int, model: Path | str, name: str, method: str) -> Path:
    folder = command.out / f"seed{seed}" / name
    words = ("--benchmark", "embedded", "--split", "test", "--limit", str(command.test), "--shuffle", str(1000 + seed))
    _do(folder, "eval", *words, "--model", model, "--method", method, "--out", folder, "--batch-size", "64")
    return folder


def _do(made: Path, *words: object) -> None:
    print(f"making {made}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "laconic_cli.main", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    return {**figures, "gained": len(figures["gained"]), "lost": len(figures["lost"])}


def _holds(study: Study, comparisons: Sequence[dict[str, Any]]) -> bool:
    by_run = {each["run"]: each for each in comparisons}
    goals = {"c3ot": ("short", 0.5, -0.02), "r1-compress": ("r1-compress", 0.2, -0.01)}
    if study not in goals:
        return True
    name, saving, loss = goals[study]
    one = by_run[name]
    return one["thinking_saving"]["value"] >= saving and one["accuracy_difference"]["value"] >= loss


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Rewriting, description=__doc__)))
