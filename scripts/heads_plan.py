"""`laconic heads plan`: memory of a KV cache, whole, with windowed heads or with RPC, without loading weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl.planner import ModelShape

GIB = 2**30


@dataclass(frozen=True)
class HeadsPlan:
    """How much memory a cache takes, and how many rows fit beside the weights."""

    model: str = "embedded"
    """Model folder, its config.json, hub id, or `embedded`; only config.json is read."""
    tokens: int = 32_768
    """Prompt and output of a row."""
    prompt: int = 128
    """Its prompt."""
    batch: int = 1
    """Rows."""
    memory: float = 80.0
    """GiB of the device."""
    dtype: str = "bfloat16"
    """Of keys and values: float32, bfloat16, float16 or float8."""
    sparsity: tuple[float, ...] = (0.2, 0.4, 0.5, 0.6, 0.8)
    """Shares of heads with a window."""
    sink: int = 16
    """First tokens of a window."""
    recent: int = 64
    """Last tokens of a window."""
    interval: int = 4096
    """RPC: generated tokens between two compressions."""
    ratio: int = 4
    """RPC: one in so many tokens is kept."""
    newest: int = 32
    """RPC: tokens that are always kept."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: HeadsPlan) -> int:
    """Compute and print."""
    from cot.chat import resolve_model
    from eval_math.errors import BadInput
    from rl.planner import read_shape

    from .command import write_figures

    if not 1 <= command.prompt <= command.tokens or command.batch < 1 or command.memory <= 0:
        raise BadInput(
            f"tokens={command.tokens}, prompt={command.prompt}, batch={command.batch}, memory={command.memory}: at "
            "least 1 token of prompt and no more than tokens, 1 row and some memory are expected"
        )
    path = Path(command.model)
    shape = read_shape(path if path.is_file() else resolve_model(command.model), command.dtype)
    sizes = plans(command, shape)
    stream = sys.stderr if command.json == "-" else sys.stdout
    print(_table(command, shape, sizes), file=stream)
    write_figures(command.json, {"token_bytes": shape.token_bytes, "weights": shape.weights, "bytes_per_row": sizes})
    return 0


def plans(command: HeadsPlan, shape: ModelShape) -> Mapping[str, int]:
    """Bytes of one row by name of the plan."""
    from rl.planner import RpcPlan, WindowPlan

    windows = {f"rlkv:sparsity={s:g}": WindowPlan(s, command.sink, command.recent) for s in command.sparsity}
    rpc = RpcPlan(command.interval, command.ratio, command.newest)
    generated = command.tokens - command.prompt
    return {
        "whole": shape.whole(command.tokens),
        **{name: shape.windowed(command.tokens, 1, plan) for name, plan in windows.items()},
        "rpc at its end": shape.whole(rpc.length(command.prompt, generated)),
        "rpc at its peak": shape.whole(rpc.peak(command.prompt, generated)),
    }


def _table(command: HeadsPlan, shape: ModelShape, sizes: Mapping[str, int]) -> str:
    weights = 2 * shape.weights / GIB
    lines = [
        f"{shape.layers} layers x {shape.kv_heads} KV heads x {shape.head_dim}: {shape.token_bytes:,} bytes per token",
        f"weights in 16 bits: about {weights:.1f} GiB; {command.tokens:,} tokens, {command.batch} row(s)",
        "",
        f"{'cache':<20}{'GiB':>10}{'of whole':>10}{f'rows in {command.memory:g} GiB':>20}",
    ]
    for name, size in sizes.items():
        rows = max(0, int((command.memory - weights) * GIB // size))
        lines.append(f"{name:<20}{command.batch * size / GIB:>10.3f}{size / sizes['whole']:>10.3f}{rows:>20,}")
    return "\n".join([*lines, "", "activations and the room that an engine keeps for itself are left out"])
