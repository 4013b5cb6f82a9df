"""A random CoLaR reasoner on the embedded model's blocks."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory) -> Path:
    """Its head is fresh: it draws latents of the right size that mean nothing."""
    import torch
    from transformers import AutoModelForCausalLM

    from cot.chat import open_chat
    from cot.embedded import embedded_model_path
    from cot.training.folder import export_model
    from latent.colar import latent_config
    from latent.reasoner import attach, detach
    from latent.serving import save_reasoner
    from latent.settings import ColarConfig

    source = embedded_model_path()
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    config = latent_config(open_chat(source), model.get_input_embeddings().weight, ColarConfig(rates=(2,)), "hash")
    torch.manual_seed(0)
    attach(model, config)
    head = detach(model)
    folder = tmp_path_factory.mktemp("reasoner") / "colar"
    folder.mkdir()
    export_model(model, source, folder, lambda made: save_reasoner(head, config, made))
    return folder
