"""How much memory a KV cache takes, from a model's config.json alone: whole, with windowed heads, or with RPC.

RPC's length after g generated tokens is that of Reasoning Path Compression (arXiv 2505.13866): the prompt, and after
every interval P a share 1/c of the generated tokens besides the newest R.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_math.errors import BadInput

ITEM_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}


@dataclass(frozen=True)
class ModelShape:
    """What decides the size of a cache, and of the weights."""

    layers: int
    kv_heads: int
    head_dim: int
    weights: int
    """Parameters, estimated from the shapes; 0 where they are unknown."""
    item_bytes: int = 2

    @property
    def token_bytes(self) -> int:
        """Of keys and values of one token, over all layers and heads."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.item_bytes

    def whole(self, tokens: int, rows: int = 1) -> int:
        """Bytes of a cache that keeps everything."""
        return rows * tokens * self.token_bytes

    def windowed(self, tokens: int, rows: int, plan: WindowPlan) -> int:
        """Bytes where a share of the heads keeps a window."""
        heads = self.layers * self.kv_heads
        whole = round((1 - plan.sparsity) * heads)
        states = whole * tokens + (heads - whole) * min(tokens, plan.sink + plan.recent)
        return rows * states * self.token_bytes // heads


@dataclass(frozen=True)
class WindowPlan:
    """RLKV's settings of use."""

    sparsity: float = 0.5
    sink: int = 16
    recent: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity <= 1 or self.sink < 0 or self.recent < 1:
            raise BadInput(
                f"sparsity={self.sparsity}, sink={self.sink}, recent={self.recent}: 0 to 1, 0 or more and 1 or more "
                "are expected"
            )


@dataclass(frozen=True)
class RpcPlan:
    """RPC's settings."""

    interval: int = 4096
    """P, generated tokens between two compressions."""
    ratio: int = 4
    """c, of which one in so many is kept."""
    newest: int = 32
    """R, always kept."""

    def __post_init__(self) -> None:
        if self.interval < 1 or self.ratio < 1 or self.newest < 1:
            raise BadInput(
                f"interval={self.interval}, ratio={self.ratio}, newest={self.newest}: at least 1 is expected"
            )

    def compressions(self, generated: int) -> int:
        """How often the cache was compressed after so many tokens."""
        return max(0, generated - self.newest) // self.interval

    def length(self, prompt: int, generated: int) -> int:
        """Tokens in the cache."""
        kept = self.interval // self.ratio
        return prompt + generated - self.compressions(generated) * (self.interval - kept)

    def peak(self, prompt: int, generated: int) -> int:
        """Most tokens in the cache on the way: just before the last compression, or at the end."""
        rounds = self.compressions(generated)
        before = rounds * self.interval + self.newest
        return max(self.length(prompt, generated), self.length(prompt, before - 1) + 1 if rounds else 0)


def read_shape(config: Path, dtype: str = "bfloat16") -> ModelShape:
    """The shape in a model folder or a config.json.

    Raises:
        BadInput: no such file, a dtype that is unknown, or a model without KV heads (MLA).
    """
    path = config / "config.json" if config.is_dir() else config
    if dtype not in ITEM_BYTES:
        raise BadInput(f"dtype {dtype!r} is unknown; choose one of {', '.join(ITEM_BYTES)}")
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {error}; a model folder or its config.json is expected") from error
    row = row.get("text_config", row)
    try:
        heads = int(row["num_attention_heads"])
        kv_heads = int(row.get("num_key_value_heads") or heads)
        width = int(row.get("head_dim") or row["hidden_size"] // heads)
        layers = int(row["num_hidden_layers"])
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}: no {error}; a decoder of the Llama or Qwen kind is expected") from error
    if row.get("kv_lora_rank"):
        raise BadInput(f"{path}: its keys and values are shared by all heads (MLA), which has none to be windowed")
    return ModelShape(layers, kv_heads, width, _parameters(row, heads, kv_heads, width), ITEM_BYTES[dtype])


def _parameters(row: Mapping[str, Any], heads: int, kv_heads: int, width: int) -> int:
    """Of attention, gated MLP and embeddings; norms and biases are left out."""
    try:
        size, hidden, vocabulary = int(row["hidden_size"]), int(row["intermediate_size"]), int(row["vocab_size"])
    except (KeyError, TypeError):
        return 0
    attention = 2 * size * width * (heads + kv_heads)
    tables = vocabulary * size * (1 if row.get("tie_word_embeddings") else 2)
    return int(row["num_hidden_layers"]) * (attention + 3 * size * hidden) + tables
