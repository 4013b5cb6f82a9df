"""`laconic steer import`: a steering vector made by other software."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from steering.sites import ModelShape
    from steering.vector import SteeringVector


@dataclass(frozen=True)
class SteerImport:
    """Turn ASC's released .pt files, plain .npy or .pt arrays and GGUF control vectors into a vector file.

    ASC: FILE.pt --model qwen7b. An array: FILE.npy --block 20 --sign 1 --like MODEL_FOLDER. A control vector of repeng,
    llama.cpp or EasySteer: FILE.gguf --sign 1 --like MODEL_FOLDER. Nothing in a file is executed.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """The .pt, .npy or .gguf file."""
    model: Literal["qwen7b", "llama8b", "qwq32b"] | None = None
    """The file is ASC's release for this model: sites, strength and sign are known."""
    block: int | None = None
    """Block whose output the vector is added to, from 0. Needed for arrays; GGUF: default all blocks of the file."""
    sign: Literal[1, -1] | None = None
    """1 if adding the file's numbers makes answers shorter, -1 if subtracting does. ASC: default -1."""
    like: str | None = None
    """Folder of the model that the vector is for, or `embedded`: tells width and depth."""
    hidden_size: int | None = None
    """Width of that model, in place of --like."""
    num_layers: int | None = None
    """Number of its blocks, in place of --like."""
    out: Path = Path("vector.safetensors")
    """The vector file."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: SteerImport) -> int:
    """Read, check, store and print the vector."""
    import logging
    import sys

    from steering.vector import save_vector

    from .command import write_figures
    from .steer_show import format_vector, vector_figures

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    vector = _imported(command)
    save_vector(vector, command.out)
    shown = sys.stderr if command.json == "-" else sys.stdout
    print(format_vector(vector), f"vector: {command.out}", sep="\n", file=shown)
    write_figures(command.json, {"out": str(command.out), **vector_figures(vector)})
    return 0


def _imported(command: SteerImport) -> SteeringVector:
    from eval_math.errors import BadInput
    from steering.foreign import ASC_SIGN, import_array, import_asc

    kind = command.file.suffix.lower()
    if kind not in (".pt", ".npy", ".gguf"):
        raise BadInput(f"{command.file}: the name ends in {kind or 'nothing'}, expected .pt, .npy or .gguf")
    if command.model is not None:
        _refuse_for_asc(command, kind)
        return import_asc(command.file, command.model, command.sign or ASC_SIGN)
    shape = _shape(command)
    if kind == ".gguf":
        from steering.gguf_file import import_gguf

        return import_gguf(command.file, shape, command.sign, command.block, command.like)
    if command.block is None or command.sign is None or shape is None:
        asc = " Or name ASC's model, --model qwen7b, llama8b or qwq32b." if kind == ".pt" else ""
        raise BadInput(
            f"{command.file}: an array needs --block N, --sign 1 (adding it shortens) or -1 (subtracting it does), and "
            f"--like MODEL_FOLDER or --hidden-size and --num-layers.{asc}"
        )
    return import_array(command.file, command.block, shape, command.sign, command.like or "unknown")


def _refuse_for_asc(command: SteerImport, kind: str) -> None:
    from eval_math.errors import BadInput

    if kind != ".pt":
        raise BadInput(f"{command.file}: --model is for ASC's .pt files; give --like MODEL_FOLDER for this one")
    names = ("block", "like", "hidden_size", "num_layers")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(command, name) is not None]
    if given:
        raise BadInput(f"--model {command.model} already tells block and shape; leave out {', '.join(given)}")


def _shape(command: SteerImport) -> ModelShape | None:
    from eval_math.errors import BadInput
    from steering.sites import ModelShape

    numbers = (command.hidden_size, command.num_layers)
    if command.like is not None:
        if numbers != (None, None):
            raise BadInput("give either --like MODEL_FOLDER or --hidden-size and --num-layers, not both")
        return _shape_like(command.like)
    width, depth = numbers
    if width is None and depth is None:
        return None
    if width is None or depth is None or width < 1 or depth < 1:
        raise BadInput(f"--hidden-size {width} --num-layers {depth}: both are needed, each at least 1; or give --like")
    return ModelShape(width, depth, "unknown")


def _shape_like(name: str) -> ModelShape:
    from steering.foreign import folder_shape

    if name != "embedded":
        return folder_shape(Path(name).expanduser())
    from cot.chat import resolve_model

    return folder_shape(resolve_model(name))
