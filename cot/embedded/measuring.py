"""Measurements of the embedded reasoner: accuracy and length under each prompt, and a small steering sweep."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .decoding import GREEDY, Completion, Decoding, Reasoner, complete, last_token_states, steered
from .problems import EmbeddedProblem, make_problems
from .recipe import Recipe
from .tokens import chat_prompt
from .traces import write_trace


@dataclass(frozen=True)
class Asking:
    """What follows the question in the user message, and whether thinking is left open."""

    instruction: str = ""
    thinking: bool = True


PLAIN = Asking()
CONCISE = Asking(" Be concise.")
CAREFUL = Asking(" Think carefully.")
NO_THINKING = Asking(thinking=False)


@dataclass(frozen=True)
class Measurement:
    """Accuracy over n problems and the mean number of thinking tokens; `by_steps` is (steps, right, n)."""

    n: int
    right: int
    thinking_tokens: float
    truncated: int
    by_steps: tuple[tuple[int, int, int], ...]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / max(1, self.n)

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} (n={self.n}) at {self.thinking_tokens:.1f} tokens, {self.truncated} cut"


def measure(
    reasoner: Reasoner, problems: Sequence[EmbeddedProblem], asking: Asking = PLAIN, decoding: Decoding = GREEDY
) -> Measurement:
    """Answer every problem once and count."""
    prompts = [chat_prompt(each.question + asking.instruction, thinking=asking.thinking) for each in problems]
    return summarise(problems, complete(reasoner, prompts, decoding))


def summarise(problems: Sequence[EmbeddedProblem], completions: Sequence[Completion]) -> Measurement:
    """Counts over all problems and by number of steps."""
    right = [each.answer == problem.answer for problem, each in zip(problems, completions, strict=True)]
    by_steps = []
    for steps in sorted({problem.steps for problem in problems}):
        hits = [hit for hit, problem in zip(right, problems, strict=True) if problem.steps == steps]
        by_steps.append((steps, sum(hits), len(hits)))
    return Measurement(
        len(right),
        sum(right),
        sum(each.thinking_tokens for each in completions) / max(1, len(completions)),
        sum(each.truncated for each in completions),
        tuple(by_steps),
    )


def level_vector(reasoner: Reasoner, block: int, pairs: int = 100, seed: int = 0) -> torch.Tensor:
    """Mean last-token difference at `block` of level-0 minus level-3-or-4 traces of train problems, (hidden,)."""
    problems = make_problems("train", pairs, seed=seed)
    rng = random.Random(f"vector:{seed}")
    short = [chat_prompt(each.question) + write_trace(each, 0, rng) for each in problems]
    long = [chat_prompt(each.question) + write_trace(each, rng.choice((3, 4)), rng) for each in problems]
    concise = last_token_states(reasoner, short, block)
    return (concise - last_token_states(reasoner, long, block)).mean(0)


@dataclass(frozen=True)
class SteeringPoint:
    """One setting of the sweep and what it gave; block -1 is the unsteered model."""

    block: int
    strength: float
    measurement: Measurement


def steering_sweep(
    reasoner: Reasoner, problems: Sequence[EmbeddedProblem], blocks: Sequence[int], strengths: Sequence[float]
) -> list[SteeringPoint]:
    """Greedy accuracy and length for each block and strength, vector from 100 pairs of train problems."""
    points = []
    for block in blocks:
        vector = level_vector(reasoner, block)
        for strength in strengths:
            with steered(reasoner.model, block, strength * vector):
                points.append(SteeringPoint(block, strength, measure(reasoner, problems)))
    return points


def dev_line(reasoner: Reasoner, recipe: Recipe, count: int = 128) -> str:
    """One line for the training log: dev accuracy under each prompt and a point of the steering sweep."""
    mix = recipe.cycles[-1].mix
    most = mix.steps[1]
    problems = make_problems("dev", count, steps=(min(2, most), min(5, most)), largest=mix.largest)
    parts = [f"default {measure(reasoner, problems)}"]
    if mix.concise:
        parts.append(f"concise {measure(reasoner, problems, CONCISE)}")
        parts.append(f"no thinking {measure(reasoner, problems, NO_THINKING)}")
        last = recipe.architecture.layers - 1
        parts += [
            f"steered block {point.block} x{point.strength} {point.measurement}"
            for point in steering_sweep(reasoner, problems, (last,), (0.5,))
        ]
    return "; ".join(parts)
