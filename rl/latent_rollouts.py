"""Chains of latents that a policy has drawn, and their log-probabilities when they are fed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cot.engine import Engine, Step
from eval_math.records import Problem, Request, Trace
from latent.config import LatentConfig
from latent.losses import backbone
from latent.reasoner import HEAD, rule_of
from latent.thinking import RuleThinker, Thought, asked, thinking_by

LOG_TAU = 1.8378770664093453
"""log(2 pi)."""


@dataclass(frozen=True)
class Rollout:
    """One answer: ids of the prompt, latents (n, d) as they were fed, ids said after them, and what it was worth."""

    problem: Problem
    prompt: list[int]
    latents: Tensor
    said: list[int]
    trace: Trace
    reward: float = 0.0


@dataclass
class RecordedThought(Thought):
    """A chain that keeps its latents."""

    latents: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Recorder(RuleThinker):
    """A thinker that keeps what it feeds, by problem and sample."""

    kept: dict[tuple[str, int], RecordedThought] = field(default_factory=dict)

    def open(self, request: Request, prompt_ids: Sequence[int]) -> RecordedThought | None:
        """A new chain, kept under the request's name."""
        plain = super().open(request, prompt_ids)
        if plain is None:
            return None
        found = self.kept[request.problem_id, request.sample] = RecordedThought(plain.seed)
        return found

    def steps(self, hidden: Any, logits: Any, states: Sequence[Any]) -> Sequence[Step]:
        """As the rule says, each latent kept."""
        steps = super().steps(hidden, logits, states)
        for state, step in zip(states, steps, strict=True):
            if step.feed is not None:
                state.latents.append(step.feed)
        return steps


def roll_out(
    engine: Engine, config: LatentConfig, speed: str, problems: dict[str, Problem], requests: Sequence[Request]
) -> list[Rollout]:
    """Answers of the live model to ``requests``, in their order; those that the engine failed on are left out.

    Args:
        speed: what the questions say of it.
    """
    recorders = list[Recorder]()

    def make(model: Any) -> Recorder:
        recorders.append(Recorder(config, rule_of(model, config)))
        return recorders[-1]

    ready = [asked(engine, request, speed, config.start_id) for request in requests]
    with thinking_by(engine, make):
        traces = {(trace.problem_id, trace.sample): trace for trace in engine.generate(ready)}
    found = []
    for request in ready:
        name = request.problem_id, request.sample
        chain, trace = recorders[0].kept.get(name), traces[name]
        if chain is None or trace.finish == "error" or not chain.latents:
            continue
        said = list(trace.token_ids or ())[len(request.prefill_ids) :]
        ids = engine.prompt_ids(request)
        found.append(Rollout(problems[request.problem_id], ids, torch.stack(chain.latents), said, trace))
    return found


@dataclass(frozen=True)
class Actions:
    """Log-probabilities (B, N + S) of latents, then tokens said, and where there are any."""

    log_probabilities: Tensor
    mask: Tensor
    n_latents: int
    """N, the columns of latents."""


def actions(model: Any, rollouts: Sequence[Rollout], config: LatentConfig) -> Actions:
    """What the model of now thinks of the rollouts, by one forward pass.

    A latent counts as the mean over its dimensions of the Gaussian's log-density (a tempered ratio, as in the released
    code); a token by its log-probability; both at temperature 1, read one position before.
    """
    table = model.get_input_embeddings().weight
    lines = [torch.cat([table[r.prompt], r.latents.to(table), table[r.said]]) for r in rollouts]
    width = max(map(len, lines))
    embedded = torch.stack([torch.nn.functional.pad(line, (0, 0, 0, width - len(line))) for line in lines])
    lengths = torch.tensor([len(line) for line in lines], device=embedded.device)
    mask = (torch.arange(width, device=embedded.device)[None] < lengths[:, None]).long()
    positions = torch.arange(width, device=embedded.device)[None].expand(len(lines), -1)
    hidden = backbone(model)(
        inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    n, s = max(len(r.latents) for r in rollouts), max(len(r.said) for r in rollouts)
    values, present = hidden.new_zeros(len(rollouts), n + s, dtype=torch.float32), mask.new_zeros(len(rollouts), n + s)
    for row, rollout in enumerate(rollouts):
        first, count, said = len(rollout.prompt) - 1, len(rollout.latents), len(rollout.said)
        values[row, :count] = _densities(model, hidden[row, first : first + count], rollout.latents, config)
        after = hidden[row, first + count : first + count + said]
        steps = model.get_output_embeddings()(after).float().log_softmax(-1)
        values[row, n : n + said] = steps.gather(1, torch.tensor(rollout.said, device=steps.device)[:, None])[:, 0]
        present[row, :count] = 1
        present[row, n : n + said] = 1
    return Actions(values, present, n)


def _densities(model: Any, hidden: Tensor, latents: Tensor, config: LatentConfig) -> Tensor:
    """Mean log-density (n,) of ``latents`` (n, d), in units of the embedding table's spread."""
    mean, log_sigma = getattr(model, HEAD)(hidden)
    z = latents.to(mean) / config.embedding_std
    return -(log_sigma + 0.5 * ((z - mean) * torch.exp(-log_sigma)).square() + 0.5 * LOG_TAU).mean(-1)
