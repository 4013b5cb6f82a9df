"""The main job from end to end: pairs, vector, dev sweep, then steered and null-baseline runs on held-out problems.

    FOLDER/pairs/{plain,concise}   train problems, plainly and asked to be brief
    FOLDER/pairs.jsonl, vector.safetensors
    FOLDER/dev/...                 the sweep over block and strength
    FOLDER/test/{none,asc,random,concise,cut}
    FOLDER/report.html, summary.json, demo.json

Every run is a run folder, so that the same call goes on where it was interrupted; once ``demo.json`` is there for the
same plan and model, nothing runs again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cot.benchmarks import load
from cot.budget import Cut
from cot.chat import model_hash, resolve_model
from cot.engine import Engine, EngineConfig
from cot.engines import open_engine
from cot.evaluate import EvalConfig, evaluate_into
from cot.method import Method
from cot.prompting import Concise
from eval_math.errors import BadInput
from eval_math.files import read_records, write_json
from eval_math.paired import Comparison, compare
from eval_math.records import Sampling, Trace, digest
from eval_math.report import write_report
from eval_math.summary import SummaryRow, summarise_runs, summary_json

from .asc import Asc
from .extraction import Recipe, extract
from .pairs import PairSet, load_pairs, make_pairs, save_pairs
from .sites import model_shape
from .sweep import Point, SweepConfig, format_grid, sweep
from .vector import save_vector

BENCHMARK = "embedded"
SPARE_PROBLEMS = 1.1
"""Train problems per pair asked for: some are answered wrong."""


@dataclass(frozen=True)
class DemoPlan:
    """What is run; every part of it decides the result."""

    model: str = "embedded"
    engine: str = "auto"
    pairs: int = 100
    dev: int = 80
    test: int = 300
    blocks: tuple[int, ...] | None = None
    """Blocks to sweep; None = the last two."""
    strengths: tuple[float, ...] = (0.15, 0.25, 0.35, 0.5)
    margin: float = 0.02
    max_tokens: int = 512
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pairs", "dev", "test", "max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name}={getattr(self, name)}: at least 1 is expected")


@dataclass(frozen=True)
class DemoResult:
    """Figures per method, each compared with plain generation; ``block`` and ``strength`` are the sweep's point."""

    rows: list[SummaryRow]
    comparisons: list[Comparison]
    block: int
    strength: float
    report: Path


Say = Callable[[str], None]


def run_demo(plan: DemoPlan, folder: Path, say: Say) -> DemoResult:
    """Do what is missing of the plan in ``folder``; ``say`` is told of each stage.

    Raises:
        BadInput: too few pairs, or no strength that shortens at the accuracy asked for.
        RunMismatch: ``folder`` holds a demo of another plan.
    """
    mark = digest([asdict(plan), model_hash(resolve_model(plan.model))])
    done = _finished(folder, mark)
    if done is None:
        with _opened(plan) as engine:
            point = _prepare(plan, folder, engine, say)
            _run_test(plan, folder, engine, point, say)
        done = {"plan": mark, "block": point.block, "strength": point.strength}
        _report(folder)
        write_json(folder / "demo.json", done)
    else:
        say(f"everything is there already in {folder}")
    rows = summarise_runs(_test_runs(folder))
    comparisons = [compare(folder / "test/none", run) for run in _test_runs(folder)[1:]]
    return DemoResult(rows, comparisons, done["block"], done["strength"], folder / "report.html")


def matching_budget(lengths: Sequence[int], mean: float) -> int:
    """The budget B at which cutting ``lengths`` (tokens) comes nearest to ``mean``: mean(min(length, B)) = mean."""
    if not lengths:
        raise BadInput("no lengths given to match a budget to")

    def cut_mean(budget: int) -> float:
        return sum(min(length, budget) for length in lengths) / len(lengths)

    low, high = 1, max(1, *lengths)
    while low < high:
        middle = (low + high) // 2
        if cut_mean(middle) < mean:
            low = middle + 1
        else:
            high = middle
    return min((b for b in (low - 1, low) if b >= 1), key=lambda b: abs(cut_mean(b) - mean))


