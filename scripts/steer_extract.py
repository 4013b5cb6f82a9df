"""`laconic steer extract`: a steering vector from pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cot.engine import Engine
    from eval_math.records import Pair
    from steering.ces import CesStep
    from steering.extraction import Extraction
    from steering.vector import SteeringVector


@dataclass(frozen=True)
class SteerExtract:
    """Read pairs with the model and average their differences: one direction per block, short minus long."""

    pairs: Path = Path("pairs.jsonl")
    """Pairs made by `laconic steer pairs`."""
    model: str = "embedded"
    """Model folder, hub id, or `embedded` for the reasoner that ships with laconic."""
    blocks: str = "all"
    """Blocks to read, from 0: all, 3, 1,2,5 or 8-12."""
    out: Path = Path("vector.safetensors")
    """The vector file."""
    pooling: Literal["last", "mean_response", "first_k", "boundary"] = "last"
    """last: the final token of a side. mean_response: all its tokens. first_k: the first 16. boundary: those that end a
    sentence or line."""
    estimator: Literal["mean_diff", "median", "pca_center", "ces", "seal"] = "mean_diff"
    """How pairs become a direction: their mean, median or first component, or learned (contrastive energy, ASC-CES).
    seal: no pairs, but the thoughts of the correct traces in --runs, execution minus reflection and transition."""
    runs: tuple[Path, ...] = ()
    """Run folders (seal)."""
    boundary: str = "\\n\\n"
    """Texts of the tokens that end a thought, separated by ; with \\n for a line break (seal)."""
    steps: int = 300
    """Of learning a vector (ces)."""
    faithful: bool = False
    """ces as in its paper: without the bound on the task's own responses and without the early end."""
    span: Literal["thinking", "response"] = "thinking"
    """Read a side up to the end of thinking where both sides have one, or the whole response."""
    max_tokens: int | None = None
    """Longest question + response; longer pairs are skipped. Default: what the model was made for."""
    batch_tokens: int | None = None
    """Padded tokens per forward pass; default: 2,048 on a CPU, 16,384 on a GPU."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: SteerExtract) -> int:
    """Extract and store the vector, print what it looks like."""
    import logging
    import sys

    from steering.pairs import load_pairs
    from steering.vector import save_vector

    from .command import write_figures
    from .steer_show import format_vector, vector_figures

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if command.estimator == "seal":
        return _run_seal(command)
    pairs = load_pairs(command.pairs)
    result = _extract(command, pairs)
    save_vector(result.vector, command.out)
    shown = sys.stderr if command.json == "-" else sys.stdout
    print(f"{len(pairs)} pairs, {result.vector.info.n_pairs} used, {len(result.skipped)} skipped", file=shown)
    for dropped in result.skipped[:5]:
        print(f"  skipped {dropped.pair.problem_id}: {dropped.reason}, {dropped.detail}", file=shown)
    print(format_vector(result.vector), f"vector: {command.out}", sep="\n", file=shown)
    figures = {"pairs": len(pairs), "skipped": len(result.skipped), "out": str(command.out)}
    write_figures(command.json, {**figures, **vector_figures(result.vector)})
    return 0


def _run_seal(command: SteerExtract) -> int:
    import sys

    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from eval_math.errors import BadInput
    from steering.seal import SealRecipe, extract_seal
    from steering.sites import engine_shape, parse_blocks
    from steering.vector import save_vector

    from .command import write_figures
    from .steer_show import format_vector, vector_figures

    if not command.runs:
        raise BadInput("--estimator seal reads traces: give --runs with one or more run folders of this model")
    engine = open_engine(EngineConfig(command.model, "hf", dtype=command.dtype, device=command.device))
    try:
        blocks = parse_blocks(command.blocks, engine_shape(engine).num_layers)
        recipe = SealRecipe(blocks, command.boundary, batch_tokens=command.batch_tokens)
        vector = extract_seal(engine, command.runs, recipe)
    finally:
        engine.close()
    save_vector(vector, command.out)
    shown = sys.stderr if command.json == "-" else sys.stdout
    print(format_vector(vector), f"vector: {command.out}", sep="\n", file=shown)
    write_figures(command.json, {"traces": vector.info.n_pairs, "out": str(command.out), **vector_figures(vector)})
    return 0


def _extract(command: SteerExtract, pairs: list[Pair]) -> Extraction:
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from steering.extraction import Recipe, extract
    from steering.sites import engine_shape, parse_blocks

    engine = open_engine(EngineConfig(command.model, "hf", dtype=command.dtype, device=command.device))
    try:
        recipe = Recipe(
            parse_blocks(command.blocks, engine_shape(engine).num_layers),
            pooling=command.pooling,
            estimator="mean_diff" if command.estimator in ("ces", "seal") else command.estimator,
            span=command.span,
            batch_tokens=command.batch_tokens,
            max_tokens=command.max_tokens,
        )
        found = extract(engine, pairs, recipe, on_progress=_show_progress)
        if command.estimator != "ces":
            return found
        return replace(found, vector=_learned(command, engine, pairs, found.vector))
    finally:
        engine.close()


def _learned(command: SteerExtract, engine: Engine, pairs: list[Pair], like: SteeringVector) -> SteeringVector:
    from steering.ces import CesConfig
    from steering.learned import learn_vector

    # A learned direction costs a training run for each block: without a choice, only the vector's default block.
    blocks = sorted(like.directions) if command.blocks != "all" else list(like.info.apply_layers)
    configs = [CesConfig(block, steps=command.steps, faithful=command.faithful) for block in blocks]
    return learn_vector(engine, pairs, like, configs, _show_energies)


def _show_energies(step: CesStep) -> None:
    import sys

    if sys.stderr.isatty() and step.step % 20 == 0:
        print(
            f"  step {step.step}: short {step.short:.3f}, long {step.long:.3f} nats per token; changed {step.task:.3f}",
            file=sys.stderr,
        )


def _show_progress(done: int, total: int) -> None:
    import sys

    if sys.stderr.isatty():
        print(f"\rreading {done}/{total} texts", end="\n" if done == total else "", file=sys.stderr, flush=True)
