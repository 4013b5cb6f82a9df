"""Which heads does reasoning need? Accuracy when a share of KV heads keeps a window, by ways to rank them.

    python -m benchmarks.heads --tables rlkv-0 FILE rlkv-1 FILE ablation FILE ... [--problems 500] [--out FILE]

The embedded reasoner on held-out problems, greedy, in the two-group cache; every table also inverted, and random
rankings as null baseline (`--draws`, each on a share of the problems). What stands in --out is not run again.
Goals at sparsity 0.5: rlkv within 1 point of the whole cache; at the highest sparsity at which some ranking keeps it
within 5 points, rlkv 10 points above the mean of random rankings, and no worse than ablation.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

HEADS = ("ranking", "sparsity", "accuracy %", "tokens", "cut off")


@dataclass(frozen=True)
class Heads:
    """Rankings at sparsities."""

    tables: Mapping[str, str] = field(default_factory=dict)
    """Files by name."""
    sparsity: tuple[float, ...] = (0.25, 0.5, 0.75)
    problems: int = 500
    draws: int = 20
    """Random rankings."""
    per_draw: int = 100
    """Problems of each."""
    inverted: tuple[str, ...] = ()
    """Names of tables that are inverted too."""
    sink: int = 4
    recent: int = 16
    max_tokens: int = 500
    batch_size: int = 64
    out: Path = Path("heads-study.jsonl")


def run(command: Heads) -> int:
    """Run what is missing, print all."""
    known = {tuple(row["key"]): row for row in _stored(command.out)}
    engine = None
    for key, spec, problems in _plan(command):
        if key not in known:
            engine = engine or _engine(command)
            known[key] = {"key": list(key), **_measured(command, engine, spec, problems)}
            with command.out.open("a") as handle:
                handle.write(json.dumps(known[key]) + "\n")
            print(json.dumps(known[key]), file=sys.stderr, flush=True)
    print(" | ".join(HEADS))
    for name, sparsity, figures in _rows(command, known):
        print(f"{name} | {sparsity} | {figures['accuracy']} | {figures['tokens']:.0f} | {figures['cut_off']:.1f}%")
    return 0


def _plan(command: Heads) -> Iterator[tuple[tuple[Any, ...], str, int]]:
    yield ("whole", 0.0, 0), "none", command.problems
    window = f"sink={command.sink},recent={command.recent}"
    for sparsity in command.sparsity:
        for name, path in command.tables.items():
            yield (name, sparsity, 0), f"rlkv:table={path},sparsity={sparsity},{window}", command.problems
        for name in command.inverted:
            spec = f"rlkv:table=inverted:{command.tables[name]},sparsity={sparsity},{window}"
            yield (f"{name} inverted", sparsity, 0), spec, command.problems
        for seed in range(command.draws):
            yield (
                ("random", sparsity, seed),
                f"rlkv:table=random:{seed},sparsity={sparsity},{window}",
                command.per_draw,
            )


def _engine(command: Heads) -> Any:
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    return open_engine(EngineConfig("embedded", "hf", batch_size=command.batch_size, dtype="float32"))


def _measured(command: Heads, engine: Any, spec: str, count: int) -> dict[str, Any]:
    from cot.benchmarks import load
    from cot.methods import parse_method
    from eval_math.grading import grade_trace
    from eval_math.prompts import prompt
    from eval_math.records import Request, Sampling

    problems = {problem.id: problem for problem in load("embedded", split="test", limit=count)}
    sampling = Sampling(max_tokens=command.max_tokens)
    requests = [Request(each.id, 0, prompt(each), sampling=sampling) for each in problems.values()]
    method = parse_method(spec)
    with method.attach(engine):
        traces: list[Any] = list(method.drive(engine, requests))
    return {
        "correct": [grade_trace(trace, problems[trace.problem_id]).correct for trace in _sorted(traces)],
        "tokens": statistics.mean(len(trace.token_ids) for trace in traces),
        "cut_off": 100 * statistics.mean(trace.finish == "length" for trace in traces),
    }


def _sorted(traces: list[Any]) -> list[Any]:
    return sorted(traces, key=lambda trace: trace.problem_id)


def _rows(command: Heads, known: Mapping[Any, Any]) -> Iterator[tuple[str, float, dict[str, Any]]]:
    from eval_math.statistics import wilson

    for key, row in known.items():
        if key[0] == "random":
            continue
        n, hits = len(row["correct"]), sum(row["correct"])
        bounds = wilson(hits, n)
        shown = f"{100 * hits / n:.1f} [{100 * bounds.low:.1f}, {100 * bounds.high:.1f}]"
        yield key[0], key[1], {**row, "accuracy": shown}
    for sparsity in command.sparsity:
        drawn = [row for key, row in known.items() if key[0] == "random" and key[1] == sparsity]
        if len(drawn) > 1:
            each = sorted(100 * statistics.mean(row["correct"]) for row in drawn)
            figures = {name: statistics.mean(row[name] for row in drawn) for name in drawn[0] if name not in KEYS}
            shown = f"{statistics.mean(each):.1f} ({each[0]:.1f} to {each[-1]:.1f}, {len(each)} draws)"
            yield "random", sparsity, {**figures, "accuracy": shown}


KEYS = frozenset({"key", "correct"})


def _stored(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open()] if path.is_file() else []


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Heads, description=__doc__)))
