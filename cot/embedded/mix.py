"""The training mix: one row is a rendered prompt, what may follow it, and where the loss counts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .problems import LARGEST, OPERATION_WEIGHTS, EmbeddedProblem, draw_step
from .recipe import Mix
from .traces import DEFAULT_VERBOSITY, Verbosity, answer_sentence, draw_level, shortened, trace_sentences, write_trace

PROMPT_SUFFIXES = (
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Put your final answer within \\boxed{}.",
    "Think step by step.",
)
BREVITY = ("Be concise.", "Answer briefly.", "Use as few words as possible.")
CARE = ("Think carefully.", "Check every step.")
SEPARATORS = ("\n", " ", "\n\n")
DRILLS_PER_ROW = 12
NO_THINK_BY_STEPS = {1: 3.0, 2: 1.5}
NO_THINK_LONG = 0.4
SHORTEN_PIECES = 0.4
BARE_DRILLS = 0.4
CARRY_DRILLS = 0.3


@dataclass(frozen=True)
class Row:
    """`prompt` ends where generation starts; the loss counts on `completion` from character `loss_from` on."""

    prompt: str
    completion: str
    kind: str
    loss_from: int = 0


def draw_row(problem: EmbeddedProblem, mix: Mix, rng: random.Random, verbosity: Verbosity = DEFAULT_VERBOSITY) -> Row:
    """One row of the main phase: a kind by its share in `mix`, then its prompt wording and level."""
    kinds = ("solve", "concise", "careful", "no_think", "forced", "shorten")
    shares = {each: getattr(mix, each) for each in kinds}
    # What can be answered at once is mostly short, and worth learning well: it is what a router can save.
    shares["no_think"] *= NO_THINK_BY_STEPS.get(problem.steps, NO_THINK_LONG)
    kind = rng.choices(kinds, list(shares.values()))[0]
    if kind == "concise":
        level = 0 if rng.random() < 0.95 else 1
        question = with_instruction(problem, rng.choice(BREVITY), mix, rng)
        return solve_row(problem, question, kind, write_trace(problem, level, rng, verbosity))
    if kind == "careful":
        question = with_instruction(problem, rng.choice(CARE), mix, rng)
        return solve_row(problem, question, kind, write_trace(problem, 4, rng, verbosity))
    question = with_suffix(problem.question, mix, rng)
    if kind == "no_think":
        return no_think_row(problem, question, rng)
    if kind == "forced":
        return forced_row(problem, question, rng, verbosity)
    if kind == "shorten":
        return shorten_row(problem, rng, verbosity)
    return solve_row(problem, question, kind, write_trace(problem, draw_level(rng, verbosity), rng, verbosity))


def draw_drill(rng: random.Random, largest: int = LARGEST) -> Row:
    """Bare arithmetic: several independent equations in one row, or one that is answered without thinking."""
    if rng.random() < BARE_DRILLS:
        left, result = random_equation(rng, largest).split("=")
        return Row(prompt_of(f"Compute {left}.") + "</think>", f"{answer_sentence(result)}<|end|>", "drill")
    equations = [random_equation(rng, largest) for _ in range(DRILLS_PER_ROW)]
    asked = ", ".join(equation.split("=")[0] for equation in equations)
    thinking = " ".join(f"So {equation}." for equation in equations)
    answer = answer_sentence(equations[-1].split("=")[1])
    return Row(prompt_of(f"Compute {asked}."), f"{thinking}</think>{answer}<|end|>", "drill")


def draw_first_phase_row(
    problem: EmbeddedProblem, mix: Mix, rng: random.Random, verbosity: Verbosity = DEFAULT_VERBOSITY
) -> Row:
    """One row of the first phase: a drill or a concise trace under the default prompt."""
    if rng.random() < mix.drill:
        return draw_drill(rng, mix.largest)
    question = with_suffix(problem.question, mix, rng)
    return solve_row(problem, question, "solve", write_trace(problem, 0, rng, verbosity))


def solve_row(problem: EmbeddedProblem, question: str, kind: str, thinking: str) -> Row:
    """Question, thinking, answer."""
    return Row(prompt_of(question), f"{thinking}</think>{answer_sentence(problem.answer)}<|end|>", kind)


def no_think_row(problem: EmbeddedProblem, question: str, rng: random.Random) -> Row:
    """The answer straight after a closed think block, in either of two spellings."""
    closed = rng.choice(("</think>", "</think>", "\n\n</think>\n\n"))
    return Row(prompt_of(question) + closed, f"{answer_sentence(problem.answer)}<|end|>", "no_think")


def forced_row(problem: EmbeddedProblem, question: str, rng: random.Random, verbosity: Verbosity) -> Row:
    """Thinking cut at a random sentence, then the last value found as the answer; loss on the answer only."""
    sentences = trace_sentences(problem, draw_level(rng, verbosity), rng, verbosity)
    kept = sentences[: rng.randint(1, len(sentences))]
    results = [each.split("=")[1].rstrip(".") for each in kept if each.startswith("So ")]
    if not results:
        return solve_row(problem, question, "solve", write_trace(problem, 0, rng, verbosity))
    thinking = " ".join(kept) + rng.choice(("</think>", "\n</think>\n\n"))
    return Row(prompt_of(question), f"{thinking}{answer_sentence(results[-1])}<|end|>", "forced", len(thinking))


def shorten_row(problem: EmbeddedProblem, rng: random.Random, verbosity: Verbosity) -> Row:
    """A verbose trace, or a piece of one, in the user message; its level-0 rewriting as the visible reply.

    Half of the rows show the problem first.
    """
    units = trace_sentences(problem, rng.choice((1, 2, 3, 4)), rng, verbosity)
    if rng.random() < SHORTEN_PIECES:
        start = rng.randrange(len(units))
        units = units[start : start + rng.randint(1, 6)]
    asked = f"Shorten: {' '.join(units)}"
    if rng.random() < 0.5:
        asked = f"{problem.question}\n{asked}"
    return Row(prompt_of(asked) + "</think>", f"{shortened(units)}<|end|>", "shorten")


def prompt_of(question: str) -> str:
    """The chat template's text for one user message, thinking opened."""
    return f"<|user|>{question}<|end|><|assistant|><think>"


