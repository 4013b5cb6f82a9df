"""Teacher forcing under steering: the next-token distributions of given responses, with a step at their states.

A state is steered if it predicts a token of the response: positions ``start - 1`` to the last but one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval_math.errors import BadInput

from .sites import find_blocks, replace_output

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Response:
    """Token ids of prompt and response; the response starts at ``start``, at least 1."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not 1 <= self.start < len(self.ids):
            raise BadInput(f"a response from position {self.start} of {len(self.ids)} tokens; it needs a prompt token")


def next_logits(
    model: Any, responses: Sequence[Response], block: int | None = None, step: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Logits (response tokens, vocabulary) float32 of each response's tokens, ``step`` added at ``block`` if given."""
    import torch

    device = model.get_input_embeddings().weight.device
    longest = max(len(response.ids) for response in responses)
    # Padding stands on the right, where causal attention never lets a real token see it.
    ids = torch.tensor([[*r.ids, *[0] * (longest - len(r.ids))] for r in responses], device=device)
    where = torch.zeros(ids.shape, dtype=torch.bool, device=device)
    for row, response in enumerate(responses):
        where[row, response.start - 1 : len(response.ids) - 1] = True
    with torch.inference_mode(False), added(model, block, step, where):
        logits = model(input_ids=ids, use_cache=False).logits
    return [logits[row, where[row]].float() for row in range(len(responses))]


def log_probabilities(
    model: Any, responses: Sequence[Response], block: int | None = None, step: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """`next_logits` as log-probabilities in nats."""
    return [logits.log_softmax(-1) for logits in next_logits(model, responses, block, step)]


def divergences(base: Sequence[torch.Tensor], steered: Sequence[torch.Tensor]) -> torch.Tensor:
    """KL(base || steered) of each token's distribution, full vocabulary: (tokens,) nats, all responses in turn."""
    import torch

    return torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in zip(base, steered, strict=True)])


@contextmanager
def added(model: Any, block: int | None, step: torch.Tensor | None, where: torch.Tensor) -> Iterator[None]:
    """Add ``step`` (hidden,) to the output of ``block`` at the positions ``where`` (batch, time) of each forward."""
    if block is None or step is None:
        yield
        return

    def hook(module: Any, arguments: Any, output: Any) -> Any:
        def change(hidden: torch.Tensor) -> torch.Tensor:
            moved = where.to(hidden.device)[..., None] * step.to(hidden.device)
            return (hidden.float() + moved).to(hidden.dtype)

        return replace_output(output, change)

    handle = find_blocks(model)[block].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
