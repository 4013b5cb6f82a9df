"""RLKV: reinforcement learning finds the KV heads that reasoning needs (arXiv 2510.08525).

Every KV head gets a gate between whole and local attention (`gates`), all else is frozen. Answers are sampled with the
blended model, rewarded 1 or 0 by the grader, and the gates learn by a policy gradient while an L1 term pulls them down,
by a weight that grows with the reward and is 0 below a threshold (equation of section 4). Ranked by their gates, heads
keep the whole cache or a window of it.

Departures: rollouts and updates take turns (the released trainer is asynchronous), one step per round, so that the
ratio is 1 and the clip never acts; gates in float32 (released: bfloat16); clamped also after each step; one exact
window everywhere; ``advantages="batch"`` is the released code's variant, the default the paper's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cot.engine import Engine
from eval_math.errors import BadInput, EngineError
from eval_math.grading import grade_trace
from eval_math.prompts import prompt
from eval_math.records import Problem, Request, Sampling, Trace, unit_seed

from .core import Clip, clipped_loss, group_advantages
from .gates import Gates, Window
from .rounds import Rounds


@dataclass(frozen=True)
class RlkvConfig:
    """Settings of the search; the paper's for Llama-8B, but for the window, which is the one of use."""

    updates: int = 185
    """Rounds; with the learning rate they bound how far gates can fall."""
    questions: int = 32
    """B, questions per round."""
    group: int = 4
    """G, answers per question."""
    learning_rate: float = 1e-2
    weight_decay: float = 0.017
    beta: float = 1e-3
    """Weight of the L1 term at a mean reward of 0.7."""
    threshold: float = 0.5
    """Mean reward up to which there is no L1 term."""
    advantages: Literal["group", "batch"] = "group"
    """Rewards against their group (the paper), or against all tokens of the round (the released code)."""
    sink: int = 16
    recent: int = 64
    temperature: float = 1.0
    max_tokens: int = 7168
    """Longest answer; a longer one is cut and earns nothing."""
    micro_batch: int = 8
    """Answers per forward pass of the update."""
    gradient_clip: float = 1.0
    seed: int = 0
    save_every: int = 5
    """Rounds between two states to go on from."""

    def __post_init__(self) -> None:
        for name in ("updates", "questions", "max_tokens", "micro_batch", "save_every"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name}={getattr(self, name)}: at least 1 is expected")
        if self.group < 2 or not 0 < self.learning_rate < 1 or self.beta < 0 or self.temperature <= 0:
            raise BadInput(
                f"group={self.group}, learning_rate={self.learning_rate}, beta={self.beta}, temperature="
                f"{self.temperature}: from 2, between 0 and 1, from 0, and above 0 are expected"
            )
        Window(self.sink, self.recent)

    @property
    def window(self) -> Window:
        """Of local attention."""
        return Window(self.sink, self.recent)


@dataclass(frozen=True)
class GatedPolicy:
    """A frozen model with its gates, and the engine that decodes it."""

    model: Any
    engine: Engine
    gates: Gates


@dataclass(frozen=True)
class Answer:
    """Ids of a prompt and of what was said to it, and what that was worth."""

    prompt: tuple[int, ...]
    said: tuple[int, ...]
    reward: float
    finish: str


