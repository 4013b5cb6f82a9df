"""A latent reasoner: a causal language model, its `LatentConfig`, and the head that some rules need.

On disk it is a plain model folder with `latent.json` and, for a Gaussian rule, `latent_head.safetensors` beside the
weights, which stay what any tool can load. In memory the head is the model's submodule ``latent_head``, so that
trainers and adapters carry it along.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval_math.errors import BadInput, StoreError

from .config import HEAD_FILE, LatentConfig, read_config, write_config
from .rules import FeedRule, GaussianHead, feed_rule

HEAD = "latent_head"
PROBE_TOKENS = 8


def attach(model: Any, config: LatentConfig) -> None:
    """Give ``model`` what ``config`` asks for: a fresh head, unless there is one already.

    Raises:
        BadInput: the model's embeddings are not what its first block reads, so that latents cannot stand in for them.
    """
    check_embeddings(model)
    if config.rule == "gaussian" and getattr(model, HEAD, None) is None:
        size = model.get_input_embeddings().weight.shape[1]
        head = GaussianHead(size, config.head_width, config.deterministic_head)
        setattr(model, HEAD, head.to(model.device))


def detach(model: Any) -> GaussianHead | None:
    """Take the head off ``model``, which is a plain one then, and return it."""
    head = getattr(model, HEAD, None)
    if head is not None:
        delattr(model, HEAD)
    return head


def rule_of(model: Any, config: LatentConfig) -> FeedRule:
    """The rule of ``config`` with the model's own table and head."""
    return feed_rule(config, model.get_input_embeddings().weight, getattr(model, HEAD, None))


def save_extras(head: GaussianHead | None, config: LatentConfig, folder: Path) -> None:
    """Write latent.json, and the head, into a model folder.

    Raises:
        StoreError: it cannot be written.
    """
    from safetensors.torch import save_file

    try:
        if head is not None:
            tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in head.state_dict().items()}
            save_file(tensors, str(folder / HEAD_FILE))
    except OSError as error:
        raise StoreError(f"{folder}: the latent head cannot be written ({error}); free some space") from error
    write_config(config, folder)


def load_extras(model: Any, folder: Path) -> LatentConfig:
    """Attach what lies in ``folder`` to ``model``, which was loaded from it, and return the configuration.

    Raises:
        BadInput: no latent reasoner, or a head of another shape.
    """
    config = read_config(folder)
    detach(model)
    attach(model, config)
    head = getattr(model, HEAD, None)
    if head is not None:
        _load_head(head, read_head(folder), folder)
        head.eval().requires_grad_(False)
    return config


def read_head(folder: Path) -> Mapping[str, Tensor]:
    """The head's tensors.

    Raises:
        BadInput: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / HEAD_FILE
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: the latent head cannot be read ({error}); take it anew from the training") from error


def check_embeddings(model: Any) -> None:
    """Refuse a model that does more to its embeddings than look them up (Gemma scales them, others add positions).

    Raises:
        BadInput: names the model type.
    """
    table = model.get_input_embeddings()
    device = table.weight.device
    ids = torch.arange(PROBE_TOKENS, device=device)[None]
    training = model.training
    model.eval()
    with torch.no_grad():
        by_id = model(input_ids=ids).logits
        by_row = model(inputs_embeds=table.weight[ids]).logits
    model.train(training)
    if not torch.allclose(by_id.float(), by_row.float(), atol=1e-3, rtol=1e-3):
        raise BadInput(
            f"model type {model.config.model_type!r} changes its embeddings on their way in, so that latents cannot "
            "stand in for them; take a Llama, Mistral, Qwen2 or Qwen3 model"
        )


def _load_head(head: GaussianHead, tensors: Mapping[str, Tensor], folder: Path) -> None:
    try:
        head.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise BadInput(f"{folder / HEAD_FILE} does not fit {folder / 'latent.json'}: {error}") from error
