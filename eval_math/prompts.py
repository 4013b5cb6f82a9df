"""The benchmarks' own prompts."""

from __future__ import annotations

from .records import Message, Problem

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""The sentence that DeepSeek-R1 and its distilled models were evaluated with; Qwen2.5-Math uses the same."""

BARE = frozenset({"embedded"})
"""Benchmarks whose question is the whole prompt."""


def prompt(problem: Problem) -> tuple[Message, ...]:
    """The conversation for ``problem``: one user turn, the question followed by `BOXED`; no system prompt."""
    if problem.benchmark in BARE:
        return (Message("user", problem.question),)
    return (Message("user", f"{problem.question}\n{BOXED}"),)
