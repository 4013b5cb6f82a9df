"""Steering as part of the weights: a plain model folder that every engine runs, steered, without a hook.

``h <- h + step`` at the output of a block, at every position: what `application.steer` does with ``prompt="all"`` and
``until="eos"``. Exact up to the rounding of the weights' number format.

Llama, Mistral and Qwen2 become a Llama with MLP biases: a block adds the output of ``mlp.down_proj`` to the residual
stream last, so the bias of that layer shifts the block's output. Qwen3 has no such bias; after the block stands one
more, whose values are the constant 1, whose attention returns it whatever the weights (they sum to one), and whose
output projection turns it into the step.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cot.chat import TOKENIZER_FILES, open_chat, resolve_model, template_hash
from eval_math.errors import BadInput, StoreError

from .checkpoint import ATTENTION, BY_HOOK, LLAMA, MLP, NORMS, QWEN3, Checkpoint, open_checkpoint, part_name
from .sites import ModelShape, check_blocks
from .vector import SteeringVector, check_fit

if TYPE_CHECKING:
    import torch

SHARED_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "tie_word_embeddings", "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
WINDOW_KEYS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
COPIED = (
    "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model",
    "*.tiktoken", "chat_template*", "additional_chat_templates/*", "generation_config.json",
    "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
PROBE = "Let x + 7 = 22, so  x=15.\n\n\tWait, naïve 数学 doesn't 🙂 <think>\nhm</think>\\boxed{15}"
HOW: Mapping[str, str] = {
    LLAMA: "The step is the bias of `mlp.down_proj` of the block; all other biases that the base model lacks are zero.",
    QWEN3: "After the block stands one more, whose attention returns a constant and whose output projection turns it "
    "into the step; all biases that the base model lacks are zero. A vector made for the base model no longer fits: "
    "the folder has more blocks.",
}


@dataclass(frozen=True)
class Baked:
    """What `bake` wrote.

    ``rounding``: largest of |stored step - step| / |step| over the blocks, the price of the number format ``dtype``.
    """

    folder: Path
    blocks: tuple[int, ...]
    strength: float
    architecture_before: str
    architecture_after: str
    dtype: str
    rounding: float


def bake(
    model_folder: str | Path,
    vector: SteeringVector,
    out: Path,
    *,
    block: int | None = None,
    strength: float | None = None,
) -> Baked:
    """Write the model with ``vector`` in its weights to the folder ``out``, which appears whole or not at all.

    Args:
        model_folder: folder, hub id or ``embedded``; llama, mistral, qwen2 or qwen3, in safetensors, not quantised.
        vector: directions (hidden,) by block.
        out: a folder that is empty or not there.
        block: counted from 0; None = all blocks that the vector names as its defaults.
        strength: in the vector's unit; None = the vector's.

    Raises:
        BadInput: the model cannot be baked, the vector does not fit it, a step is not finite in the weights' number
            format, no strength is known, or ``out`` is not empty.
        StoreError: ``out`` cannot be written.
    """
    out = out.expanduser().absolute()
    _refuse_target(out)
    source = open_checkpoint(resolve_model(str(model_folder)))
    shape = ModelShape(source.config.hidden_size, source.depth, source.config.model_type)
    check_fit(vector, shape, str(model_folder))
    blocks = check_blocks(vector.info.apply_layers if block is None else (block,), source.depth)
    chosen = _strength(vector, strength)
    steps = {b: vector.step(b, chosen) for b in blocks}
    for b, step in steps.items():
        _refuse_step(source, b, step)
    baked = _described(source, steps, out, chosen)
    with _staging(out) as temporary:
        _write_json(temporary / "config.json", _config(source, len(steps)))
        _write_weights(source, steps, temporary)
        _copy_files(source, temporary)
        (temporary / "README.md").write_text(_card(baked, str(model_folder), vector), encoding="utf-8")
    return baked


def push(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload a baked folder to the hub with the token that `hf auth login` stored; returns the repository's address.

    Raises:
        BadInput: ``folder`` holds no model.
        StoreError: no connection, no token or no right to write there.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder}: no config.json; give a folder that `laconic steer bake` wrote")
    try:
        address = HfApi().create_repo(repo_id, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Steered model made by laconic")
    except (OSError, httpx.HTTPError, HFValidationError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StoreError(
            f"{repo_id}: not uploaded ({reason}); check the name, the connection and `hf auth login`, and push again"
        ) from error
    return str(address)


def _refuse_target(out: Path) -> None:
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise BadInput(f"{out}: exists and is not an empty folder; choose another folder, or remove this one first")


def _strength(vector: SteeringVector, strength: float | None) -> float:
    chosen = vector.info.gamma if strength is None else strength
    if chosen is None:
        raise BadInput("the vector names no strength; give one, or find it with `laconic steer sweep`")
    return float(chosen)


def _refuse_step(source: Checkpoint, block: int, step: torch.Tensor) -> None:
    width, dtype = source.config.hidden_size, _dtype(source, block)
    if tuple(step.shape) != (width,):
        raise BadInput(f"block {block}: a step of shape {tuple(step.shape)} given, the model's hidden_size is {width}")
    if not bool(step.to(dtype).isfinite().all()):
        raise BadInput(f"block {block}: the step is not finite in {_dtype_name(dtype)}; choose a smaller strength")


def _described(source: Checkpoint, steps: Mapping[int, torch.Tensor], out: Path, strength: float) -> Baked:
    dtypes = {block: _dtype(source, block) for block in steps}
    errors = [float((step.to(dtypes[b]).float() - step).norm()) for b, step in steps.items()]
    norms = [float(step.norm()) or 1.0 for step in steps.values()]
    rounding = max(error / norm for error, norm in zip(errors, norms, strict=True))
    dtype = _dtype_name(dtypes[min(steps)])
    return Baked(out, tuple(steps), strength, source.architecture, source.target, dtype, rounding)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes it at the end, and is gone after an error."""
    from safetensors import SafetensorError

    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{out}: cannot be written ({reason}); free some space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _config(source: Checkpoint, inserted: int) -> dict[str, Any]:
    if source.target == LLAMA:
        return _llama_config(source)
    depth = source.depth + inserted
    kinds = {"layer_types": ["full_attention"] * depth} if "layer_types" in source.raw else {}
    return {**source.raw, **kinds, "num_hidden_layers": depth, "attention_bias": True}