def _prepare(plan: DemoPlan, folder: Path, engine: Engine, say: Say) -> Point:
    """Pairs, vector and sweep; returns the point to test."""
    pairs = _make_pairs(plan, folder, engine, say)
    say(f"vector: the mean difference at the end of thinking of {len(pairs.pairs)} pairs, every block")
    with _reference(plan, engine) as reference:
        vector = extract(reference, load_pairs(folder / "pairs.jsonl"), Recipe(span="thinking")).vector
        n_blocks = reference.apply_model(model_shape).num_layers  # type: ignore[attr-defined]
    save_vector(vector, folder / "vector.safetensors")
    blocks = plan.blocks or (n_blocks - 2, n_blocks - 1)
    say(f"sweep: blocks {', '.join(map(str, blocks))} x strengths on {plan.dev} dev problems")
    problems = load(BENCHMARK, split="dev", limit=plan.dev)
    config = SweepConfig(blocks=blocks, strengths=plan.strengths, margin=plan.margin)
    result = sweep(engine, problems, folder / "vector.safetensors", folder / "dev", config, _evaluation(plan))
    say(format_grid(result))
    if result.best is None:
        raise BadInput(
            f"no block and strength of the sweep shortens thinking within {plan.margin:.0%} of the accuracy; "
            "try other --strengths or --blocks, or a wider --margin"
        )
    return result.best


def _make_pairs(plan: DemoPlan, folder: Path, engine: Engine, say: Say) -> PairSet:
    problems = load(BENCHMARK, split="train", limit=round(plan.pairs * SPARE_PROBLEMS))
    say(f"pairs: {len(problems)} train problems, answered plainly and asked to be brief")
    runs = [folder / "pairs/plain", folder / "pairs/concise"]
    for run, method in zip(runs, (Method(), Concise()), strict=True):
        evaluate_into(run, problems, method, engine, _evaluation(plan))
    made = make_pairs(runs)
    say("pairs: " + ", ".join(f"{count} {what}" for what, count in made.counts().items()))
    chosen = replace(made, pairs=made.pairs[: plan.pairs])
    save_pairs(chosen, folder / "pairs.jsonl")
    if len(made.pairs) < min(10, plan.pairs):
        raise BadInput(f"only {len(made.pairs)} usable pairs; see {folder / 'pairs.dropped.jsonl'} for the reasons")
    return chosen


def _run_test(plan: DemoPlan, folder: Path, engine: Engine, point: Point, say: Say) -> None:
    problems = load(BENCHMARK, split="test", limit=plan.test)
    say(f"test: block {point.block}, strength {point.strength:g} and the null baselines on {len(problems)} problems")

    def run(name: str, method: Method) -> SummaryRow:
        return evaluate_into(folder / "test" / name, problems, method, engine, _evaluation(plan))

    steer = Asc(str(folder / "vector.safetensors"), point.block, point.strength)
    run("none", Method())
    steered = run("asc", steer)
    run("random", replace(steer, direction="random", seed=plan.seed))
    run("concise", Concise())
    run("cut", Cut(tokens=_equal_budget(folder / "test/none", steered.thinking_tokens_mean)))


def _equal_budget(plain: Path, mean: float) -> int:
    lengths = [trace.n_thinking_tokens for trace in read_records(Trace, plain / "traces.jsonl")]
    return matching_budget(lengths, mean)


def _report(folder: Path) -> None:
    runs = _test_runs(folder)
    write_json(folder / "summary.json", summary_json(summarise_runs(runs)))
    write_report(runs, folder / "report.html", title="laconic demo: the embedded reasoner, steered")


def _test_runs(folder: Path) -> list[Path]:
    return [folder / "test" / name for name in ("none", "asc", "random", "concise", "cut")]


def _evaluation(plan: DemoPlan) -> EvalConfig:
    return EvalConfig(BENCHMARK, sampling=Sampling(max_tokens=plan.max_tokens), seed=plan.seed)


def _finished(folder: Path, mark: str) -> dict[str, Any] | None:
    """What ``demo.json`` says, if it is of this plan and the report is there."""
    try:
        done = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(done, dict) and done.get("plan") == mark and (folder / "report.html").exists()
    return done if same else None


@contextmanager
def _opened(plan: DemoPlan) -> Iterator[Engine]:
    engine = open_engine(EngineConfig(model=plan.model, engine=plan.engine, batch_size=plan.batch_size))
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def _reference(plan: DemoPlan, engine: Engine) -> Iterator[Engine]:
    """The transformers engine, which reads hidden states; the one at hand if it is that."""
    if engine.identity.engine == "hf":
        yield engine
        return
    with _opened(replace(plan, engine="hf")) as reference:
        yield reference
