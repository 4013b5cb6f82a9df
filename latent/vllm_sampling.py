"""Sampling parameters that a latent reasoner in vLLM cannot have: checked when a request comes in.

A latent's row of logits allows one id. Temperature, top-k, top-p, min-p, penalties and biases leave it that one;
``allowed_token_ids`` are given the slots by the scheduler. What forbids the end of thinking itself, or follows a
grammar, is refused.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor

from .vllm_config import end_ids


class LatentSampling(LogitsProcessor):
    """Checks parameters, and leaves logits alone."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse parameters.

        Raises:
            ValueError: names the parameter.
        """
        allowed, stops = sampling_params.allowed_token_ids, set(sampling_params.stop_token_ids or ())
        wrong = {
            "structured_outputs": sampling_params.structured_outputs is not None,
            "allowed_token_ids without the end of thinking": allowed is not None and end_ids.isdisjoint(allowed),
            "min_tokens with the end of thinking among stop_token_ids": sampling_params.min_tokens > 0
            and bool(stops & end_ids),
            "thinking_token_budget (set max_steps)": sampling_params.thinking_token_budget is not None,
        }
        for name, found in wrong.items():
            if found:
                raise ValueError(f"a latent reasoner cannot go with {name}; leave it out")

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None: ...

    def apply(self, logits: Tensor) -> Tensor:
        """The logits as they are."""
        return logits

    def is_argmax_invariant(self) -> bool:
        """Nothing changes."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Nothing is kept."""
