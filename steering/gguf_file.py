"""GGUF control vectors, as repeng, llama.cpp and EasySteer read and write them. Needs the extra ``laconic[gguf]``.

The format: architecture ``controlvector``, ``controlvector.model_hint`` (the model's type),
``controlvector.layer_count`` (the number of directions) and tensors ``direction.N``, each (hidden,) float32.

Which block is N? In all three, ``direction.N`` is added to the output of block N, counted from 0, so N is our block
number as it stands:

- llama.cpp: ``common_control_vector_load_one`` in common/common.cpp keeps ``direction.N`` at offset
  hidden * (N - 1) and refuses the whole file if N is 0; ``llama_adapter_cvec::apply`` in src/llama-adapter.cpp hands
  offset hidden * (il - 1) to layer ``il``; each model's graph (e.g. src/models/qwen2.cpp) calls
  ``build_cvec(cur, il)``, ``il`` counted from 0, after the layer's last residual addition. The - 1 is storage only.
- repeng: ``ControlModel`` in repeng/control.py adds ``directions[N]`` to the output of ``layers[N]``;
  repeng/extract.py reads ``hidden_states[N + 1]``, which is that same output, except for the last block, where
  transformers gives it after the final norm.
- EasySteer: its controllers hook ``layers[N]``; it takes and writes N = 0 as well.

So block 0 can be read but not written, as llama.cpp would refuse the file. Where a direction was read is not in the
format: llama.cpp's cvector-generator stores the output of block N - 1 as ``direction.N`` (tools/cvector-generator/
mean.hpp), so it reads one block before the one it steers; ``extract_layers`` is therefore left empty.

llama.cpp and repeng add every direction of a file. An export hence holds only the blocks that the vector steers,
unless others are named, and for each what strength 1 adds, so that their scale is our strength in any unit.
Keys ``laconic.*`` carry what the format lacks; the other programs ignore them.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_math.errors import BadInput, MissingPart

from .foreign import DAMAGED, Sign, bare_info, check_sign, digest_bytes, looks_like, read_bytes, write_in_one_step
from .sites import ModelShape, check_blocks
from .vector import SIGN, SteeringVector, VectorInfo

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "controlvector"
HINT = f"{ARCHITECTURE}.model_hint"
KEYS = ("general.architecture", HINT, "laconic.sign", "laconic.model_id", "laconic.num_layers", "laconic.gamma")
MOST_READS = 1_000_000
MOST_LAYERS = 10_000

log = logging.getLogger(__name__)


def import_gguf(
    path: Path,
    shape: ModelShape | None = None,
    sign: Sign | None = None,
    block: int | None = None,
    model_id: str | None = None,
) -> SteeringVector:
    """A control vector: ``direction.N`` (hidden,) becomes the direction of block N; see the module for sources.

    Args:
        path: the file.
        shape: of the model it belongs to; may be left out for files that laconic wrote.
        sign: 1 if adding the vector makes answers shorter, -1 if subtracting it does; may be left out likewise.
        block: the one block to steer; default: all that the file has, as llama.cpp and repeng do.
        model_id: name of that model; default: what the file says.

    Raises:
        BadInput: damaged, not a control vector, of another width or depth, values not finite, or sign or depth unknown.
        MissingPart: the package gguf is not installed.
    """
    data = read_bytes(path)
    content = _read(path, data)
    directions = _directions(content, path)
    found = _shape(content, path, len(next(iter(directions.values()))), shape)
    check_blocks(directions, found.num_layers)
    if block is not None and block not in directions:
        raise BadInput(f"{path}: no direction for block {block}; it has {', '.join(map(str, directions))}")
    factor, sign_source = _sign(content, path, sign)
    name = model_id or content.text("laconic.model_id") or found.model_type
    blocks = tuple(directions) if block is None else (block,)
    known = bare_info(found, name, blocks, sign_source)
    source = f"GGUF: {path.name}"
    info = replace(known, gamma=_gamma(content, path), pair_source=source, source_sha256=digest_bytes(data))
    return SteeringVector({b: factor * tensor for b, tensor in directions.items()}, info)


def export_gguf(vector: SteeringVector, path: Path, blocks: Sequence[int] | None = None) -> None:
    """Write a control vector: what strength 1 adds at block N becomes ``direction.N``, (hidden,) float32.

    Args:
        vector: the vector.
        path: the file, replaced in one step.
        blocks: default: those that the vector steers.

    Raises:
        BadInput: block 0, which llama.cpp refuses, or a block without a direction.
        MissingPart: the package gguf is not installed.
        StoreError: not writable.
    """
    chosen = check_blocks(vector.info.apply_layers if blocks is None else blocks, vector.info.num_layers)
    if 0 in chosen:
        raise BadInput(
            "block 0: a GGUF control vector cannot hold it, llama.cpp refuses files with direction.0; "
            "choose other blocks with --blocks, or export an .npy file"
        )
    steps = {b: vector.step(b, 1.0).cpu().contiguous() for b in chosen}
    package = _package()
    write_in_one_step(path, lambda temporary: _write(package, temporary, vector.info, steps))


def _write(package: Any, path: Path, info: VectorInfo, steps: dict[int, torch.Tensor]) -> None:
    writer = package.GGUFWriter(path, ARCHITECTURE)
    try:
        writer.add_string(HINT, info.model_type or "unknown")
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(steps))
        writer.add_string("laconic.sign", SIGN)
        writer.add_string("laconic.model_id", info.model_id)
        writer.add_uint32("laconic.num_layers", info.num_layers)
        if info.gamma is not None:
            writer.add_float64("laconic.gamma", info.gamma)
        for block, step in steps.items():
            writer.add_tensor(f"direction.{block}", step.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingPart(
            "GGUF files need the package gguf, which is not installed; pip install gguf, or the extra laconic[gguf]"
        ) from error
    return gguf


@dataclass(frozen=True)
class _Content:
    """What was read: the values of `KEYS` that the file has, and its tensors."""

    values: Mapping[str, Any]
    tensors: Sequence[Any]

    def text(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else ""


def _read(path: Path, data: bytes) -> _Content:
    """Read with the package's reader, bounded: it takes counts at their word and could be kept busy for ever."""
    import numpy as np

    package = _package()

    class BoundedReader(package.GGUFReader):
        """Never reads past the end, and gives up on absurd numbers of values."""

        reads = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **named: Any) -> Any:
            self.reads += 1
            if self.reads > MOST_READS or int(offset) + int(count) * np.dtype(dtype).itemsize > len(data):
                raise ValueError("a count or length in the file is larger than the file")
            return super()._get(offset, dtype, count, *rest, **named)

    try:
        reader = BoundedReader(path)
        fields = {key: reader.get_field(key) for key in KEYS}
        content = _Content({k: f.contents() for k, f in fields.items() if f is not None}, reader.tensors)
    except DAMAGED as error:
        kind = "" if data.startswith(b"GGUF") else looks_like(data)
        raise BadInput(f"{path}: not a readable GGUF file{kind} ({error}); get it again if it was cut off") from error
    architecture = content.text("general.architecture")
    if architecture != ARCHITECTURE:
        raise BadInput(
            f"{path}: architecture is {architecture!r}, expected {ARCHITECTURE!r}; a control vector of repeng, "
            "llama.cpp or EasySteer is needed, not a model or adapter"
        )
    return content


