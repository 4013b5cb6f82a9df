"""`laconic heads find`: score the KV heads of a model by how much its reasoning needs them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from rl.gates import Window
    from rl.head_scores import DistillationConfig
    from rl.head_table import HeadTable
    from rl.rlkv import RlkvConfig


@dataclass(frozen=True)
class HeadsFind:
    """Find the heads that reasoning needs; running the same command again goes on."""

    model: str = "embedded"
    """Model folder, hub id, or `embedded`."""
    out: Path = Path("heads")
    """Folder of the table (heads.safetensors, heads.tsv), the rounds (updates.jsonl) and states."""
    way: Literal["rlkv", "ablation", "distillation"] = "rlkv"
    """Reinforcement learning; what is lost without each head; or keeping the hidden states under a penalty."""
    benchmark: str = "embedded"
    """Problems: a benchmark, or a file with question and answer."""
    split: str = "train"
    """Their split."""
    data: Path | None = None
    """File or folder of the benchmark, where it is not to be downloaded."""
    limit: int = 4000
    """Problems that the model is asked with whole attention."""
    drawn: int = 3000
    """Problems drawn from those it answers correctly, spread over the lengths of its answers."""
    sink: int = 16
    """First tokens that windowed heads see."""
    recent: int = 64
    """Last tokens that they see."""
    max_tokens: int = 2048
    """Longest answer."""
    updates: int = 185
    """Rounds of rlkv, or updates of the distillation."""
    questions: int = 32
    """Questions per round."""
    group: int = 4
    """Answers per question."""
    learning_rate: float | None = None
    """Of the gates; default 0.01, and 0.02 for the distillation."""
    beta: float = 1e-3
    """Weight of the L1 term at a mean reward of 0.7."""
    threshold: float = 0.5
    """Mean reward up to which there is no L1 term."""
    advantages: Literal["group", "batch"] = "group"
    """Rewards against their group (the paper), or against all tokens of the round (its code)."""
    penalty: float = 0.05
    """Weight of the mean gate in the distillation."""
    batch_size: int = 64
    """Answers decoded at once."""
    micro_batch: int = 8
    """Answers per forward pass of an update."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is the GPU where there is one."""
    seed: int = 0
    json: str | None = None
    """Write the table and its provenance as one JSON object to this file, - for standard output."""


def run(command: HeadsFind) -> int:
    """Search, and say what was found."""
    import torch

    from cot.benchmarks import load
    from rl.head_search import TABLE, HeadSearch, find_heads

    from .command import check_target, write_figures

    check_target(command.json)
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    problems = load(command.benchmark, split=command.split, data=command.data, limit=command.limit)
    device = auto if command.device == "auto" else command.device
    search = HeadSearch(command.model, command.out, problems, command.drawn, command.batch_size, device, command.seed)
    table = find_heads(search, _config(command), command.max_tokens)
    print(_shown(table), f"table: {command.out / TABLE}", sep="\n", file=_stream(command))
    write_figures(command.json, {"kind": table.kind, "scores": table.scores, **table.provenance})
    return 0


def _config(command: HeadsFind) -> RlkvConfig | DistillationConfig | Window:
    from rl.gates import Window
    from rl.head_scores import DistillationConfig
    from rl.rlkv import RlkvConfig

    shared = {"updates": command.updates, "sink": command.sink, "recent": command.recent, "seed": command.seed}
    if command.way == "ablation":
        return Window(command.sink, command.recent)
    if command.way == "distillation":
        rate = command.learning_rate or DistillationConfig.learning_rate
        return DistillationConfig(**shared, learning_rate=rate, penalty=command.penalty)
    return RlkvConfig(
        **shared,
        questions=command.questions,
        group=command.group,
        learning_rate=command.learning_rate or RlkvConfig.learning_rate,
        beta=command.beta,
        threshold=command.threshold,
        advantages=command.advantages,
        max_tokens=command.max_tokens,
        micro_batch=command.micro_batch,
    )


def _shown(table: HeadTable) -> str:
    lines = [f"{table.kind}: scores of KV heads, a row per layer"]
    return "\n".join([*lines, *(" ".join(f"{score:7.3f}" for score in row) for row in table.scores)])


def _stream(command: HeadsFind) -> TextIO:
    return sys.stderr if command.json == "-" else sys.stdout
