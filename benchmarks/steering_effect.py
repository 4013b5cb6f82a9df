"""What a calibrated vector does to the embedded reasoner: three draws of pairs and problems, null baselines, the curve.

    python -m benchmarks.steering_effect --out FOLDER [--seeds 0 1 2] [--test 500] [--json FILE]

For each seed: the model answers train problems plainly and when asked to be brief; 100 pairs give a vector; its
strength is calibrated to a divergence of 0.05 nats per token on the pairs' long sides, and a sweep on dev problems
picks among multiples of it; then held-out problems are answered plainly, steered, steered by a random and by the
negated vector, asked to be brief, and cut at equal length. Greedy, paired by problem. The same command again goes on
where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from eval_math.paired import Comparison
    from eval_math.records import Pair, Problem
    from steering.vector import SteeringVector

GOAL_SAVED, MARGIN = 0.40, 0.02


@dataclass(frozen=True)
class SteeringEffect:
    """Steering and its null baselines on the embedded reasoner."""

    out: Path = Path("steering-effect")
    """Folder for runs and vectors."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Draws of train and test problems."""
    test: int = 500
    """Held-out problems per method."""
    pairs: int = 100
    """Pairs behind a vector."""
    block: int = 3
    """Block to steer."""
    eps: float = 0.05
    """Budget of the calibration, nats per token."""
    dev: int = 400
    """Dev problems per point of the sweep; with so many it can tell whether accuracy was kept."""
    multiples: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25)
    """Of the calibrated strength: what the sweep chooses among, and the curve on test problems of the first seed."""
    engine: str = "auto"
    """Engine that decodes: auto, hf or vllm."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: SteeringEffect) -> int:
    """Measure and print; exit code 1 where a seed saves too little or does not keep accuracy."""
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from eval_math.report import collect, format_table
    from scripts.command import write_figures

    engine: Any = open_engine(EngineConfig("embedded", command.engine, batch_size=64))
    found: dict[str, Any] = {}
    good = True
    try:
        for seed in command.seeds:
            folder = command.out / f"seed{seed}"
            runs, facts = _one_seed(command, engine, seed, folder)
            collection = collect(runs)
            print(f"\nseed {seed}: {facts}\n{format_table(collection.rows, collection.comparisons)}", flush=True)
            steered = next(c for c in collection.comparisons if c.run == "asc")
            good &= steered.thinking_saving.value >= GOAL_SAVED and steered.equal_accuracy == "kept"
            found[str(seed)] = {**facts, "comparisons": [_short(c) for c in collection.comparisons]}
    finally:
        engine.close()
    write_figures(command.json, found)
    return 0 if good else 1


def _short(comparison: Comparison) -> dict[str, Any]:
    from eval_math.summary import figures_json

    row = figures_json(comparison)
    return {**row, "gained": len(row["gained"]), "lost": len(row["lost"])}


def _one_seed(command: SteeringEffect, engine: Any, seed: int, folder: Path) -> tuple[list[Path], dict[str, Any]]:
    from cot.benchmarks import load
    from cot.evaluate import EvalConfig, evaluate_into
    from cot.method import Method
    from cot.prompting import Concise
    from steering.asc import Asc

    evaluation = EvalConfig("embedded")
    problems = load("embedded", split="test", limit=command.test, seed=1000 + seed)
    pairs = _pairs(command, engine, seed, folder)
    calibrated, facts = _vector(command, pairs, folder)
    strength = _swept(command, engine, seed, folder, calibrated)
    facts |= {"calibrated": calibrated, "strength": strength}
    steer = Asc(str(folder / "vector.safetensors"), command.block, strength)
    methods = {
        "none": Method(),
        "asc": steer,
        "random": replace(steer, direction="random", seed=seed),
        "negative": replace(steer, direction="negative"),
        "concise": Concise(),
    }
    if seed == command.seeds[0]:
        methods |= {f"asc-{m:g}": replace(steer, strength=m * calibrated) for m in command.multiples}
    for name, method in methods.items():
        evaluate_into(folder / name, problems, method, engine, evaluation)
    _cut(folder, problems, engine, evaluation)
    return [folder / name for name in (*methods, "cut")], facts


def _pairs(command: SteeringEffect, engine: Any, seed: int, folder: Path) -> list[Pair]:
    from cot.benchmarks import load
    from cot.evaluate import EvalConfig, evaluate_into
    from cot.method import Method
    from cot.prompting import Concise
    from steering.pairs import make_pairs

    train = load("embedded", split="train", limit=round(1.2 * command.pairs), seed=seed)
    runs = [folder / "train-none", folder / "train-concise"]
    for run_, method in zip(runs, (Method(), Concise()), strict=True):
        evaluate_into(run_, train, method, engine, EvalConfig("embedded"))
    return list(make_pairs(runs).pairs[: command.pairs])


def _vector(command: SteeringEffect, pairs: Sequence[Pair], folder: Path) -> tuple[float, dict[str, Any]]:
    """Write the vector, return its calibrated strength; and how near 20 pairs come to all of them."""
    import torch

    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from steering.calibration import CalibrationConfig, Task, calibrate
    from steering.extraction import extract, long_responses
    from steering.vector import save_vector

    reader: Any = open_engine(EngineConfig("embedded", "hf"))
    try:
        vector: SteeringVector = extract(reader, pairs).vector
        few = extract(reader, pairs[:20]).vector
        responses = long_responses(reader, pairs[:50])
        step = vector.step(command.block, 1.0)
        config = CalibrationConfig(eps=command.eps)
        found = reader.apply_model(lambda model: calibrate(Task(model, command.block, step, responses), config))
    finally:
        reader.close()
    save_vector(vector, folder / "vector.safetensors")
    cosine = torch.cosine_similarity(vector.directions[command.block], few.directions[command.block], dim=0)
    facts = {"pairs": len(pairs), "share": found.share, "cosine_of_20": float(cosine)}
    return found.strength, facts


def _swept(command: SteeringEffect, engine: Any, seed: int, folder: Path, calibrated: float) -> float:
    from cot.benchmarks import load
    from steering.sweep import SweepConfig, sweep

    config = SweepConfig((command.block,), tuple(m * calibrated for m in command.multiples), margin=MARGIN)
    problems = load("embedded", split="dev", limit=command.dev, seed=seed)
    best = sweep(engine, problems, folder / "vector.safetensors", folder / "dev", config).best
    if best is None:
        raise SystemExit(f"seed {seed}: no strength shortens within the margin; see {folder / 'dev'}")
    return best.strength


def _cut(folder: Path, problems: Sequence[Problem], engine: Any, evaluation: Any) -> None:
    from cot.budget import Cut
    from cot.evaluate import evaluate_into
    from eval_math.files import read_records
    from eval_math.records import Trace
    from eval_math.summary import summarise
    from steering.demo import matching_budget

    lengths = [trace.n_thinking_tokens for trace in read_records(Trace, folder / "none/traces.jsonl")]
    budget = matching_budget(lengths, summarise(folder / "asc").thinking_tokens_mean)
    evaluate_into(folder / "cut", problems, Cut(tokens=budget), engine, evaluation)


if __name__ == "__main__":
    raise SystemExit(run(tyro.cli(SteeringEffect, description=__doc__)))