def _directions(content: _Content, path: Path) -> dict[int, torch.Tensor]:
    found = {}
    for tensor in content.tensors:
        match = re.fullmatch(r"direction\.(0|[1-9][0-9]{0,4})", tensor.name)
        if match is None:
            raise BadInput(f"{path}: tensor {tensor.name!r}; a control vector has only direction.0, direction.1, ...")
        found[int(match[1])] = _direction(tensor, path)
    if not found:
        raise BadInput(f"{path}: no tensor direction.N in it; export the vector again")
    if len({len(t) for t in found.values()}) > 1:
        raise BadInput(
            f"{path}: directions of widths {sorted({len(t) for t in found.values()})}; one width is expected"
        )
    return dict(sorted(found.items()))


def _direction(tensor: Any, path: Path) -> torch.Tensor:
    import numpy as np
    import torch

    kind = tensor.tensor_type.name
    if kind not in ("F32", "F16") or tensor.data.ndim != 1 or len(tensor.data) == 0:
        raise BadInput(
            f"{path}: {tensor.name} is {kind} of shape {tensor.data.shape}; expected F32 (or F16) of shape (hidden,)"
        )
    values = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise BadInput(f"{path}: {tensor.name} has {bad} value(s) that are not finite; make the vector again")
    return values


def _shape(content: _Content, path: Path, width: int, given: ModelShape | None) -> ModelShape:
    depth = content.values.get("laconic.num_layers")
    hint = content.text(HINT) or "unknown"
    if given is None:
        if type(depth) is not int or not 0 < depth <= MOST_LAYERS:
            raise BadInput(
                f"{path}: the file does not tell how many blocks its model has; give --like MODEL_FOLDER, or "
                "--hidden-size and --num-layers"
            )
        return ModelShape(width, depth, hint)
    for what, have, want in (("hidden_size", width, given.hidden_size), ("num_layers", depth, given.num_layers)):
        if have is not None and have != want:
            raise BadInput(f"{path}: made for a model with {what} {have}, the one named has {want}; name its own model")
    if hint not in ("unknown", given.model_type) and given.model_type != "unknown":
        log.warning("%s was made for a model of type %s, the one named is %s", path, hint, given.model_type)
    return ModelShape(width, given.num_layers, hint if given.model_type == "unknown" else given.model_type)


def _sign(content: _Content, path: Path, given: Sign | None) -> tuple[Sign, str]:
    if given is not None:
        return check_sign(given), f"given: {given:+d}"
    if content.text("laconic.sign") == SIGN:
        return 1, "laconic.sign in the file"
    raise BadInput(
        f"{path}: the file does not tell which way is shorter; give --sign 1 if adding the vector makes answers "
        "shorter, --sign -1 if subtracting it does"
    )


def _gamma(content: _Content, path: Path) -> float | None:
    value = content.values.get("laconic.gamma")
    if value is None:
        return None
    if not isinstance(value, float) or not math.isfinite(value):
        raise BadInput(f"{path}: laconic.gamma is {value!r}, a finite number is expected; export the vector again")
    return value
