"""The vector file ``cot-steer/1``: safetensors with one direction per block and how it came about.

Tensors: ``direction.{block}`` (hidden,) float32; ``pairs.{block}`` (pairs, hidden), the rows that the direction
averages; ``resid_norm.{block}`` (1,), mean norm of the states read there. Metadata: strings, see `VectorInfo`.
Adding a direction moves towards concise.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval_math.errors import BadInput, StoreError
from eval_math.files import refuse_special

from .sites import ModelShape, check_blocks

if TYPE_CHECKING:
    import torch

FORMAT = "cot-steer/1"
SITE = "block_output"
SIGN = "add->concise"
GAMMA_UNITS = ("raw", "unit", "resid")
GammaUnit = Literal["raw", "unit", "resid"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VectorInfo:
    """Metadata of a vector file. ``gamma`` is the strength to use where the user names none.

    ``gamma_unit``: ``raw`` scales the direction as stored, ``unit`` the direction divided by its norm, ``resid`` is a
    fraction of the block's mean residual norm. ``extra`` keeps keys that this version does not know.
    """

    model_id: str
    model_type: str
    hidden_size: int
    num_layers: int
    apply_layers: tuple[int, ...]
    extract_layers: tuple[int, ...]
    gamma: float | None = None
    gamma_unit: GammaUnit = "raw"
    normalized: str = "none"
    estimator: str = "mean_diff"
    n_pairs: int = 0
    position: str = "last"
    prompt_render: str = "chat"
    pair_source: str = ""
    kl: str = ""
    source_sha256: str = ""
    created_by: str = "laconic"
    version: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SteeringVector:
    """Directions by block, each (hidden,) float32, with optional per-pair rows and residual norms."""

    directions: Mapping[int, torch.Tensor]
    info: VectorInfo
    pairs: Mapping[int, torch.Tensor] = field(default_factory=dict)
    resid_norm: Mapping[int, float] = field(default_factory=dict)

    def step(self, block: int, strength: float) -> torch.Tensor:
        """What is added to the output of ``block`` at ``strength``: (hidden,) float32.

        Raises:
            BadInput: the file has no direction for ``block``, or lacks the norm that its strength unit needs.
        """
        if block not in self.directions:
            known = ", ".join(map(str, sorted(self.directions)))
            raise BadInput(f"block {block}: the vector has no direction there, only at blocks {known}")
        direction = self.directions[block]
        if self.info.gamma_unit == "raw":
            return strength * direction
        norm = float(direction.norm())
        if norm == 0 or (self.info.gamma_unit == "resid" and block not in self.resid_norm):
            raise BadInput(f"block {block}: strength unit {self.info.gamma_unit!r} needs a norm that the vector lacks")
        return strength * direction / norm * (self.resid_norm[block] if self.info.gamma_unit == "resid" else 1.0)

    def tuned(self, block: int, strength: float) -> SteeringVector:
        """The same vector with ``block`` and ``strength`` as its defaults."""
        return replace(self, info=replace(self.info, apply_layers=(block,), gamma=float(strength)))

    def digest(self) -> str:
        """sha256 (32 hex digits) of the directions, their strength unit and norms: what a given strength will do."""
        norms = [[block, self.resid_norm.get(block)] for block in sorted(self.directions)]
        total = hashlib.sha256(json.dumps([self.info.gamma_unit, norms]).encode())
        for block in sorted(self.directions):
            total.update(self.directions[block].cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:32]


def save_vector(vector: SteeringVector, path: Path) -> None:
    """Write ``vector`` in one step: readers see the old file or the new one.

    Raises:
        BadInput: a value is not finite or a shape is wrong.
        StoreError: not writable; the old file is intact.
    """
    from safetensors.torch import save

    tensors = {f"direction.{b}": t for b, t in vector.directions.items()}
    tensors |= {f"pairs.{b}": t for b, t in vector.pairs.items()}
    tensors |= {f"resid_norm.{b}": _scalar(n) for b, n in vector.resid_norm.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _check(str(path), vector.info, tensors)
    refuse_special(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(tensors, metadata=_to_metadata(vector.info)))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error


def load_vector(path: Path, shape: ModelShape | None = None, model_id: str | None = None) -> SteeringVector:
    """Read a vector file and check it; with ``shape``, also that it fits that model.

    Raises:
        BadInput: not a ``cot-steer/1`` file, damaged, values not finite, or another width or depth than the model's.
    """
    metadata, tensors = _read(path)
    info = _from_metadata(metadata, path)
    _check(str(path), info, tensors)
    vector = SteeringVector(
        directions=_group(tensors, "direction"),
        info=info,
        pairs=_group(tensors, "pairs"),
        resid_norm={b: float(t[0]) for b, t in _group(tensors, "resid_norm").items()},
    )
    if shape is not None:
        check_fit(vector, shape, model_id)
    return vector


def check_fit(vector: SteeringVector, shape: ModelShape, model_id: str | None = None) -> None:
    """Refuse a model of another width or depth; warn when only the model's name differs.

    Raises:
        BadInput: gives both numbers.
    """
    info = vector.info
    for what, have, want in (
        ("hidden_size", info.hidden_size, shape.hidden_size),
        ("num_layers", info.num_layers, shape.num_layers),
    ):
        if have != want:
            raise BadInput(
                f"the vector was made for {info.model_id} with {what} {have}, this model has {want}; "
                "extract one from this model with `laconic steer extract`"
            )
    if model_id is not None and model_id != info.model_id:
        log.warning("vector made from %s, applied to %s: same shape, maybe another meaning", info.model_id, model_id)


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected a steering vector (`laconic steer extract --out {path}`)")
    try:
        with safe_open(str(path), framework="pt") as handle:
            return handle.metadata() or {}, {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"{path}: not a readable safetensors file ({error}); is it cut off or of another format?"
        ) from error


def _check(name: str, info: VectorInfo, tensors: Mapping[str, torch.Tensor]) -> None:
    directions = _group(tensors, "direction")
    if not directions:
        raise BadInput(f"{name}: no tensor direction.<block>; found {', '.join(sorted(tensors)) or 'nothing'}")
    check_blocks([int(key.rsplit(".", 1)[1]) for key in tensors if key.rsplit(".", 1)[1].isdigit()], info.num_layers)
    if info.gamma_unit not in GAMMA_UNITS:
        raise BadInput(f"{name}: gamma_unit {info.gamma_unit!r}, expected one of {', '.join(GAMMA_UNITS)}")
    missing = sorted(set(info.apply_layers) - set(directions))
    if missing:
        raise BadInput(
            f"{name}: apply_layers names block(s) {missing} without a direction; it has {sorted(directions)}"
        )
    for key, tensor in tensors.items():
        _check_tensor(name, key, tensor, info.hidden_size)


def _check_tensor(name: str, key: str, tensor: torch.Tensor, hidden_size: int) -> None:
    import torch

    width, dimensions = {"direction": (hidden_size, 1), "pairs": (hidden_size, 2)}.get(key.partition(".")[0], (1, 1))
    if tensor.ndim != dimensions or tensor.shape[-1] != width:
        raise BadInput(f"{name}: {key} has shape {tuple(tensor.shape)}, hidden_size is {hidden_size}")
    if not tensor.is_floating_point() or (key.startswith("direction.") and tensor.dtype != torch.float32):
        raise BadInput(f"{name}: {key} has type {tensor.dtype}; directions are float32, rows and norms floating point")
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise BadInput(f"{name}: {key} has {bad} value(s) that are not finite; make the vector again")


def _group(tensors: Mapping[str, torch.Tensor], kind: str) -> dict[int, torch.Tensor]:
    found = {}
    for name, tensor in tensors.items():
        head, _, block = name.partition(".")
        if head == kind and block.isdigit():
            found[int(block)] = tensor
    return dict(sorted(found.items()))


def _scalar(value: float) -> torch.Tensor:
    import torch

    return torch.tensor([value], dtype=torch.float32)


def _to_metadata(info: VectorInfo) -> dict[str, str]:
    known = {f.name: getattr(info, f.name) for f in fields(info) if f.name != "extra"}
    written = {name: _to_text(value) for name, value in known.items()}
    return {**info.extra, **written, "format": FORMAT, "site": SITE, "sign": SIGN}


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(list(value)) if isinstance(value, tuple) else str(value)


def _from_metadata(metadata: Mapping[str, str], path: Path) -> VectorInfo:
    for key, expected in (("format", FORMAT), ("site", SITE), ("sign", SIGN)):
        if metadata.get(key) != expected:
            raise BadInput(f"{path}: {key} is {metadata.get(key)!r}, expected {expected!r}; not a laconic vector file")
    values: dict[str, Any] = {}
    for f in fields(VectorInfo):
        if f.name in metadata:
            values[f.name] = _parsed(f.name, metadata[f.name], path)
    known = {f.name for f in fields(VectorInfo)} | {"format", "site", "sign"}
    try:
        return VectorInfo(**values, extra={k: v for k, v in metadata.items() if k not in known})
    except TypeError as error:
        raise BadInput(f"{path}: metadata is incomplete ({error})") from error


def _int_list(text: str) -> tuple[int, ...]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(type(x) is int for x in found):
        raise ValueError("a list of block numbers is expected")
    return tuple(found)


def _gamma(text: str) -> float | None:
    from math import isfinite

    if not text:
        return None
    if not isfinite(float(text)):
        raise ValueError("a finite number is expected")
    return float(text)


READERS: Mapping[str, Callable[[str], Any]] = {
    "hidden_size": int,
    "num_layers": int,
    "n_pairs": int,
    "gamma": _gamma,
    "apply_layers": _int_list,
    "extract_layers": _int_list,
}


def _parsed(name: str, text: str, path: Path) -> Any:
    try:
        return READERS.get(name, str)(text)
    except ValueError as error:
        raise BadInput(f"{path}: metadata {name} is {text!r} ({error})") from error
