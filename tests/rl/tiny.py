"""Random models with two or four KV heads, of the families that head-wise caches know."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
VOCABULARY = 50


def tiny(family: str, layers: int = 3, heads: int = 8, kv_heads: int = 4) -> Any:
    """A random model in float32; weights wide enough that attention is not flat."""
    torch.manual_seed(0)
    make, model = FAMILIES[family]
    config = make(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=16,
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    return model(config).eval()


def left_padded_ids(lengths: tuple[int, ...], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids (rows, width) and their mask, padding on the left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (len(lengths), width), generator=generator)
    mask = torch.stack([(torch.arange(width) >= width - length).long() for length in lengths])
    return ids, mask
