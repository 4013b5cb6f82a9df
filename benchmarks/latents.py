"""What do latent reasoners keep of explicit thinking, and at how many forward passes?

    python -m benchmarks.latents [--seeds 0 1 2] [--out FOLDER] [--train 20000] [--json FILE]

All students are trained from the embedded reasoner on the same rows: problems with numbers up to 20, an equation per
step as thought, and the bare number as answer. Explicit thinking, thinking cut at the passes of CoLaR-5, Soft Thinking
on the explicit student, CoLaR, Latent-SFT, Coconut, iCoT; greedy, each seed with test problems of its own. What is
found is not made again.
Goals: CoLaR-2 and Latent-SFT-2 keep 90% of explicit accuracy at 55% of its passes; CoLaR-5 beats cut thinking by 10
points.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

BENCHMARK = "embedded:small"
ROWS = "rows.jsonl"
HEADS = ("run", "accuracy %", "latents", "passes", "of explicit", "seconds")


@dataclass(frozen=True)
class Latents:
    """Students, runs and figures."""

    out: Path = Path("latents")
    """Folder of everything; what is in it is not made again."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of data order, training and test problems."""
    train: int = 20_000
    """Rows."""
    test: int = 500
    """Test problems per seed."""
    epochs: float = 1.6
    """Passes over the rows; explicit thinking needs less and gets a quarter."""
    engine: str = "hf"
    """Engine of the runs."""
    only: tuple[str, ...] = ("explicit", "colar-2", "colar-5", "latent-sft-2", "latent-sft-4", "coconut", "icot")
    """Students."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


@dataclass(frozen=True)
class Run:
    """A run's name and the method it is made with."""

    name: str
    method: str


@dataclass(frozen=True)
class Student:
    """Words of `laconic train`, and runs by name: their methods."""

    words: tuple[str, ...]
    runs: dict[str, str]
    share: float = 1.0
    """Of the epochs."""


COLAR = ("colar", "--learning-rate", "2e-3", "--latent-weight", "10")
STUDENTS = {
    "explicit": Student(("sft", "--learning-rate", "3e-4"), {"explicit": "none", "soft": "soft"}, 1 / 4),
    "colar-2": Student((*COLAR, "--rates", "2"), {"colar-2": "colar:rate=2"}),
    "colar-5": Student((*COLAR, "--rates", "5"), {"colar-5": "colar:rate=5", "colar-5-half": "colar:rate=5,stop=half"}),
    "latent-sft-2": Student(
        ("latent-sft", "--rate", "2", "--stages", "union", "--learning-rate", "7e-4"), {"latent-sft-2": "latent-sft"}
    ),
    "latent-sft-4": Student(
        ("latent-sft", "--rate", "4", "--stages", "union", "--learning-rate", "7e-4"), {"latent-sft-4": "latent-sft"}
    ),
    "coconut": Student(("coconut", "--learning-rate", "7e-4"), {"coconut": "latent"}),
    "icot": Student(("icot", "--learning-rate", "7e-4"), {"icot": "none"}),
}


def run(command: Latents) -> int:
    """Make everything that is missing, print a table per seed; exit code 1 where a goal is missed."""
    from scripts.command import write_figures

    write_rows(command.out / ROWS, command.train)
    found: dict[str, Any] = {}
    for seed in command.seeds:
        for name in command.only:
            _student(command, seed, name)
        if {"explicit", "colar-5"} <= set(command.only):
            _cut(command, seed)
        found[str(seed)] = figures(command.out / f"seed{seed}")
        print(f"\nseed {seed}\n{' | '.join(HEADS)}")
        for name, each in found[str(seed)].items():
            print(" | ".join([name, *_cells(each)]), flush=True)
    write_figures(command.json, found)
    return int(not all(_holds(each) for each in found.values()))


