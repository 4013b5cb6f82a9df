"""The engines, opened by name; the chosen one's module and its heavy imports are loaded only then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec

from eval_math.errors import BadInput

from ..engine import Engine, EngineConfig


@dataclass(frozen=True)
class EngineEntry:
    """One line of `ENGINES`: ``module`` holds ``open_engine(config)``."""

    module: str
    summary: str
    capabilities: frozenset[str]


ENGINES: Mapping[str, EngineEntry] = {
    "hf": EngineEntry(
        "hf",
        "transformers, batched, with KV cache: the reference",
        frozenset(
            {"generate", "score", "steer", "steer_per_request", "capture", "prefill", "ban", "latent", "sparse_kv"}
        ),
    ),
    "vllm": EngineEntry(
        "vllm",
        "vLLM in this process",
        frozenset({"generate", "score", "steer", "steer_per_request", "capture", "prefill", "ban", "latent"}),
    ),
    "openai": EngineEntry(
        "openai",
        "any OpenAI-compatible server (prefill, score and ban: where it takes token ids)",
        frozenset({"generate", "score", "prefill", "ban"}),
    ),
}


def open_engine(config: EngineConfig) -> Engine:
    """Start the engine that ``config`` names.

    Raises:
        BadInput: unknown engine, or a model, option or length that it cannot use.
        MissingPart: the engine's package is not installed.
        EngineError: the engine could not start.
    """
    name = choose_engine(config.engine)
    if config.batch_size < 1:
        raise BadInput(f"batch_size={config.batch_size}: at least 1 is expected")
    module = import_module(f".{ENGINES[name].module}", __name__)
    return module.open_engine(replace(config, engine=name))


def choose_engine(name: str) -> str:
    """The engine behind ``name``; ``auto`` is vllm where it is installed, else hf.

    Raises:
        BadInput: unknown engine.
    """
    if name == "auto":
        return "vllm" if find_spec("vllm") is not None else "hf"
    if name not in ENGINES:
        raise BadInput(f"engine {name!r} is unknown; choose one of auto, {', '.join(ENGINES)}")
    return name


def engines_with(capability: str) -> list[str]:
    """Names of the engines that have ``capability``."""
    return [name for name, entry in ENGINES.items() if capability in entry.capabilities]