def _llama_config(source: Checkpoint) -> dict[str, Any]:
    """The configuration as written, with all that a Llama would take a default of its own for."""
    config, kept = source.config, {key: v for key, v in source.raw.items() if key not in WINDOW_KEYS}
    if "rope_parameters" in kept:
        kept["rope_parameters"] = dict(config.rope_parameters)
    else:
        kept["rope_theta"] = config.rope_parameters["rope_theta"]
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kind = {"architectures": [LLAMA], "model_type": "llama", "head_dim": head}
    shared = {key: getattr(config, key) for key in SHARED_KEYS}
    return {**kept, **shared, **kind, "attention_bias": source.attention_bias, "mlp_bias": True}


def _write_weights(source: Checkpoint, steps: Mapping[int, torch.Tensor], folder: Path) -> None:
    """Shard by shard under the old file names, bits kept; what is new goes into the last one."""
    from safetensors.torch import save_file

    new, moved = _shifted(source, steps), ()
    if source.target == QWEN3:
        new, moved = _inserted(source, steps), tuple(steps)
    places: dict[str, str] = {}
    total = 0
    files = sorted({stored.file for stored in source.tensors.values()})
    for file in files:
        names = {name: _moved(name, moved) for name, stored in source.tensors.items() if stored.file == file}
        tensors = {to: source.read(name) for name, to in names.items() if to not in new}
        tensors |= new if file == files[-1] else {}
        save_file(tensors, folder / file.name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file.name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        _write_json(folder / "model.safetensors.index.json", index)


def _shifted(source: Checkpoint, steps: Mapping[int, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The biases of the Llama: those that are there, zeros elsewhere, and the steps on top."""
    layers = (*MLP, *ATTENTION) if source.attention_bias else MLP
    depth = source.depth
    new = {part_name(b, f"{layer}.bias"): source.bias(part_name(b, layer)) for b in range(depth) for layer in layers}
    for block, step in steps.items():
        name = part_name(block, "mlp.down_proj.bias")
        new[name] = (new[name].float() + step).to(new[name].dtype)
    return new


def _inserted(source: Checkpoint, steps: Mapping[int, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The attention biases of all blocks and, after each steered one, the block that adds the step."""
    depth = source.depth
    old = {part_name(b, f"{layer}.bias"): source.bias(part_name(b, layer)) for b in range(depth) for layer in ATTENTION}
    new = {_moved(name, steps): bias for name, bias in old.items()}
    for at, (block, step) in enumerate(sorted(steps.items())):
        new |= {part_name(block + at + 1, part): t for part, t in _constant_block(source, block, step).items()}
    return new


def _constant_block(source: Checkpoint, block: int, step: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors of a block that adds ``step`` to whatever comes in.

    The constant is a 1 in the first place of the first head, which every number format holds exactly. Queries and keys
    are zero, so all weights of a position are equal. Kernels that sum in float32 (sdpa, flash, vLLM's) return the 1
    exactly, in half precision too; transformers' eager attention rounds each weight, which can cost the step its last
    digit.
    """
    import torch

    parts = [f"{part}.weight" for part in (*ATTENTION, *MLP, *NORMS[QWEN3])]
    stored = {part: source.tensors[part_name(block, part)] for part in parts}
    new = {p: torch.full(s.shape, float(p.endswith("norm.weight")), dtype=s.dtype) for p, s in stored.items()}
    new |= {f"{a}.bias": torch.zeros(new[f"{a}.weight"].shape[0], dtype=new[f"{a}.weight"].dtype) for a in ATTENTION}
    new["self_attn.v_proj.bias"][0] = 1.0
    new["self_attn.o_proj.weight"][:, 0] = step
    return new


def _moved(name: str, inserted_after: Iterable[int]) -> str:
    """A tensor's name once blocks have been inserted."""
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    if found is None:
        return name
    block = int(found[1])
    return part_name(block + sum(b < block for b in inserted_after), found[2])


def _copy_files(source: Checkpoint, folder: Path) -> None:
    for file in (file for pattern in COPIED for file in source.folder.glob(pattern) if file.is_file()):
        place = folder / file.relative_to(source.folder)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)
    known = any((source.folder / name).is_file() for name in TOKENIZER_FILES)
    if known and source.config.model_type not in {"llama", "qwen3"}:
        _keep_tokenizer(source, folder)


def _keep_tokenizer(source: Checkpoint, folder: Path) -> None:
    """Name the tokenizer's class: transformers chooses it by model type, and another type would get another one."""
    before, settings = open_chat(source.folder), folder / "tokenizer_config.json"
    written = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    used = type(before.tokenizer).__name__
    # Releases of transformers before the fifth know this class by its other name only.
    written["tokenizer_class"] = "PreTrainedTokenizerFast" if used == "TokenizersBackend" else used
    _write_json(settings, written)
    after = open_chat(folder)
    same = template_hash(before.tokenizer) == template_hash(after.tokenizer)
    if not same or before.encode(PROBE) != after.encode(PROBE):
        raise BadInput(f"{source.folder.name}: its tokenizer {used} changes when the model becomes a Llama; {BY_HOOK}")


def _card(baked: Baked, model: str, vector: SteeringVector) -> str:
    info, base = vector.info, json.dumps(_public(model))
    blocks = ", ".join(map(str, baked.blocks))
    pairs = f"{info.estimator}, {info.n_pairs} pairs, position {info.position}, pairs from {info.pair_source or '?'}"
    return f"""---
base_model: {base}
library_name: transformers
pipeline_tag: text-generation
tags: [laconic, activation-steering]
---

# {_public(model)}, steered

The weights hold a steering vector that shortens chains of thought. No hook, no patch and no flag is needed: load the
folder like any other, in transformers, vLLM or a server.

| | |
|---|---|
| base model | {_public(model)}, {baked.architecture_before} |
| written as | {baked.architecture_after}, {baked.dtype} |
| block(s), from 0 | {blocks} |
| strength | {baked.strength:g} (unit {info.gamma_unit}) |
| vector | {vector.digest()}, made from {_public(info.model_id)}: {pairs} |

How: {HOW[baked.architecture_after]}

What differs from steering by hook:

- All prompt tokens are steered, not only the last, and the answer is steered as well, not only the thinking. A
  strength found for the usual hook need not be the best one here.
- Steering cannot be switched off or changed.
- In {baked.dtype} the step is rounded, by {baked.rounding:.1e} of its norm; quantising the folder rounds it again.

The base model's licence holds. Made with laconic (`laconic steer bake`).
"""


def _dtype(source: Checkpoint, block: int) -> torch.dtype:
    return source.tensors[part_name(block, "mlp.down_proj.weight")].dtype


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _public(name: str) -> str:
    """A model's name without the folders of the computer where it lies."""
    return Path(name).expanduser().absolute().name if name.startswith((".", "/", "~")) or Path(name).is_dir() else name


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