def write_rows(path: Path, count: int) -> None:
    """Training rows of the embedded generator."""
    from dataclasses import asdict

    from cot.benchmarks import EMBEDDED
    from cot.embedded.problems import make_problems
    from eval_math.prompts import prompt

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    kind = EMBEDDED[BENCHMARK]
    for problem in make_problems("train", count, seed=31, steps=kind.steps, largest=kind.largest):
        thought = " ".join(f"So {equation}." for equation in problem.equations)
        text = f"<think>{thought}</think>{problem.answer}"
        turns = [asdict(turn) for turn in prompt(problem.record())]
        lines.append({"id": problem.id, "prompt": turns, "completion": [{"role": "assistant", "content": text}]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def figures(folder: Path) -> dict[str, dict[str, float]]:
    """Accuracy with interval, latents, forward passes and seconds of each run, and its share of explicit passes."""
    found = {run.parent.name: _figures(run.parent) for run in sorted(folder.glob("run-*/summary.json"))}
    named = {name.removeprefix("run-"): each for name, each in found.items()}
    explicit = named.get("explicit", {}).get("passes")
    return {name: {**each, "share": each["passes"] / explicit if explicit else 0.0} for name, each in named.items()}


def _figures(run: Path) -> dict[str, float]:
    (summary,) = json.loads((run / "summary.json").read_text())["rows"]
    traces = [json.loads(line) for line in (run / "traces.jsonl").open()]
    names = ("accuracy", "accuracy_low", "accuracy_high", "latent_steps_mean", "seconds")
    passes = sum(trace["n_forward"] for trace in traces) / len(traces)
    return {**{name: summary[name] for name in names}, "passes": passes}


def _cells(each: dict[str, float]) -> Iterator[str]:
    yield f"{100 * each['accuracy']:.1f} [{100 * each['accuracy_low']:.1f}, {100 * each['accuracy_high']:.1f}]"
    yield f"{each['latent_steps_mean']:.1f}"
    yield f"{each['passes']:.1f}"
    yield f"{100 * each['share']:.0f}%"
    yield f"{each['seconds']:.1f}"


def _student(command: Latents, seed: int, name: str) -> None:
    student, model = STUDENTS[name], command.out / f"seed{seed}" / name
    epochs = str(command.epochs * student.share)
    words = ("--data", command.out / ROWS, "--out", model, "--seed", str(seed), "--epochs", epochs, "--eval-every", "0")
    _do(model, "train", *student.words, *words, "--batch-size", "32", "--micro-batch", "32", "--save-every", "250")
    for run, method in student.runs.items():
        _eval(command, seed, model, Run(run, method))


def _cut(command: Latents, seed: int) -> None:
    """Explicit thinking cut at the latents of CoLaR-5, so that both take as many passes."""
    folder = command.out / f"seed{seed}"
    latents = _figures(folder / "run-colar-5")["latent_steps_mean"]
    _eval(command, seed, folder / "explicit", Run("cut", f"cut:tokens={max(1, round(latents))}"))


def _eval(command: Latents, seed: int, model: Path, run: Run) -> None:
    out = model.parent / f"run-{run.name}"
    words = ("--model", model, "--method", run.method, "--out", out, "--engine", command.engine)
    chosen = ("--benchmark", BENCHMARK, "--split", "test", "--limit", str(command.test), "--shuffle", str(seed))
    _do(out, "eval", *chosen, *words, "--max-tokens", "400", "--batch-size", "64")


def _do(made: Path, *words: object) -> None:
    print(f"making {made}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "laconic_cli.main", *map(str, words)], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip


def _holds(found: dict[str, dict[str, float]]) -> bool:
    if "explicit" not in found:
        return True
    explicit = found["explicit"]["accuracy"]
    kept = [name for name in ("colar-2", "latent-sft-2") if name in found]
    near = all(found[name]["accuracy"] >= 0.9 * explicit and found[name]["share"] <= 0.55 for name in kept)
    return near and (
        not {"cut", "colar-5"} <= found.keys() or found["colar-5"]["accuracy"] >= found["cut"]["accuracy"] + 0.1
    )


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Latents, description=__doc__)))
