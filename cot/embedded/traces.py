"""Reasoning traces of the embedded reasoner, by verbosity level.

A trace has one persistent level from 0 (equations only) to 4 (restate, check and recap nearly everything), with a
small jitter by sentence. Every choice about length falls after a full stop, between options that open with different
single tokens: `So` (next equation), `Now` (restate a fact), `Wait` (check or recap), `Alternatively` (another way),
`Therefore` (close) and the end of thinking; the first token of a trace is `Okay`, `Now` or `So`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .problems import EmbeddedProblem, apply_operation

LEVELS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Verbosity:
    """Probabilities by level 0..4 of each optional sentence, and how levels are drawn."""

    level_weights: tuple[float, ...] = (0.24, 0.12, 0.15, 0.22, 0.27)
    restate: tuple[float, ...] = (0.0, 0.05, 0.95, 0.97, 0.98)
    check: tuple[float, ...] = (0.0, 0.0, 0.05, 0.65, 0.92)
    other_way: tuple[float, ...] = (0.0, 0.0, 0.0, 0.06, 0.12)
    recap: tuple[float, ...] = (0.0, 0.0, 0.03, 0.58, 0.88)
    close: tuple[float, ...] = (0.0, 0.3, 0.9, 0.97, 0.98)
    again: tuple[float, ...] = (0.0, 0.0, 0.0, 0.35, 0.45)
    most_again: int = 2
    jitter: float = 0.12


DEFAULT_VERBOSITY = Verbosity()

OPENINGS = (
    "Okay, let me think about this step by step.",
    "Okay, I need to find how many {items} {name} has.",
    "Okay, let me see what happens to the {items}.",
)
CHECKS = (
    "Wait, let me double-check: {equation}. Yes, that is right.",
    "Wait, is that correct? {equation}. Yes, it is.",
    "Wait, let me verify this again. I get {equation}, and that is right.",
)
# Equal odds between wordings would leave greedy decoding to the last bit of a logit, so that two engines part there.
WORDING_WEIGHTS = (0.55, 0.3, 0.15)
RECAP = "Wait, let me go over everything again: {equations}."
OTHER_WAY = "Alternatively, {inverse}, so {result} fits."
CLOSING = "Therefore the answer is {answer}."
EQUATION = re.compile(r"\d+[-+*/]\d+=\d+")
ANSWER = "The answer is \\boxed{{{answer}}}."


def draw_level(rng: random.Random, verbosity: Verbosity = DEFAULT_VERBOSITY) -> int:
    """A level 0..4 with the default weights."""
    return rng.choices(LEVELS, verbosity.level_weights)[0]


def write_trace(
    problem: EmbeddedProblem, level: int, rng: random.Random, verbosity: Verbosity = DEFAULT_VERBOSITY
) -> str:
    """The thinking text of one problem at one level, without think tags."""
    return " ".join(trace_sentences(problem, level, rng, verbosity))


def trace_sentences(problem: EmbeddedProblem, level: int, rng: random.Random, verbosity: Verbosity) -> list[str]:
    """Units of a trace, each ending at a boundary where the next choice is made."""

    def chosen(odds: tuple[float, ...]) -> bool:
        return rng.random() < odds[jittered(level, rng, verbosity.jitter)]

    units = []
    if chosen(verbosity.restate):
        units.append(worded(OPENINGS, rng).format(items=problem.items, name=problem.name))
    for fact, equation in zip(problem.facts, problem.equations, strict=True):
        if chosen(verbosity.restate):
            units.append(f"Now {fact}.")
        units.append(f"So {equation}.")
        if chosen(verbosity.check):
            units.append(worded(CHECKS, rng).format(equation=equation))
        inverse = inverse_of(equation)
        if inverse and chosen(verbosity.other_way):
            units.append(OTHER_WAY.format(inverse=inverse, result=equation.split("=")[1]))
    recap = RECAP.format(equations=", ".join(problem.equations))
    closing = CLOSING.format(answer=problem.answer)
    if chosen(verbosity.recap):
        units.append(recap)
    if chosen(verbosity.close):
        units.append(closing)
    # "Wait" stays possible after the conclusion, so the end of a verbose trace still tells its level.
    for _ in range(verbosity.most_again):
        if not chosen(verbosity.again):
            break
        units += [recap, closing]
    return units


def worded(wordings: Sequence[str], rng: random.Random) -> str:
    """One of three wordings, the first most often."""
    return rng.choices(wordings, WORDING_WEIGHTS)[0]


def shortened(units: Sequence[str]) -> str:
    """The level-0 form of a trace or of a piece of one: its steps; a piece without a step keeps what it checks.

    What states no equation gives "".
    """
    steps = [equation for unit in units if unit.startswith("So ") for equation in EQUATION.findall(unit)]
    checked = [equation for unit in units if unit.startswith("Wait") for equation in EQUATION.findall(unit)]
    return " ".join(f"So {equation}." for equation in steps or dict.fromkeys(checked))


def answer_sentence(answer: str) -> str:
    """The visible answer, in the form the common grader reads."""
    return ANSWER.format(answer=answer)


def jittered(level: int, rng: random.Random, jitter: float) -> int:
    """The level one sentence uses: its trace's level, or a neighbour with probability `jitter`."""
    if rng.random() >= jitter:
        return level
    return min(4, max(0, level + rng.choice((-1, 1))))


def inverse_of(equation: str) -> str | None:
    """The equation that undoes a sum or a difference ("12+5=17" gives "17-5=12"), None for the others."""
    left, result = equation.split("=")
    for operation, undo in (("+", "-"), ("-", "+")):
        if operation in left:
            first, second = left.split(operation)
            return f"{result}{undo}{second}={apply_operation(undo, int(result), int(second))}" if first else None
    return None
