"""`laconic steer extract`: a steering vector from pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
    pooling: Literal["last", "mean_response", "boundary"] = "last"
    """last: the final token of a side. mean_response: all its tokens. boundary: those that end a sentence or line."""
    span: Literal["response", "thinking"] = "response"
    """Read the whole response, or up to the end of thinking where both sides have one."""
    max_tokens: int | None = None
    """Longest question + response; longer pairs are skipped. Default: what the model was made for."""
    batch_tokens: int = 8192
    """Padded tokens per forward pass."""
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

    from cot.engine import EngineConfig, ModelAccess
    from cot.engines import open_engine
    from eval_math.errors import BadInput
    from steering.extraction import Recipe, extract
    from steering.pairs import load_pairs
    from steering.sites import model_shape, parse_blocks
    from steering.vector import save_vector

    from .command import write_figures
    from .steer_show import format_vector, vector_figures

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    pairs = load_pairs(command.pairs)
    engine = open_engine(EngineConfig(command.model, "hf", dtype=command.dtype, device=command.device))
    try:
        if not isinstance(engine, ModelAccess):
            raise BadInput("the hf engine gives no access to its model; is another package shadowing it?")
        blocks = parse_blocks(command.blocks, engine.apply_model(model_shape).num_layers)
        recipe = Recipe(
            blocks,
            pooling=command.pooling,
            span=command.span,
            batch_tokens=command.batch_tokens,
            max_tokens=command.max_tokens,
        )
        result = extract(engine, pairs, recipe, on_progress=_show_progress)
    finally:
        engine.close()
    save_vector(result.vector, command.out)
    shown = sys.stderr if command.json == "-" else sys.stdout
    print(f"{len(pairs)} pairs, {result.vector.info.n_pairs} used, {len(result.skipped)} skipped", file=shown)
    for dropped in result.skipped[:5]:
        print(f"  skipped {dropped.pair.problem_id}: {dropped.reason}, {dropped.detail}", file=shown)
    print(format_vector(result.vector), f"vector: {command.out}", sep="\n", file=shown)
    figures = {"pairs": len(pairs), "skipped": len(result.skipped), "out": str(command.out)}
    write_figures(command.json, {**figures, **vector_figures(result.vector)})
    return 0


def _show_progress(done: int, total: int) -> None:
    import sys

    if sys.stderr.isatty():
        print(f"\rreading {done}/{total} texts", end="\n" if done == total else "", file=sys.stderr, flush=True)
