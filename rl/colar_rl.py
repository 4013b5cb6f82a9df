"""CoLaR's reinforcement stage: short correct chains of latents are made likelier (arXiv 2505.16552).

Each question is answered G times with drawn latents, a drawn stop and drawn answers; rewards are compared within the
group; one pass over the answers in shuffled mini-batches, old log-probabilities fixed. A loop of its own and not TRL's
GRPOTrainer: its actions are token ids, and every hook that would let latents through is private.

Departures: both kinds of action in one loss, averaged over each sequence; the head alone, or the whole model, learns;
answers that were cut off stay in, with reward 0.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cot.engine import Engine
from eval_math.errors import BadInput, EngineError
from eval_math.grading import grade_trace
from eval_math.prompts import prompt
from eval_math.records import Problem, Request, Sampling, unit_seed
from latent.config import LatentConfig

from .core import Averaging, Clip, clipped_loss, clipped_share, group_advantages
from .latent_rollouts import Rollout, actions, roll_out
from .rounds import Rounds


@dataclass(frozen=True)
class ColarRlConfig:
    """Settings of the reinforcement stage."""

    updates: int = 64
    """Rounds of questions."""
    questions: int = 8
    """Questions per round."""
    group: int = 8
    """G, answers per question."""
    mini_batch: int = 8
    """Answers per step of the optimiser."""
    learning_rate: float = 1e-6
    epsilon: float = 0.2
    """Ratios count up to 1 plus or minus this."""
    averaging: Averaging = "sequence"
    """token is the paper's ablation that fails: chains grow to the limit."""
    per_latent: bool = False
    """Divide the reward by the number of latents."""
    learns: Literal["all", "head"] = "all"
    rate: int = 2
    """Tokens per latent that the questions ask for."""
    max_steps: int = 64
    """Most latents of a chain."""
    max_tokens: int = 128
    """Most latents and tokens together."""
    gradient_clip: float = 1.0
    seed: int = 0
    save_every: int = 8
    """Rounds between two states to go on from."""

    def __post_init__(self) -> None:
        for name in ("updates", "questions", "mini_batch", "rate", "max_steps", "save_every"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name}={getattr(self, name)}: at least 1 is expected")
        if self.group < 2 or not 0 < self.learning_rate < 1 or not 0 < self.epsilon < 1:
            raise BadInput(
                f"group={self.group}, learning_rate={self.learning_rate}, epsilon={self.epsilon}: at least 2 answers, "
                "and numbers between 0 and 1, are expected"
            )


@dataclass(frozen=True)
class Policy:
    """A live reasoner with the engine that decodes it."""

    model: Any
    engine: Engine
    config: LatentConfig