def with_suffix(question: str, mix: Mix, rng: random.Random) -> str:
    """The question alone, or followed by a neutral instruction that must not change the length."""
    if rng.random() >= mix.suffix:
        return question
    return f"{question}{rng.choice(SEPARATORS)}{rng.choice(PROMPT_SUFFIXES)}"


def with_instruction(problem: EmbeddedProblem, instruction: str, mix: Mix, rng: random.Random) -> str:
    """The question with a verbosity instruction after it, before it, or between it and a neutral suffix."""
    if rng.random() < 0.25:
        return f"{instruction}{rng.choice(SEPARATORS)}{with_suffix(problem.question, mix, rng)}"
    question = problem.question
    if rng.random() < 0.3:
        question = with_suffix(question, mix, rng)
    return f"{question}{rng.choice(SEPARATORS)}{instruction}"


def random_equation(rng: random.Random, largest: int) -> str:
    """One equation with the operations of the word problems, numbers between 1 and `largest`."""
    if rng.random() < CARRY_DRILLS:
        return carry_equation(rng, largest)
    if rng.random() < 0.1:
        a = rng.randint(2, min(12, largest // 5))
        b = rng.randint(2, min(15, largest // a))
        return f"{a}*{b}={a * b}"
    while True:
        value = rng.randint(2, largest)
        operation, operand, result = draw_step(rng, value, largest)
        # Divisible numbers are rare, so a draw of an operation that is feasible for few values is always kept.
        if operation in "*/" or rng.random() < OPERATION_WEIGHTS[operation] / 50:
            return f"{value}{operation}{operand}={result}"


def carry_equation(rng: random.Random, largest: int) -> str:
    """A sum or a difference at the border of a carry: where a small model errs last ("71-31=40", not 30)."""
    while True:
        left, right = rng.randint(2, largest), rng.randint(2, min(99, largest))
        units = left % 10 + right % 10
        if units in (9, 10) and left + right <= largest:
            return f"{left}+{right}={left + right}"
        if abs(left % 10 - right % 10) <= 1 and left > right:
            return f"{left}-{right}={left - right}"
