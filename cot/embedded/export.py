"""Writing a trained model as a folder that `from_pretrained` and vLLM load."""

from __future__ import annotations

import tempfile
from pathlib import Path

from transformers import GenerationConfig, LlamaForCausalLM

from .tokens import save_tokenizer


def export_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write weights (float32), config, tokenizer and generation config to `folder`, each file by an atomic rename."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        tokenizer = save_tokenizer(Path(temporary))
        model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        model.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir()):
            file.replace(folder / file.name)
