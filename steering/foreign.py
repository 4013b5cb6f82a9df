"""Steering vectors in other people's formats: ASC's released ``.pt`` files, and plain arrays in ``.npy`` or ``.pt``.

GGUF control vectors are in `steering.gguf_file`. Files are read without running anything they contain: ``.pt`` with
torch's restricted unpickler (``weights_only=True``), ``.npy`` without pickled objects.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import struct
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eval_math.errors import BadInput, StoreError
from eval_math.files import refuse_special

from .sites import ModelShape, check_blocks
from .vector import SteeringVector, VectorInfo

if TYPE_CHECKING:
    import torch

Sign = Literal[1, -1]
"""What the file's numbers are multiplied by, so that adding them moves towards concise."""

LARGEST_BYTES = 1 << 30
KINDS = {
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "an .npy file",
    b"PK\x03\x04": "a zip archive, as torch.save and numpy.savez write",
    b"\x80": "a pickle",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AscModel:
    """One model of ASC's release: its shape, where its vector was read and is added, and how strongly.

    ``sha256`` begins the hash of the released file.
    """

    model_id: str
    shape: ModelShape
    apply_block: int
    extract_block: int
    gamma: float
    sha256: str


ASC_MODELS: Mapping[str, AscModel] = {
    "qwen7b": AscModel(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", ModelShape(3584, 28, "qwen2"), 20, 19, 0.27, "03257eaaec95"
    ),
    "llama8b": AscModel(
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", ModelShape(4096, 32, "llama"), 20, 19, 0.46, "42057bf4d777"
    ),
    "qwq32b": AscModel("Qwen/QwQ-32B", ModelShape(5120, 64, "qwen2"), 57, 56, 0.5, "f5d41697387f"),
}
ASC_SIGN: Sign = -1
ASC_SIGN_SOURCE = "generate.py subtracts"
ASC_OWN = "if ASC's extraction script made it, it holds concise minus verbose and needs sign 1"


def import_asc(path: Path, model: str, sign: Sign = ASC_SIGN) -> SteeringVector:
    """A vector of ASC's release: ``path`` holds one tensor (pairs, hidden), float16 or float32.

    The release's ``generate.py`` subtracts gamma times the mean row from the output of ``layers[k]``, and its
    extraction reads ``hidden_states[k]``, the output of block k - 1. So the rows and their mean are multiplied by
    -1, the vector is applied at block k, and k - 1 is noted as the block it was read at. The mean is summed in
    float64 and stored in float32. The extraction script of the same repository writes concise minus verbose, the
    opposite of what its generation subtracts: files made with it need ``sign=1``.

    Args:
        path: the ``.pt`` file.
        model: a key of `ASC_MODELS`.
        sign: the factor.

    Raises:
        BadInput: an unknown model, or a file that is anything but one finite tensor of that model's width.
    """
    if model not in ASC_MODELS:
        raise BadInput(f"model {model!r}: ASC released vectors for {', '.join(ASC_MODELS)}; name one of them")
    known, data = ASC_MODELS[model], read_bytes(path)
    rows = _checked(_load_pt(path, data), path, known.shape.hidden_size, (2,))
    factor, sha256 = check_sign(sign), digest_bytes(data)
    if not sha256.startswith(known.sha256):
        log.warning("%s is not the file that ASC released for %s (sha256 %s...); %s", path, model, sha256[:12], ASC_OWN)
    source = ASC_SIGN_SOURCE if sign == ASC_SIGN else f"given: {sign:+d}"
    info = bare_info(known.shape, known.model_id, (known.apply_block,), source)
    info = replace(
        info,
        extract_layers=(known.extract_block,),
        gamma=known.gamma,
        position="last",
        prompt_render="raw",
        pair_source=f"ASC release: {path.name}",
        source_sha256=sha256,
        extra={**info.extra, "gamma_source": "generate.py"},
    )
    return _vector(rows, info, factor)


def import_array(path: Path, block: int, shape: ModelShape, sign: Sign, model_id: str = "unknown") -> SteeringVector:
    """A vector out of an ``.npy`` or ``.pt`` file that holds one array: (hidden,), or (pairs, hidden) to be averaged.

    Args:
        path: the file; its name ends in ``.npy``, or it is read as ``torch.save`` writes.
        block: where it is added: to the output of this block, counted from 0.
        shape: of the model it belongs to.
        sign: 1 if adding the array makes answers shorter, -1 if subtracting it does.
        model_id: name of that model.

    Raises:
        BadInput: not one finite floating-point array of that width, or a block that the model lacks.
    """
    check_blocks([block], shape.num_layers)
    data = read_bytes(path)
    array = _load_npy(path, data) if path.suffix.lower() == ".npy" else _load_pt(path, data)
    array = _checked(array, path, shape.hidden_size, (1, 2))
    info = bare_info(shape, model_id, (block,), f"given: {check_sign(sign):+d}")
    info = replace(info, pair_source=f"array: {path.name}", source_sha256=digest_bytes(data))
    return _vector(array, info, sign)


def export_array(vector: SteeringVector, path: Path, blocks: Sequence[int] | None = None) -> None:
    """Write what strength 1 adds at a block, (hidden,) float32, as an ``.npy`` file.

    Args:
        vector: the vector.
        path: the file, replaced in one step.
        blocks: one block; default: the one that the vector steers.

    Raises:
        BadInput: several blocks, or one without a direction.
        StoreError: not writable.
    """
    import numpy as np

    chosen = tuple(vector.info.apply_layers if blocks is None else blocks)
    if len(chosen) != 1:
        given = ", ".join(map(str, chosen)) or "none"
        raise BadInput(f"blocks {given}: an .npy file holds one direction; choose one block with --blocks")
    buffer = io.BytesIO()
    np.save(buffer, vector.step(chosen[0], 1.0).cpu().numpy(), allow_pickle=False)
    write_in_one_step(path, lambda temporary: _write(temporary, buffer.getvalue()))


def bare_info(shape: ModelShape, model_id: str, blocks: Sequence[int], sign_source: str) -> VectorInfo:
    """What is known of a foreign vector that is added at ``blocks``; where and how it was read is not."""
    return VectorInfo(
        model_id,
        shape.model_type,
        shape.hidden_size,
        shape.num_layers,
        apply_layers=tuple(blocks),
        extract_layers=(),
        estimator="unknown",
        position="unknown",
        prompt_render="unknown",
        extra={"sign_source": sign_source},
    )


def folder_shape(folder: Path) -> ModelShape:
    """Shape of the model in ``folder``, from its config.json alone.

    Raises:
        BadInput: no such file there, or it does not tell width and depth.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); expected a model's folder") from error
    text = config.get("text_config", config) if isinstance(config, dict) else None
    found = [text.get(key) if isinstance(text, dict) else None for key in ("hidden_size", "num_hidden_layers")]
    width, depth = found
    if not isinstance(text, dict) or type(width) is not int or type(depth) is not int:
        raise BadInput(f"{path}: hidden_size and num_hidden_layers are {found}; give --hidden-size and --num-layers")
    return ModelShape(width, depth, str(text.get("model_type", "unknown")))


def check_sign(sign: int) -> Sign:
    """``sign`` if it is 1 or -1.

    Raises:
        BadInput: it is another number.
    """
    if sign == 1:
        return 1
    if sign == -1:
        return -1
    raise BadInput(f"sign {sign!r}: 1 if adding the file's numbers makes answers shorter, -1 if subtracting them does")


def read_bytes(path: Path) -> bytes:
    """The content of a vector file.

    Raises:
        BadInput: missing, not a file, empty, unreadable, or far larger than any vector.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected a steering vector")
    size = path.stat().st_size
    if size == 0:
        raise BadInput(f"{path}: the file is empty; was its download or copy cut off? Get it again")
    if size > LARGEST_BYTES:
        raise BadInput(f"{path}: {size} bytes, but a vector takes a few million; is this a model?")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def digest_bytes(data: bytes) -> str:
    """sha256 (64 hex digits) of a file's content."""
    return hashlib.sha256(data).hexdigest()


def looks_like(data: bytes) -> str:
    """What kind of file begins with ``data``, to be appended to an error; empty if unknown."""
    return next((f"; it looks like {kind}" for start, kind in KINDS.items() if data.startswith(start)), "")


def write_in_one_step(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: readers see the old file or the new one.

    Raises:
        BadInput: ``path`` is a folder, device or pipe.
        StoreError: not writable; the old file is intact.
    """
    refuse_special(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def _load_pt(path: Path, data: bytes) -> torch.Tensor:
    import pickle
    import warnings

    import torch

    expected = "expected one tensor as torch.save(tensor, path) writes it"
    try:
        with warnings.catch_warnings(action="ignore"):
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        hint = looks_like(data) if not data.startswith((b"PK", b"\x80")) else ""
        raise BadInput(
            f"{path}: damaged, of another kind, or holding objects that only running code could restore, which is "
            f"never done{hint}; {expected}"
        ) from error
    except DAMAGED as error:
        raise BadInput(f"{path}: not a readable .pt file{looks_like(data)}, maybe cut off; {expected}") from error
    if not isinstance(found, torch.Tensor):
        keys = f" with keys {', '.join(map(str, list(found)[:5]))}" if isinstance(found, dict) else ""
        raise BadInput(f"{path}: holds a {type(found).__name__}{keys}; {expected}: save the tensor alone")
    # A stride of 0 lets a file of a few bytes claim any number of values.
    if found.layout != torch.strided or found.device.type != "cpu" or found.numel() * found.element_size() > len(data):
        raise BadInput(f"{path}: its tensor {tuple(found.shape)} is sparse, without data or a view; {expected}")
    return found.detach()


def _load_npy(path: Path, data: bytes) -> torch.Tensor:
    import numpy as np
    import torch
    from numpy.lib.format import read_array

    try:
        found = read_array(io.BytesIO(data), allow_pickle=False)
    except DAMAGED as error:
        raise BadInput(
            f"{path}: not a readable .npy file{looks_like(data)}: cut off, of another kind, or holding Python objects, "
            "which are never restored; expected one floating-point array as numpy.save writes it"
        ) from error
    if found.dtype.kind != "f" or found.dtype.itemsize > 8:
        raise BadInput(f"{path}: holds values of type {found.dtype}; expected float16, float32 or float64")
    return torch.from_numpy(np.ascontiguousarray(found, dtype=found.dtype.newbyteorder("=")))


DAMAGED = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OSError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
)
"""What the readers of torch and numpy raise on damaged files."""


def _checked(array: torch.Tensor, path: Path, width: int, dimensions: Sequence[int]) -> torch.Tensor:
    import torch

    if array.ndim not in dimensions or array.shape[-1] != width or len(array) == 0:
        expected = " or ".join({1: f"({width},)", 2: f"(pairs, {width})"}[n] for n in dimensions)
        raise BadInput(
            f"{path}: shape {tuple(array.shape)}, expected {expected}; is this vector for another model, or transposed?"
        )
    if array.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise BadInput(f"{path}: holds values of type {array.dtype}; expected a floating-point tensor, such as float32")
    bad = int((~torch.isfinite(array.float())).sum())
    if bad:
        raise BadInput(f"{path}: {bad} value(s) are not finite in float32; make the vector again or get another copy")
    return array


def _vector(array: torch.Tensor, info: VectorInfo, sign: Sign) -> SteeringVector:
    import torch

    [block] = info.apply_layers
    if array.ndim == 1:
        return SteeringVector({block: (sign * array).float()}, info)
    rows = array if array.dtype in (torch.float16, torch.float32) else array.float()
    mean = (sign * array.double().mean(0)).float()
    return SteeringVector({block: mean}, replace(info, estimator="mean_diff", n_pairs=len(array)), {block: sign * rows})


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
