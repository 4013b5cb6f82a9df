"""`laconic steer sweep`: find block and strength on a dev set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cot.engine import Engine
    from cot.evaluate import EvalConfig
    from steering.sweep import SweepConfig, SweepResult


@dataclass(frozen=True)
class SteerSweep:
    """Run block x strength on a dev set and choose the shortest thinking at enough accuracy; resumable."""

    vector: Path = Path("vector.safetensors")
    """Vector made by `laconic steer extract`."""
    model: str = "embedded"
    """Model folder, hub id, or `embedded` for the reasoner that ships with laconic."""
    benchmark: str = "embedded"
    """As for `laconic eval`."""
    split: str | None = None
    """Problems to sweep on, never those to report; default: dev for the embedded benchmarks, else train."""
    data: Path | None = None
    """File or folder with the benchmark's problems; default: the folder in LACONIC_DATA, else the hub."""
    limit: int = 100
    """Number of problems."""
    blocks: str | None = None
    """Blocks to try, from 0: all, 3, 1,2,5 or 8-12; default: the vector's own."""
    strengths: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5)
    """Multiples of the direction."""
    margin: float = 0.01
    """Accuracy that may be lost, as a fraction."""
    give_up: float = 0.2
    """On a block, once a strength costs more accuracy than this, stronger ones are not run."""
    engine: str = "auto"
    """hf, vllm, or auto: vllm where it is installed, else hf."""
    engine_options: tuple[str, ...] = ()
    """Options of the engine, name=value."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... (hf)."""
    batch_size: int = 32
    """Requests decoded at once."""
    temperature: float = 0.0
    """0 is greedy."""
    max_tokens: int = 1024
    """Longest output, thinking included."""
    seed: int = 0
    """Seed of decoding."""
    out: Path = Path("runs/sweep")
    """Folder of the points' run folders, sweep.json and the tuned vector.safetensors."""
    json: str | None = None
    """Write sweep.json's object to this file too, - for standard output."""


def run(command: SteerSweep) -> int:
    """Sweep, print the grid and the choice; 1 if no point is shorter at enough accuracy."""
    import logging
    import sys

    from cot.benchmarks import load
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from steering.sweep import format_grid, sweep, sweep_json
    from steering.vector import load_vector

    from .command import write_figures
    from .eval import parse_options

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    load_vector(command.vector)
    split = command.split or ("dev" if command.benchmark.partition(":")[0] == "embedded" else "train")
    problems = load(command.benchmark, split=split, data=command.data, limit=command.limit)
    engine = open_engine(
        EngineConfig(
            command.model,
            command.engine,
            command.dtype,
            command.device,
            command.batch_size,
            options=parse_options(command.engine_options),
        )
    )
    try:
        config = _config(command, engine)
        result = sweep(engine, problems, command.vector, command.out, config, _evaluation(command))
    finally:
        engine.close()
    shown = sys.stderr if command.json == "-" else sys.stdout
    print(format_grid(result), _choice(result, command.out), sep="\n", file=shown)
    write_figures(command.json, sweep_json(result, config))
    return 0 if result.best else 1


def _config(command: SteerSweep, engine: Engine) -> SweepConfig:
    from steering.sites import engine_shape, parse_blocks
    from steering.sweep import SweepConfig

    blocks = None if command.blocks is None else parse_blocks(command.blocks, engine_shape(engine).num_layers)
    return SweepConfig(blocks, command.strengths, margin=command.margin, give_up=command.give_up)


def _evaluation(command: SteerSweep) -> EvalConfig:
    from cot.evaluate import EvalConfig
    from eval_math.records import Sampling

    sampling = Sampling(max_tokens=command.max_tokens, temperature=command.temperature)
    return EvalConfig(command.benchmark, sampling=sampling, seed=command.seed)


def _choice(result: SweepResult, out: Path) -> str:
    if result.best is None or result.best.run is None:
        return f"no point thinks less within the margin; try weaker strengths or other blocks (runs: {out})"
    best = result.best.run
    saved = 1 - best.thinking_tokens_mean / result.base.thinking_tokens_mean
    return (
        f"chosen: block {result.best.block}, strength {result.best.strength:g}: {saved:.1%} fewer thinking tokens at "
        f"accuracy {best.accuracy:.3f}\nuse it with --method asc:vector={result.vector}"
    )
