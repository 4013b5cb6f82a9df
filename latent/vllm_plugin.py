"""The entry point ``vllm.general_plugins``: every vLLM process of the environment calls `register` when it starts.

Nothing is loaded and nothing changes for other models: classes are named, and imported for a latent reasoner only.
"""

from __future__ import annotations

from typing import Any

from .serving import ARCHITECTURES


class LatentModelConfig:
    """What vLLM asks about the configuration of an architecture (its ``VerifyAndUpdateConfig``)."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Set up an engine; see `vllm_config.set_up`."""
        from .vllm_config import set_up

        set_up(vllm_config)

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Nothing: all that there is to do needs the whole configuration."""


def register() -> None:
    """Tell vLLM about the latent architectures, and how they are set up."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for name in ARCHITECTURES.values():
        if name not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(name, f"latent.vllm_model:{name}")
        MODELS_CONFIG_MAP[name] = LatentModelConfig  # pyright: ignore[reportArgumentType]