class GateRounds(Rounds):
    """A search by gradient over the gates of a policy, whose model is frozen; subclasses make ``optimiser``."""

    optimiser: torch.optim.Optimizer

    def __init__(self, policy: GatedPolicy, config: Any, folder: Path) -> None:
        super().__init__(config, folder)
        self.model, self.engine, self.gates = policy.model, policy.engine, policy.gates
        self.model.requires_grad_(False)

    def state(self) -> Mapping[str, Any]:
        """Gates and optimiser."""
        return {"gates": self.gates.values.detach().cpu(), "optimiser": self.optimiser.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        with torch.no_grad():
            self.gates.values.copy_(state["gates"])
        self.optimiser.load_state_dict(state["optimiser"])


class Rlkv(GateRounds):
    """The search; see `Rounds`.

    Raises:
        BadInput: no problems.
    """

    def __init__(self, policy: GatedPolicy, problems: Sequence[Problem], config: RlkvConfig, folder: Path) -> None:
        if not problems:
            raise BadInput("no problems to search on: give some that the model can answer")
        super().__init__(policy, config, folder)
        self.problems = problems
        self.optimiser = torch.optim.AdamW([self.gates.values], lr=config.learning_rate,
                                           weight_decay=config.weight_decay)  # fmt: skip

    def round(self, update: int) -> dict[str, float]:
        """Ask, grade, learn.

        Raises:
            EngineError: no answer came back, or the gradient is no number.
        """
        answers = self.answers(update)
        if not answers:
            raise EngineError(f"round {update}: the engine answered no question")
        rewards = torch.tensor([answer.reward for answer in answers])
        mean = float(rewards.mean())
        loss = self._learn(answers, self._advantages(answers, rewards), penalty_weight(mean, self.config))
        values = self.gates.values.detach()
        lengths = [len(answer.said) for answer in answers]
        return {
            "reward": mean,
            "penalty": penalty_weight(mean, self.config),
            "loss": loss,
            "length": sum(lengths) / len(lengths),
            "cut_off": sum(answer.finish == "length" for answer in answers) / len(answers),
            "gate_mean": float(values.mean()),
            "gate_min": float(values.min()),
            "gate_max": float(values.max()),
            "gate_spread": float(values.std()),
            "tokens": sum(lengths),
        }

    def answers(self, update: int) -> list[Answer]:
        """Graded answers of the blended model, group by group; groups with a lost answer are left out."""
        chosen = random.Random(f"{self.config.seed}:questions:{update}").sample(
            list(self.problems), min(self.config.questions, len(self.problems))
        )
        size = range(self.config.group)
        requests = {(each.id, at): self._request(each, update, at) for each in chosen for at in size}
        traces = {(trace.problem_id, trace.sample): trace for trace in self.engine.generate(requests.values())}
        found = []
        for problem in chosen:
            group = [traces[problem.id, at] for at in size]
            if all(trace.finish != "error" and trace.token_ids for trace in group):
                found += [self._answer(problem, requests[problem.id, trace.sample], trace) for trace in group]
        return found

    def _request(self, problem: Problem, update: int, sample: int) -> Request:
        seed = unit_seed(self.config.seed, problem.id, update * self.config.group + sample)
        sampling = Sampling(max_tokens=self.config.max_tokens, temperature=self.config.temperature, seed=seed)
        return Request(problem.id, sample, prompt(problem), sampling=sampling)

    def _answer(self, problem: Problem, request: Request, trace: Trace) -> Answer:
        right = trace.finish == "stop" and grade_trace(trace, problem).correct
        return Answer(tuple(self.engine.prompt_ids(request)), tuple(trace.token_ids or ()), float(right), trace.finish)

    def _advantages(self, answers: Sequence[Answer], rewards: Tensor) -> Tensor:
        if self.config.advantages == "group":
            return group_advantages(rewards, self.config.group)
        return token_advantages(rewards, torch.tensor([len(answer.said) for answer in answers]))

    def _learn(self, answers: Sequence[Answer], advantages: Tensor, weight: float) -> float:
        """One step of the optimiser over micro-batches; returns the loss.

        The policy part is a mean over the tokens of the round, the penalty enters once.
        """
        total = sum(len(answer.said) for answer in answers)
        self.gates.clamp()
        self.optimiser.zero_grad()
        sum_of_losses = 0.0
        for at in self._batches(answers):
            part = [answers[i] for i in at]
            new, mask = log_probabilities(self.model, part, self.config.temperature)
            share = sum(len(answer.said) for answer in part) / total
            chosen = advantages[at].to(new.device)
            loss = share * clipped_loss(new, new.detach(), chosen, mask, Clip(averaging="token"))
            loss.backward()
            sum_of_losses += float(loss.detach())
        penalty = weight * self.gates.values.abs().mean()
        penalty.backward()
        norm = torch.nn.utils.clip_grad_norm_([self.gates.values], self.config.gradient_clip)
        if not math.isfinite(float(norm)):
            raise EngineError("the gradient of the gates is no number; the model's outputs overflow: take float32")
        self.optimiser.step()
        self.gates.clamp()
        return sum_of_losses + float(penalty.detach())

    def _batches(self, answers: Sequence[Answer]) -> Iterator[list[int]]:
        """Answers of like length together."""
        order = sorted(range(len(answers)), key=lambda at: len(answers[at].prompt) + len(answers[at].said))
        for at in range(0, len(order), self.config.micro_batch):
            yield order[at : at + self.config.micro_batch]


def penalty_weight(mean_reward: float, config: RlkvConfig) -> float:
    """The weight of the L1 term (section 4): 0 up to the threshold, then ``beta * (exp(mean reward) - 1)``."""
    return config.beta * (math.exp(mean_reward) - 1) if mean_reward > config.threshold else 0.0


def token_advantages(rewards: Tensor, lengths: Tensor) -> Tensor:
    """The released code's: rewards (B,) against mean and deviation over all tokens, by ``lengths`` (B,)."""
    weights = lengths.float() / lengths.sum()
    mean = (weights * rewards).sum()
    deviation = (weights * (rewards - mean).square()).sum().sqrt()
    return (rewards - mean) / (deviation + 1e-8)


def log_probabilities(model: Any, answers: Sequence[Answer], temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T) of what was said, under the model as it is gated now, and the mask of real ones."""
    sequences = [[*answer.prompt, *answer.said] for answer in answers]
    width = max(map(len, sequences))
    ids = torch.tensor([each + [0] * (width - len(each)) for each in sequences], device=model.device)
    real = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in sequences], device=model.device)
    said = real.clone()
    for row, answer in enumerate(answers):
        said[row, : len(answer.prompt)] = 0
    kept = int(width - min(len(answer.prompt) for answer in answers)) + 1
    logits = model(input_ids=ids, attention_mask=real, use_cache=False, logits_to_keep=kept).logits[:, :-1]
    steps = (logits.float() / temperature).log_softmax(-1)
    found = steps.gather(2, ids[:, -kept + 1 :, None])[..., 0]
    return found, said[:, -kept + 1 :]
