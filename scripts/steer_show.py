"""`laconic steer show`: what a vector file holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from steering.vector import SteeringVector


@dataclass(frozen=True)
class SteerShow:
    """Norms, agreement of the pairs and metadata of a vector file."""

    vector: Annotated[Path, tyro.conf.Positional]
    """The vector file."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: SteerShow) -> int:
    """Read, check and print."""
    from steering.vector import load_vector

    from .command import write_figures

    vector = load_vector(command.vector)
    if command.json != "-":
        print(format_vector(vector))
    write_figures(command.json, vector_figures(vector))
    return 0


def format_vector(vector: SteeringVector) -> str:
    """Metadata, then one line per block."""
    from steering.statistics import block_statistics

    lines = [f"{name:<14} {value}" for name, value in _facts(vector).items() if value not in ("", None)]
    lines += ["", " block    norm  of |h|   pairs     |row|  cos(row, mean) mean/min  split-half cos"]
    for block, s in block_statistics(vector).items():
        star = "*" if block in vector.info.apply_layers else " "
        cos = f"{_number(s.cos_row_mean, 3)} / {_number(s.cos_row_min, 3)}"
        lines.append(
            f"{block:>5}{star}{s.norm:>8.3g}{_number(s.relative_norm, 3):>8}{s.rows:>8}"
            f"{_number(s.row_norm_mean, 2):>10}{cos:>26}{_number(s.split_half_cos, 3):>16}"
        )
    return "\n".join([*lines, "* steered by default; adding the direction moves towards concise"])


def vector_figures(vector: SteeringVector) -> dict[str, Any]:
    """Metadata and statistics as one JSON object."""
    import dataclasses

    from steering.statistics import block_statistics

    blocks = [dataclasses.asdict(s) for s in block_statistics(vector).values()]
    return {**_facts(vector), "blocks": blocks, "digest": vector.digest()}


def _facts(vector: SteeringVector) -> dict[str, Any]:
    import dataclasses

    facts = dataclasses.asdict(vector.info)
    extra = facts.pop("extra")
    return {**{k: list(v) if isinstance(v, tuple) else v for k, v in facts.items()}, **extra}


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
