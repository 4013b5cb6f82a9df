"""Problems to search heads on: those that the model answers itself, spread over the lengths of its answers.

Self-distillation sampling (RLKV, arXiv 2510.08525): greedy answers with whole attention, the correct ones kept, drawn
by length, so that the reward starts near 1 and falls only where attention is lost. The paper draws 20, 20, 33 and 27%
from four ranges of 2k tokens each; here the ranges are the quarters of the model's own lengths.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cot.engine import Engine
from eval_math.errors import BadInput
from eval_math.grading import grade_trace
from eval_math.prompts import prompt
from eval_math.records import Problem, Request, Sampling, Trace

SHARES = (0.2, 0.2, 1 / 3, 4 / 15)
"""Of the drawn problems, from the shortest quarter of the answers to the longest."""


@dataclass(frozen=True)
class Solved:
    """A problem and the model's own correct answer to it."""

    problem: Problem
    prompt: tuple[int, ...]
    said: tuple[int, ...]


def solved(engine: Engine, problems: Sequence[Problem], max_tokens: int) -> list[Solved]:
    """The problems that the model answers correctly and to the end, greedily, in their order."""
    requests = [Request(each.id, 0, prompt(each), sampling=Sampling(max_tokens=max_tokens)) for each in problems]
    traces = {trace.problem_id: trace for trace in engine.generate(requests)}
    pairs = [(problem, request, traces[problem.id]) for problem, request in zip(problems, requests, strict=True)]
    return [
        Solved(problem, tuple(engine.prompt_ids(request)), tuple(trace.token_ids or ()))
        for problem, request, trace in pairs
        if _right(trace, problem)
    ]


def draw_by_length(found: Sequence[Solved], count: int, seed: int) -> list[Solved]:
    """``count`` of them, by `SHARES` of the quarters of length; all if there are no more.

    Raises:
        BadInput: none was solved.
    """
    if not found:
        raise BadInput("the model answers none of the problems correctly with whole attention; give easier ones")
    rng = random.Random(f"curriculum:{seed}")
    order = sorted(found, key=lambda each: len(each.said))
    edges = [round(at * len(order) / len(SHARES)) for at in range(len(SHARES) + 1)]
    chosen: list[Solved] = []
    for at, share in enumerate(SHARES):
        quarter = order[edges[at] : edges[at + 1]]
        chosen += rng.sample(quarter, min(len(quarter), round(share * count)))
    left = [each for each in order if each not in chosen]
    chosen += rng.sample(left, min(len(left), max(0, count - len(chosen))))
    rng.shuffle(chosen)
    return chosen[:count]


def _right(trace: Trace, problem: Problem) -> bool:
    return trace.finish == "stop" and grade_trace(trace, problem).correct
