"""The model card: every figure measured on held-out problems, as `card.json` and as the README of the checkpoint."""

from __future__ import annotations

import json
import logging
import multiprocessing as mp
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from eval_math.statistics import wilson

from .decoding import GREEDY, Decoding, Reasoner, steered
from .measuring import CAREFUL, CONCISE, NO_THINKING, PLAIN, Asking, Measurement, SteeringPoint, level_vector, measure
from .problems import make_problems
from .recipe import Recipe
from .training import Progress

log = logging.getLogger(__name__)

Record = dict[str, Any]

STEPS = (2, 5)
SWEEP = ((0, 0.25), (0, 0.35), (0, 0.5), (0, 0.75), (1, 0.35), (1, 0.5))
DEV_PROBLEMS = 200
SAMPLED_SHARE = 0.5
LOSS_ALLOWED = 0.02
BOXED = Asking("\nPlease reason step by step, and put your final answer within \\boxed{}.")
SAMPLED = Decoding(temperature=0.6)
PROMPTS = (
    ("default", PLAIN, (GREEDY, SAMPLED)),
    ("boxed instruction", BOXED, (GREEDY,)),
    ("Think carefully.", CAREFUL, (GREEDY,)),
    ("Be concise.", CONCISE, (GREEDY, SAMPLED)),
    ("no thinking", NO_THINKING, (GREEDY, SAMPLED)),
)


@dataclass(frozen=True)
class Job:
    """One measurement of a checkpoint: which problems, how they are asked, and a vector at `block` unless it is -1."""

    folder: Path
    split: str
    count: int
    label: str = "default"
    asking: Asking = PLAIN
    decoding: Decoding = GREEDY
    block: int = -1
    strength: float = 0.0

    def run(self) -> Measurement:
        """Load the checkpoint and measure, on one thread."""
        import torch

        torch.set_num_threads(1)
        reasoner = Reasoner.load(self.folder)
        problems = make_problems(self.split, self.count, steps=STEPS)
        steering = nullcontext()
        if self.block >= 0:
            steering = steered(reasoner.model, self.block, self.strength * level_vector(reasoner, self.block))
        with steering:
            return measure(reasoner, problems, self.asking, self.decoding)


@dataclass(frozen=True)
class CardRow:
    """One way of asking, its decoding, and what it gave."""

    label: str
    temperature: float
    measurement: Measurement


def write_card(folder: Path, recipe: Recipe, progress: Progress, problems: int = 1000, processes: int = 2) -> None:
    """Measure the checkpoint in `folder` on `problems` test problems of 2-5 steps; write card.json and README.md."""
    with mp.get_context("spawn").Pool(processes) as pool:
        sweep = run_sweep(pool, folder, recipe.architecture.layers)
        log.info("card: best steering on dev: %s", best_point(sweep))
        jobs = card_jobs(folder, problems, best_point(sweep))
        measured = [logged(job, found) for job, found in zip(jobs, pool.imap(Job.run, jobs), strict=True)]
    rows = [CardRow(job.label, job.decoding.temperature, found) for job, found in zip(jobs, measured, strict=True)]
    card = card_record(folder, recipe, progress, rows, sweep)
    write_text(folder / "card.json", json.dumps(card, indent=1) + "\n")
    write_text(folder / "README.md", card_text(card))


def card_jobs(folder: Path, problems: int, chosen: SteeringPoint | None) -> list[Job]:
    """Every prompt of the card, then the default prompt under the chosen steering setting, greedy and sampled."""
    counts = {GREEDY: problems, SAMPLED: int(problems * SAMPLED_SHARE)}
    jobs = [
        Job(folder, "test", counts[decoding], label, asking, decoding)
        for label, asking, decodings in PROMPTS
        for decoding in decodings
    ]
    if chosen is not None:
        label = f"steered: block {chosen.block}, strength {chosen.strength}"
        for decoding, count in counts.items():
            jobs.append(Job(folder, "test", count, label, PLAIN, decoding, chosen.block, chosen.strength))
    return jobs


def logged(job: Job, measurement: Measurement) -> Measurement:
    """`measurement`, after a line in the log."""
    log.info(
        "card: %s T=%s %s",
        f"{job.label} {job.split} {job.block} x{job.strength}",
        job.decoding.temperature,
        measurement,
    )
    return measurement


def run_sweep(pool: Pool, folder: Path, layers: int) -> list[SteeringPoint]:
    """The unsteered model, then each (blocks below the last, strength) of `SWEEP`, on dev problems."""
    settings = [(-1, 0.0), *((layers - 1 - below, strength) for below, strength in SWEEP)]
    jobs = [Job(folder, "dev", DEV_PROBLEMS, block=block, strength=each) for block, each in settings]
    found = [logged(job, each) for job, each in zip(jobs, pool.imap(Job.run, jobs), strict=True)]
    return [SteeringPoint(job.block, job.strength, each) for job, each in zip(jobs, found, strict=True)]


def best_point(sweep: list[SteeringPoint]) -> SteeringPoint | None:
    """The shortest setting that loses at most two points of accuracy, None if no setting does."""
    floor = sweep[0].measurement.accuracy - LOSS_ALLOWED
    allowed = [point for point in sweep[1:] if point.measurement.accuracy >= floor]
    return min(allowed, key=lambda point: point.measurement.thinking_tokens, default=None)


