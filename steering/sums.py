"""Several vectors added up to one: ``a.safetensors*0.5;b.safetensors*-1``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval_math.errors import BadInput

if TYPE_CHECKING:
    import torch

    from .vector import SteeringVector


def parse_sum(written: str) -> list[tuple[Path, float | None]]:
    """Files and weights; None where none is given.

    Raises:
        BadInput: a weight that is no number.
    """
    found: list[tuple[Path, float | None]] = []
    for piece in written.split(";"):
        name, star, weight = piece.strip().rpartition("*")
        if not star:
            found.append((Path(weight).expanduser(), None))
            continue
        try:
            found.append((Path(name).expanduser(), float(weight)))
        except ValueError as error:
            raise BadInput(f"vector {piece!r}: file*weight is expected, {weight!r} is no number") from error
    return found


def add_up(parts: Sequence[tuple[SteeringVector, float | None]]) -> SteeringVector:
    """One vector, to be used at strength 1: each part at its weight, in its file's unit; None = its file's strength.

    Raises:
        BadInput: parts of different width or depth or for different blocks, or a part without any strength.
    """
    first = parts[0][0]
    for part, weight in parts:
        for what in ("hidden_size", "num_layers", "apply_layers"):
            have, want = getattr(part.info, what), getattr(first.info, what)
            if have != want:
                raise BadInput(f"vectors to be added up differ in {what}: {want} and {have}")
        if weight is None and part.info.gamma is None:
            raise BadInput("vectors to be added up: one names no strength; give file*weight")
    blocks = set(first.directions).intersection(*(part.directions for part, _ in parts))
    weighed = [(part, float(part.info.gamma or 0.0) if weight is None else weight) for part, weight in parts]
    directions = {block: _sum([part.step(block, weight) for part, weight in weighed]) for block in sorted(blocks)}
    info = replace(first.info, gamma=1.0, gamma_unit="raw", estimator="sum", extract_layers=tuple(sorted(blocks)))
    return replace(first, directions=directions, info=info, pairs={})


def _sum(steps: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.stack(list(steps)).sum(0)
