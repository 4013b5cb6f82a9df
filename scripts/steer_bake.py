"""`laconic steer bake`: a model folder with a steering vector in its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SteerBake:
    """Write a plain model folder that is steered at every position, for any engine, compiled or served."""

    vector: Path = Path("vector.safetensors")
    """Vector file (`laconic steer extract`)."""
    model: str = "embedded"
    """Model folder, hub id, or `embedded`: a llama, mistral, qwen2 or qwen3 that is not quantised."""
    block: int | None = None
    """Block to steer, from 0. Default: the file's."""
    strength: float | None = None
    """Multiple of the direction, in the file's unit. Default: the file's."""
    out: Path = Path("steered")
    """The new folder; it must not exist, or be empty."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: SteerBake) -> int:
    """Write the folder, print what it is."""
    import logging
    import sys
    from dataclasses import asdict

    from steering.bake import bake
    from steering.vector import load_vector

    from .command import write_figures

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    vector = load_vector(command.vector)
    baked = bake(command.model, vector, command.out, block=command.block, strength=command.strength)
    shown = sys.stderr if command.json == "-" else sys.stdout
    blocks = ", ".join(map(str, baked.blocks))
    print(f"block {blocks}, strength {baked.strength:g}, all positions, prompt and answer too", file=shown)
    print(f"{baked.architecture_before} -> {baked.architecture_after}, {baked.dtype}", file=shown)
    print(f"step rounded by {baked.rounding:.1e} of its norm", file=shown)
    print(f"folder: {baked.folder}", file=shown)
    write_figures(command.json, {**asdict(baked), "folder": str(baked.folder)})
    return 0