def card_record(
    folder: Path,
    recipe: Recipe,
    progress: Progress,
    rows: list[CardRow],
    sweep: list[SteeringPoint],
) -> Record:
    """The card as plain data."""
    return {
        "format": "laconic-embedded-card/1",
        "parameters": Reasoner.load(folder).model.num_parameters(),
        "recipe": asdict(recipe),
        "training": {
            "tokens": progress.tokens,
            "steps": progress.step,
            "minutes": round(progress.seconds / 60, 1),
            "hardware": "2 CPU cores",
        },
        "test": {"split": "test", "seed": 0, "steps": list(STEPS), "results": [row_record(row) for row in rows]},
        "steering_dev": [
            {"block": point.block, "strength": point.strength, **measurement_record(point.measurement)}
            for point in sweep
        ],
    }


def row_record(row: CardRow) -> Record:
    """One row as plain data."""
    return {"prompt": row.label, "temperature": row.temperature, **measurement_record(row.measurement)}


def measurement_record(measurement: Measurement) -> Record:
    """A measurement with its Wilson interval, by number of steps as well."""
    return {
        "n": measurement.n,
        "accuracy": round(measurement.accuracy, 4),
        "interval": interval(measurement.right, measurement.n),
        "thinking_tokens": round(measurement.thinking_tokens, 1),
        "truncated": measurement.truncated,
        "by_steps": [
            {"steps": steps, "n": n, "accuracy": round(right / n, 4), "interval": interval(right, n)}
            for steps, right, n in measurement.by_steps
        ],
    }


def interval(right: int, n: int) -> list[float]:
    """Wilson 95% interval of a share, both ends."""
    bounds = wilson(right, n)
    return [round(bounds.low, 4), round(bounds.high, 4)]


def card_text(card: Record) -> str:
    """The README of the checkpoint."""
    recipe, training, test = card["recipe"], card["training"], card["test"]
    shape = recipe["architecture"]
    return TEXT.format(
        parameters=f"{card['parameters'] / 1e6:.2f}",
        layers=shape["layers"],
        hidden=shape["hidden"],
        heads=shape["heads"],
        head_dim=shape["head_dim"],
        tokens=f"{training['tokens'] / 1e6:.1f}",
        steps=training["steps"],
        minutes=training["minutes"],
        seed=recipe["seed"],
        results="\n".join(result_line(result) for result in test["results"]),
        by_steps="\n".join(steps_line(result) for result in test["results"]),
        sweep="\n".join(sweep_line(point) for point in card["steering_dev"]),
        dev=card["steering_dev"][0]["n"],
    )


def result_line(result: Record) -> str:
    """One row of the main table."""
    low, high = result["interval"]
    return (
        f"| {result['prompt']} | {decoding_name(result)} | {result['n']} | {result['accuracy']:.3f} "
        f"| {low:.3f} to {high:.3f} | {result['thinking_tokens']:.1f} | {result['truncated']} |"
    )


def steps_line(result: Record) -> str:
    """One row of the table by number of steps."""
    cells = [
        f"{each['accuracy']:.3f} ({each['interval'][0]:.3f} to {each['interval'][1]:.3f}, n={each['n']})"
        for each in result["by_steps"]
    ]
    return f"| {result['prompt']} | {decoding_name(result)} | " + " | ".join(cells) + " |"


def sweep_line(point: Record) -> str:
    """One row of the steering table."""
    setting = "unsteered" if point["block"] < 0 else f"block {point['block']}, strength {point['strength']}"
    low, high = point["interval"]
    return f"| {setting} | {point['accuracy']:.3f} | {low:.3f} to {high:.3f} | {point['thinking_tokens']:.1f} |"


def decoding_name(result: Record) -> str:
    """How a result was decoded."""
    return "greedy" if result["temperature"] == 0 else f"T={result['temperature']}"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` by an atomic rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


TEXT = """# The embedded reasoner

A {parameters}M-parameter Llama model ({layers} blocks, hidden size {hidden}, {heads} attention heads of width
{head_dim}, each with its own keys and values) that solves word problems by thinking, and thinks more than it needs
to. It exists to test methods that shorten reasoning without a GPU or a download. It knows one kind of problem;
nothing measured on it says anything about larger models.

- Data: procedurally made word problems of 1 to 6 arithmetic steps with integers from 1 to 199. Dev and test hold out
  whole equation chains, by hash. Traces have a persistent verbosity level; checks and recaps open with "Wait".
- Training: from scratch, {tokens}M tokens, {steps} steps, {minutes} minutes on 2 CPU cores, seed {seed}. Every other
  setting is in `card.json`.
- Prompts: the chat template opens the think block; `enable_thinking=False` closes it again at once. "Be concise." and
  "Think carefully." after the question change the length.

## Test problems of 2 to 5 steps

Intervals are Wilson 95%. Tokens are thinking tokens; "cut" counts answers that reached the token limit.

| prompt | decoding | n | accuracy | interval | tokens | cut |
|---|---|---|---|---|---|---|
{results}

| prompt | decoding | 2 steps | 3 steps | 4 steps | 5 steps |
|---|---|---|---|---|---|
{by_steps}

## Steering on dev problems, n={dev}, greedy

Vector: mean last-token difference of 100 pairs of written traces (level 0 minus levels 3 and 4) on train problems,
added to the output of the block at the last prompt token and every generated token. Steered rows above use the
shortest setting here that loses at most two points.

| setting | accuracy | interval | tokens |
|---|---|---|---|
{sweep}
"""
