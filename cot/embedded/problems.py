"""Procedural word problems for the embedded reasoner.

A problem is a chain of 1 to 6 arithmetic steps on one running quantity. Every number stays between 1 and 199 and every
division is exact. The split of a problem is decided by a hash of its equation chain, so that no chain a model was
trained on can appear in `dev` or `test`, whatever names and items the story uses.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from eval_math.errors import BadInput
from eval_math.records import Problem

SPLITS = ("train", "dev", "test")
LARGEST = 199
MAX_STEPS = 6

WOMEN = "Ada Beth Carla Dora Emma Grace Hana Iris Julia Kate Lena Mia Nora Olga Rosa Sara"
MEN = "Adam Ben Carl David Eric Frank Gus Hugo Ivan Jack Leo Max Noah Omar Paul Tom"
SMALL_THINGS = (
    "apples pears plums lemons cookies candies eggs nuts coins stamps cards marbles books pens pencils stickers beads "
    "shells stones tickets photos toys balls bottles cups flowers roses seeds letters notes ribbons buttons"
)
HOLDERS = "boxes bags baskets jars packs rows trays drawers"
PEOPLE: tuple[str, ...] = (*WOMEN.split(), *MEN.split())
ITEMS: tuple[str, ...] = tuple(SMALL_THINGS.split())
CONTAINERS: tuple[str, ...] = tuple(HOLDERS.split())
KINDS: tuple[tuple[str, str], ...] = (
    ("red", "green"),
    ("old", "new"),
    ("big", "small"),
    ("blue", "yellow"),
    ("black", "white"),
)
JOINERS: tuple[str, ...] = ("Then", "Next", "After that", "Later")

GAINS = ("buys {b} more {items}", "finds {b} more {items}", "gets {b} {items} from {friend}", "makes {b} more {items}")
LOSSES = ("gives {b} {items} to {friend}", "loses {b} {items}", "sells {b} {items}", "uses {b} {items}")
TIMES = ("ends up with {b} times as many {items}", "trades them for {b} times as many {items}")
SHARES = (
    "puts the {items} into {b} equal bags and keeps one bag",
    "shares the {items} equally among {b} people and keeps one part",
)
QUESTIONS = (
    "How many {items} does {name} have now?",
    "How many {items} does {name} have in the end?",
    "How many {items} are left for {name}?",
)
CLAUSES = {"+": GAINS, "-": LOSSES, "*": TIMES, "/": SHARES}
OPERATION_WEIGHTS = {"+": 32, "-": 32, "*": 20, "/": 16}


@dataclass(frozen=True)
class EmbeddedProblem:
    """One word problem; `equations` such as "3*4=12" lead in order to `answer`, `facts` restate the story by step."""

    id: str
    question: str
    answer: str
    steps: int
    equations: tuple[str, ...]
    facts: tuple[str, ...]
    name: str
    items: str

    def record(self) -> Problem:
        """As a problem of the benchmark `embedded`; its level is the number of steps."""
        return Problem(self.id, "embedded", self.question, self.answer, level=self.steps)


def make_problems(
    split: str, count: int, seed: int = 0, steps: tuple[int, int] = (2, 5), largest: int = LARGEST
) -> list[EmbeddedProblem]:
    """`count` problems of `split` with a uniform number of steps in `steps` (both ends included), no chain twice.

    No number exceeds `largest`; 199 is what the reasoner was trained on, less makes the arithmetic easier.
    """
    check_request(split, count, steps, largest)
    problems: list[EmbeddedProblem] = []
    seen: set[tuple[str, ...]] = set()
    for problem in stream_problems(split, seed, steps, largest):
        if len(problems) == count:
            break
        if problem.equations not in seen:
            seen.add(problem.equations)
            problems.append(problem)
    return problems


def stream_problems(
    split: str, seed: int | str, steps: tuple[int, int], largest: int = LARGEST
) -> Iterator[EmbeddedProblem]:
    """Endless problems of one split; the same arguments give the same stream on every machine."""
    size = "" if largest == LARGEST else f":{largest}"
    rng = random.Random(f"{split}:{seed}:{steps[0]}-{steps[1]}{size}")
    index = 0
    while True:
        name = f"embedded/{split}-{seed}-{steps[0]}to{steps[1]}{size}-{index}"
        problem = draw_problem(rng, rng.randint(*steps), name, largest)
        while split_of(problem.equations) != split:
            problem = draw_problem(rng, problem.steps, problem.id, largest)
        yield problem
        index += 1


def split_of(equations: tuple[str, ...]) -> str:
    """Split of an equation chain: 80% train, 10% dev, 10% test, by a hash that is the same everywhere."""
    digest = hashlib.sha256(";".join(equations).encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 10
    return "train" if bucket < 8 else SPLITS[bucket - 7]


def check_request(split: str, count: int, steps: tuple[int, int], largest: int) -> None:
    """Raise BadInput for an unknown split, a negative count, steps outside 1..6 or numbers outside 20..199."""
    if not 20 <= largest <= LARGEST:
        raise BadInput(f"largest is {largest}, expected 20 to {LARGEST}")
    if split not in SPLITS:
        raise BadInput(f"split is {split!r}, expected one of {SPLITS}")
    if count < 0:
        raise BadInput(f"count is {count}, expected 0 or more")
    if not 1 <= steps[0] <= steps[1] <= MAX_STEPS:
        raise BadInput(f"steps is {steps}, expected a range inside 1..{MAX_STEPS}")


def draw_problem(rng: random.Random, steps: int, identifier: str, largest: int = LARGEST) -> EmbeddedProblem:
    """One problem with `steps` equations, of any split."""
    name = rng.choice(PEOPLE)
    friend = rng.choice([other for other in PEOPLE if other != name])
    words = {"name": name, "friend": friend, "items": rng.choice(ITEMS)}
    opening, equations, value = draw_start(rng, words, largest)
    facts = [opening] if equations else []
    sentences = [opening]
    while len(equations) < steps:
        operation, operand, result = draw_step(rng, value, largest)
        clause = f"{name} {rng.choice(CLAUSES[operation])}".format(b=operand, **words)
        facts.append(clause if equations else f"{opening} and {clause}")
        equations.append(f"{value}{operation}{operand}={result}")
        sentences.append(joined(rng, clause))
        value = result
    question = " ".join(f"{sentence}." for sentence in sentences) + " " + rng.choice(QUESTIONS).format(**words)
    return EmbeddedProblem(
        identifier, question, str(value), steps, tuple(equations), tuple(facts), name, words["items"]
    )


def draw_start(rng: random.Random, words: dict[str, str], largest: int) -> tuple[str, list[str], int]:
    """Opening clause, the equations it already holds (none or one) and the quantity it leaves."""
    form = rng.random()
    if form < 0.4:
        value = rng.randint(2, min(120, largest))
        return f"{words['name']} has {value} {words['items']}", [], value
    if form < 0.7:
        a = rng.randint(2, min(12, largest // 5))
        b = rng.randint(2, min(15, largest // a))
        text = f"{words['name']} has {a} {rng.choice(CONTAINERS)} with {b} {words['items']} each"
        return text, [f"{a}*{b}={a * b}"], a * b
    a, b = rng.randint(2, min(99, largest // 2)), rng.randint(2, min(99, largest // 2))
    first, second = rng.choice(KINDS)
    text = f"{words['name']} has {a} {first} {words['items']} and {b} {second} {words['items']}"
    return text, [f"{a}+{b}={a + b}"], a + b


def draw_step(rng: random.Random, value: int, largest: int = LARGEST) -> tuple[str, int, int]:
    """(operation, operand, result) that keeps the result between 1 and `largest`."""
    operands = {
        "+": range(2, min(99, largest - value) + 1),
        "-": range(2, min(99, value - 1) + 1),
        "*": range(2, min(9, largest // value) + 1),
        "/": [k for k in range(2, 10) if value % k == 0],
    }
    possible = [operation for operation, choices in operands.items() if len(choices)]
    operation = rng.choices(possible, [OPERATION_WEIGHTS[each] for each in possible])[0]
    operand = rng.choice(operands[operation])
    return operation, operand, apply_operation(operation, value, operand)


def apply_operation(operation: str, left: int, right: int) -> int:
    """Result of one arithmetic step; division is exact."""
    if operation == "+":
        return left + right
    if operation == "-":
        return left - right
    if operation == "*":
        return left * right
    quotient, rest = divmod(left, right)
    if operation != "/" or rest:
        raise ValueError(f"no exact step {left}{operation}{right}")
    return quotient


def joined(rng: random.Random, clause: str) -> str:
    """A clause as a later sentence of the story, with or without a connecting word."""
    return clause if rng.random() < 0.4 else f"{rng.choice(JOINERS)} {clause}"
