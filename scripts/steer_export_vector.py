"""`laconic steer export-vector`: a vector file for other software."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class SteerExportVector:
    """Write a vector as a GGUF control vector (llama.cpp, repeng, EasySteer) or as an .npy array.

    The file holds what strength 1 adds: give the other software the strength as its scale.
    """

    vector: Annotated[Path, tyro.conf.Positional]
    """The vector file."""
    out: Path
    """The file to write; its name ends in .gguf or .npy."""
    blocks: str | None = None
    """Blocks to write, from 0: all, 3, 1,2,5 or 8-12. Default: those the vector steers, as others add all in a file."""


def run(command: SteerExportVector) -> int:
    """Read, check, write and print the vector."""
    from eval_math.errors import BadInput
    from steering.foreign import export_array
    from steering.gguf_file import export_gguf
    from steering.sites import parse_blocks
    from steering.vector import load_vector

    from .steer_show import format_vector

    kind = command.out.suffix.lower()
    if kind not in (".gguf", ".npy"):
        raise BadInput(f"--out {command.out}: the name ends in {kind or 'nothing'}, expected .gguf or .npy")
    vector = load_vector(command.vector)
    info = vector.info
    blocks = info.apply_layers if command.blocks is None else parse_blocks(command.blocks, info.num_layers)
    if kind == ".gguf":
        export_gguf(vector, command.out, blocks)
    else:
        export_array(vector, command.out, blocks)
    print(format_vector(vector), f"{command.out}: block {', '.join(map(str, blocks))}, as strength 1 adds it", sep="\n")
    if info.gamma is not None:
        scaled = f", in llama.cpp --control-vector-scaled {command.out}:{info.gamma:g}" if kind == ".gguf" else ""
        print(f"use it at strength {info.gamma:g}{scaled}")
    return 0
