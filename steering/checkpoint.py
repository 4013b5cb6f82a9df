"""A checkpoint on disk that can be rewritten tensor by tensor: what `bake` reads, and what it refuses.

Only the plain llama, mistral, qwen2 and qwen3 of transformers, in safetensors and not quantised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_math.errors import BadInput

if TYPE_CHECKING:
    import torch

LLAMA, QWEN3 = "LlamaForCausalLM", "Qwen3ForCausalLM"
TARGETS: Mapping[str, str] = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": QWEN3}
"""Model type -> architecture that it can be rewritten as."""
NUMBER_FORMATS: Mapping[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ATTENTION = tuple(f"self_attn.{part}_proj" for part in "qkvo")
MLP = tuple(f"mlp.{part}_proj" for part in ("gate", "up", "down"))
NORMS: Mapping[str, tuple[str, ...]] = {
    LLAMA: ("input_layernorm", "post_attention_layernorm"),
    QWEN3: ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
}
BY_HOOK = "steer it by hook instead: method asc with engine hf, or vllm with enforce_eager=true"


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies, its shape and type."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: its configuration as written (``raw``) and as transformers reads it, and its tensors by name."""

    folder: Path
    raw: Mapping[str, Any]
    config: Any
    tensors: Mapping[str, Stored]

    @property
    def architecture(self) -> str:
        """The class that the folder names."""
        return next(iter(self.raw.get("architectures") or [f"{self.config.model_type} (no class named)"]))

    @property
    def target(self) -> str:
        """The class that it can be rewritten as."""
        return TARGETS[self.config.model_type]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def attention_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.config.model_type == "qwen2" or bool(getattr(self.config, "attention_bias", False))

    def read(self, name: str) -> torch.Tensor:
        """A tensor as stored."""
        from safetensors import safe_open

        with safe_open(str(self.tensors[name].file), framework="pt") as handle:
            return handle.get_tensor(name)

    def bias(self, layer: str) -> torch.Tensor:
        """The bias (width,) of a linear layer, zeros if it has none."""
        import torch

        if f"{layer}.bias" in self.tensors:
            return self.read(f"{layer}.bias")
        weight = self.tensors[f"{layer}.weight"]
        return torch.zeros(weight.shape[0], dtype=weight.dtype)


def part_name(block: int, part: str) -> str:
    """A tensor's or layer's full name."""
    return f"model.layers.{block}.{part}"


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read configuration and file heads of a model folder; no weights yet.

    Raises:
        BadInput: a model of another kind, quantised, with a sliding window or its own code, or damaged.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        _refuse(folder, _kind_obstacle(raw))
        config = AutoConfig.from_pretrained(folder)
    except BadInput:
        raise
    except (OSError, ValueError, AttributeError, KeyError, StrictDataclassError) as error:
        raise BadInput(f"{folder}: its config.json cannot be read ({error}); copy it anew") from error
    _refuse(folder, _shape_obstacle(raw, config))
    checkpoint = Checkpoint(folder, raw, config, _tensors(folder))
    _refuse(folder, _unknown_tensor(checkpoint))
    _refuse_missing(checkpoint)
    return checkpoint


def _refuse(folder: Path, obstacle: str | None) -> None:
    if obstacle:
        raise BadInput(f"{folder.name}: {obstacle}; {BY_HOOK}")


def _kind_obstacle(raw: Mapping[str, Any]) -> str | None:
    kind, made_for = raw.get("model_type"), next(iter(raw.get("architectures") or []), "ForCausalLM")
    if kind not in TARGETS:
        return f"model type {kind!r} cannot take a vector into its weights, only {', '.join(TARGETS)} can"
    if raw.get("quantization_config") or raw.get("compression_config"):
        return "it is quantised, and a vector goes into plain weights only; quantise the finished folder, or use hooks"
    if raw.get("auto_map") or not made_for.endswith("ForCausalLM"):
        return f"{made_for} with its own code or another head is not the plain {kind} of transformers"
    return None


def _shape_obstacle(raw: Mapping[str, Any], config: Any) -> str | None:
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    if getattr(config, "sliding_window", None) is not None or kinds or raw.get("dual_chunk_attention_config"):
        return "it attends in sliding windows or chunks, which the rewritten model would not"
    if TARGETS[config.model_type] == LLAMA and config.hidden_size % config.num_attention_heads:
        return f"hidden_size {config.hidden_size} is no multiple of its {config.num_attention_heads} attention heads"
    return None


def _tensors(folder: Path) -> dict[str, Stored]:
    import torch
    from safetensors import SafetensorError, safe_open

    found: dict[str, Stored] = {}
    for file in _files(folder):
        try:
            with safe_open(str(file), framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118
                    head = handle.get_slice(name)
                    dtype = NUMBER_FORMATS.get(head.get_dtype())
                    _refuse(folder, None if dtype else f"{name} has numbers of type {head.get_dtype()}")
                    found[name] = Stored(file, tuple(head.get_shape()), getattr(torch, str(dtype)))
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{file}: cannot be read ({error}); is it cut off? Copy it anew") from error
    return found


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if not (folder / "model.safetensors").is_file():
            raise BadInput(f"{folder.name}: no model.safetensors; save the model again with save_pretrained")
        return [folder / "model.safetensors"]
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"{index}: cannot be read ({error}); copy it anew") from error
    return [folder / name for name in sorted(set(names))]


def _unknown_tensor(checkpoint: Checkpoint) -> str | None:
    """Readers of the rewritten model would drop a tensor that they do not know, without a word."""
    layers, norms = _either(*ATTENTION, *MLP), _either(*NORMS[checkpoint.target])
    parts = rf"{layers}\.(weight|bias)|{norms}\.weight|self_attn\.rotary_emb\.inv_freq"
    known = re.compile(rf"(model\.embed_tokens|model\.norm|lm_head)\.weight|model\.layers\.\d+\.({parts})")
    odd = sorted(name for name in checkpoint.tensors if known.fullmatch(name) is None)
    return f"its tensor {odd[0]} is no part of a plain {checkpoint.config.model_type}" if odd else None


def _either(*texts: str) -> str:
    return f"({'|'.join(map(re.escape, texts))})"


def _refuse_missing(checkpoint: Checkpoint) -> None:
    parts = (*ATTENTION, *MLP, *NORMS[checkpoint.target])
    needed = {part_name(block, f"{part}.weight") for block in range(checkpoint.depth) for part in parts}
    missing = sorted(needed - set(checkpoint.tensors))
    if missing:
        raise BadInput(f"{checkpoint.folder.name}: {len(missing)} tensor(s) missing, first {missing[0]}; copy it anew")
