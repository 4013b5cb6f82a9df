"""Models as policies that learn: loaded whole in float32, decoded by the transformers engine while they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cot.chat import max_length, model_hash, open_chat, resolve_model, template_hash
from cot.engine import EngineIdentity
from cot.engines.hf import HfEngine
from cot.engines.work import Desk
from cot.training.folder import export_model
from eval_math.errors import BadInput, EngineError
from latent.reasoner import detach, load_extras
from latent.serving import save_reasoner
from latent.thinking import remember

from .colar_rl import ColarRlConfig, Policy


def open_policy(model: str, config: ColarRlConfig, batch_size: int = 64) -> Policy:
    """The reasoner in a folder, ready to answer and to learn.

    Raises:
        BadInput: no CoLaR reasoner, or a rate that it was not trained for.
        EngineError: the weights cannot be loaded.
    """
    folder = resolve_model(model)
    loaded = load_whole(folder)
    reasoner = remember(loaded, load_extras(loaded, folder))
    if reasoner.method != "colar":
        raise BadInput(
            f"{model}: made by {reasoner.method}; the reinforcement stage goes on from `laconic train colar`"
        )
    reasoner.speed(config.rate)
    return Policy(loaded, live_engine(loaded, model, batch_size), reasoner)


def live_engine(loaded: Any, model: str, batch_size: int) -> HfEngine:
    """An engine on a model in memory, which may change between two generations; ``model`` is where it came from."""
    folder = resolve_model(model)
    chat, length = open_chat(folder), max_length(folder, None)
    identity = EngineIdentity("hf", model, model_hash(folder), template_hash(chat.tokenizer), str(loaded.dtype)[6:],
                              settings={"batch_size": batch_size, "max_model_len": length})  # fmt: skip
    return HfEngine(loaded, Desk(chat, length, {"engine": "hf", "model": model}), identity, batch_size)


def export_policy(policy: Policy, source: str, out: Path) -> None:
    """Write the reasoner as a folder like the one it came from.

    Raises:
        StoreError: it cannot be written.
    """
    head = detach(policy.model)
    export_model(policy.model, resolve_model(source), out, lambda made: save_reasoner(head, policy.config, made))


def load_whole(folder: Path) -> Any:
    """The model of a folder in float32, on CPU.

    Raises:
        EngineError: its weights cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise EngineError(f"the model in {folder} cannot be loaded: {error}") from error
