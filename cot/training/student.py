"""The model that is trained: loaded, given adapters, and made a plain model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eval_math.errors import EngineError

from .config import TrainingConfig


def load_model(source: Path, config: TrainingConfig) -> Any:
    """The model to train: float32 where it is trained whole, else in the dtype of the forward pass.

    Raises:
        EngineError: the weights cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if config.tuning == "full" else getattr(torch, config.dtype)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise EngineError(f"the model in {source} cannot be loaded: {error}") from error
    return model


def adapters(config: TrainingConfig) -> Any:
    """The peft configuration for LoRA (Hu et al. 2021, arXiv 2106.09685), None for whole models."""
    if config.tuning != "lora":
        return None
    from peft import LoraConfig

    targets = "all-linear" if config.lora_targets == ("all-linear",) else list(config.lora_targets)
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )


def finished_model(model: Any, source: Path) -> Any:
    """The trained model, adapters merged in, with the source's configuration and dtype."""
    from transformers import AutoConfig

    plain = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    original = AutoConfig.from_pretrained(source)
    plain.config = original
    return plain.to(original.dtype) if isinstance(original.dtype, torch.dtype) else plain


def count_parameters(source: Path) -> int:
    """Parameters by the headers of the weight files; weights in other formats are loaded to count them."""
    from safetensors import safe_open

    total = 0
    for file in source.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    if total:
        return total
    from transformers import AutoModelForCausalLM

    return int(AutoModelForCausalLM.from_pretrained(source).num_parameters())
