"""ASC-CES: a steering vector that is learned with a contrastive energy (ACL Findings 2026.1828).

The model is frozen; one vector v, added to the output of one block at every state that predicts a response token, is
trained to make short traces more likely than long ones inside a trust region:

    E_v(y | q) = mean negative log-probability of the tokens of y           (energy, nats per token)
    loss = softplus(E_v(short) - E_v(long)) + weight * max(0, D_generic - eps) + weight * max(0, D_task - task_eps)

D is the mean KL divergence of the steered from the unsteered next-token distribution, on generic text and on the
responses themselves. Departure from the paper: the D_task term (``faithful=True`` leaves it out). Without it the bound
on generic text holds while the model breaks on its own task; besides, learning ends once short traces lose likelihood.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval_math.errors import BadInput

from .forcing import Response, divergences, log_probabilities
from .sites import check_blocks, find_blocks, model_shape

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CesConfig:
    """Hyper-parameters; defaults are the paper's where it states them."""

    block: int
    """Block whose output the vector is added to, from 0."""
    steps: int = 3000
    learning_rate: float = 0.01
    """Adam's, without decay of the weights."""
    pairs_per_step: int = 2
    weight: float = 20.0
    """Of both trust regions."""
    eps: float = 0.02
    """Nats per token that generic text may change."""
    task_eps: float = 0.1
    """Nats per token that the responses may change (ours)."""
    faithful: bool = False
    """Leave the term on the responses and the early end out."""
    tolerance: float = 0.1
    """Nats per token by which short traces may get less likely before learning ends (ours)."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "pairs_per_step"):
            if getattr(self, name) < 1:
                raise BadInput(f"ces: {name}={getattr(self, name)}, at least 1 is expected")
        if self.learning_rate <= 0 or min(self.weight, self.eps, self.task_eps) < 0:
            raise BadInput("ces: a positive learning_rate, and weight, eps and task_eps of 0 or more are expected")


@dataclass(frozen=True)
class CesStep:
    """One line of the log, all in nats per token (``rank`` in nats)."""

    step: int
    short: float
    long: float
    rank: float
    generic: float
    task: float


@dataclass(frozen=True)
class Learned:
    """The vector (hidden,) float32 and how it came about; ``ended_early`` if short traces became less likely."""

    vector: torch.Tensor
    log: tuple[CesStep, ...]
    ended_early: bool


def learn(
    model: Any,
    pairs: Sequence[tuple[Response, Response]],
    config: CesConfig,
    generic: Sequence[tuple[int, ...]] = (),
    on_step: Callable[[CesStep], None] | None = None,
) -> Learned:
    """Train a vector for a transformers model on (long, short) responses; the model is left as it was.

    Args:
        generic: token ids of text that must hardly change; empty leaves that term out.

    Raises:
        BadInput: no pairs, or the block is out of range.
    """
    import torch

    if not pairs:
        raise BadInput("ces: no pairs given, at least one is expected")
    check_blocks([config.block], len(find_blocks(model)))
    rng = random.Random(config.seed)
    device = model.get_input_embeddings().weight.device
    vector = torch.zeros(model_shape(model).hidden_size, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([vector], lr=config.learning_rate)
    log: list[CesStep] = []
    kept, early = vector.detach().clone(), False
    for step in range(config.steps):
        chosen = rng.sample(pairs, min(config.pairs_per_step, len(pairs)))
        text = rng.choice(generic) if generic else ()
        loss, line = _loss(model, vector, chosen, text, config, step)
        log.append(line)
        if on_step is not None:
            on_step(line)
        early = not config.faithful and _short_suffers(log, config)
        if early:
            break
        kept = vector.detach().clone()
        optimiser.zero_grad()
        (vector.grad,) = torch.autograd.grad(loss, [vector])
        optimiser.step()
    return Learned((kept if early else vector.detach()).float().cpu(), tuple(log), early)


def energies(model: Any, vector: torch.Tensor, responses: Sequence[Response], block: int) -> torch.Tensor:
    """E_v of each response, (responses,) in nats per token."""
    steered = log_probabilities(model, responses, block, vector)
    return _energies(steered, responses)


def _loss(  # noqa: PLR0913, PLR0917
    model: Any,
    vector: torch.Tensor,
    pairs: Sequence[tuple[Response, Response]],
    text: tuple[int, ...],
    config: CesConfig,
    step: int,
) -> tuple[torch.Tensor, CesStep]:
    import torch
    from torch.nn.functional import softplus

    responses = [side for pair in pairs for side in pair]
    steered = log_probabilities(model, responses, config.block, vector)
    energy = _energies(steered, responses)
    long, short = energy[0::2], energy[1::2]
    rank = softplus(short - long).mean()
    task = vector.new_zeros(()) if config.faithful else _divergence(model, responses, steered)
    generic = vector.new_zeros(())
    if len(text) > 1:
        whole = [Response(tuple(text), 1)]
        generic = _divergence(model, whole, log_probabilities(model, whole, config.block, vector))
    loss = rank + config.weight * (torch.relu(generic - config.eps) + torch.relu(task - config.task_eps))
    figures = [float(value.detach()) for value in (short.mean(), long.mean(), rank, generic, task)]
    return loss, CesStep(step, *figures)


def _short_suffers(log: Sequence[CesStep], config: CesConfig, window: int = 20) -> bool:
    """True once short traces are clearly less likely than at the start, both as means over a window of steps."""
    if len(log) < 2 * window:
        return False
    first, last = log[:window], log[-window:]
    return sum(line.short for line in last) / window > sum(line.short for line in first) / window + config.tolerance


def _energies(steered: Sequence[torch.Tensor], responses: Sequence[Response]) -> torch.Tensor:
    import torch

    found = []
    for rows, response in zip(steered, responses, strict=True):
        wanted = torch.tensor(response.ids[response.start :], device=rows.device)
        found.append(-rows.gather(1, wanted[:, None]).mean())
    return torch.stack(found)


def _divergence(model: Any, responses: Sequence[Response], steered: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over tokens of KL(unsteered || steered), full vocabulary, in nats."""
    import torch

    with torch.no_grad():
        base = log_probabilities(model, responses)
    return divergences(base, steered).mean()