class ColarRl(Rounds):
    """The stage; see `Rounds`.

    Raises:
        BadInput: a reasoner that cannot draw latents.
    """

    def __init__(self, policy: Policy, problems: Sequence[Problem], config: ColarRlConfig, folder: Path) -> None:
        if policy.config.rule != "gaussian" or policy.config.deterministic_head:
            raise BadInput("only a reasoner with a Gaussian head that has a spread can be taught by its own draws")
        super().__init__(config, folder)
        self.policy, self.problems = policy, problems
        self.drawing = policy.config.changed(temperature=1.0, stop="sample", max_steps=config.max_steps)
        self.optimiser = torch.optim.AdamW(self._learning(), lr=config.learning_rate, weight_decay=0.0)

    def state(self) -> Mapping[str, Any]:
        """Weights and optimiser."""
        return {"model": self.policy.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self.policy.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])

    def round(self, update: int) -> dict[str, float]:
        """Ask, grade, learn."""
        rollouts = self.rollouts(update)
        if not rollouts:
            raise EngineError(f"round {update}: no answer has a latent; is the model a trained reasoner?")
        advantages = self._advantages(rollouts)
        shares, losses = list[float](), list[float]()
        with torch.no_grad():
            old = [actions(self.policy.model, [rollout], self.drawing) for rollout in rollouts]
        for batch in self._batches(len(rollouts), update):
            loss, share = self._step([rollouts[at] for at in batch], [old[at].log_probabilities[0] for at in batch],
                                     advantages[batch])  # fmt: skip
            losses.append(loss)
            shares.append(share)
        n = len(rollouts)
        return {
            "answers": n,
            "reward": sum(rollout.reward for rollout in rollouts) / n,
            "accuracy": sum(rollout.reward > 0 for rollout in rollouts) / n,
            "latents": sum(len(rollout.latents) for rollout in rollouts) / n,
            "cut_off": sum(rollout.trace.finish == "length" for rollout in rollouts),
            "loss": sum(losses) / len(losses),
            "clipped": sum(shares) / len(shares),
        }

    def rollouts(self, update: int) -> list[Rollout]:
        """The graded answers of a round, group by group; groups with a lost answer are left out."""
        chosen = self._questions(update)
        named = {problem.id: problem for problem in chosen}
        requests = [self._request(problem, update, sample) for problem in chosen for sample in range(self.config.group)]
        self.policy.model.eval()
        found = roll_out(self.policy.engine, self.drawing, self.drawing.speed(self.config.rate), named, requests)
        whole = {p.id for p in chosen if sum(r.problem.id == p.id for r in found) == self.config.group}
        return [replace(each, reward=self._reward(each)) for each in found if each.problem.id in whole]

    def _questions(self, update: int) -> list[Problem]:
        rng = random.Random(f"{self.config.seed}:questions:{update}")
        return rng.sample(list(self.problems), min(self.config.questions, len(self.problems)))

    def _request(self, problem: Problem, update: int, sample: int) -> Request:
        seed = unit_seed(self.config.seed, problem.id, update * self.config.group + sample)
        sampling = Sampling(max_tokens=self.config.max_tokens, temperature=1.0, seed=seed)
        return Request(problem.id, sample, prompt(problem), sampling=sampling)

    def _reward(self, rollout: Rollout) -> float:
        right = float(grade_trace(rollout.trace, rollout.problem).correct)
        return right / len(rollout.latents) if self.config.per_latent else right

    def _advantages(self, rollouts: Sequence[Rollout]) -> Tensor:
        return group_advantages(torch.tensor([rollout.reward for rollout in rollouts]), self.config.group)

    def _batches(self, count: int, update: int) -> Iterator[list[int]]:
        order = list(range(count))
        random.Random(f"{self.config.seed}:batches:{update}").shuffle(order)
        for at in range(0, count, self.config.mini_batch):
            yield order[at : at + self.config.mini_batch]

    def _step(self, rollouts: Sequence[Rollout], old: Sequence[Tensor], advantages: Tensor) -> tuple[float, float]:
        """One step of the optimiser; returns loss and share of clipped actions."""
        new = actions(self.policy.model, rollouts, self.drawing)
        before = torch.zeros_like(new.log_probabilities)
        for row, (rollout, values) in enumerate(zip(rollouts, old, strict=True)):
            n = len(rollout.latents)
            before[row, :n] = values[:n]
            before[row, new.n_latents : new.n_latents + len(rollout.said)] = values[n:]
        how = Clip(self.config.epsilon, self.config.averaging)
        loss = clipped_loss(new.log_probabilities, before, advantages.to(before.device), new.mask, how)
        if not torch.isfinite(loss):
            raise EngineError("the loss is no number; take a lower learning_rate, and go on from the last state")
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._learning(), self.config.gradient_clip)
        self.optimiser.step()
        share = clipped_share(new.log_probabilities.detach(), before, new.mask, self.config.epsilon)
        return float(loss.detach()), share

    def _learning(self) -> list[torch.nn.Parameter]:
        model = self.policy.model
        model.requires_grad_(self.config.learns == "all")
        model.get_input_embeddings().weight.requires_grad_(False)
        model.latent_head.requires_grad_(True)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]
