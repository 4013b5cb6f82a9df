"""The model card: every figure measured on held-out problems, as `card.json` and as the README of the checkpoint.

A card is made of sections. Those on prompts and on shortening are here; methods that live in other packages bring
sections of their own (steering, reasoning heads), so that this package need not know them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from eval_math.files import write_atomic

from ..environment import hardware
from ..method import Method
from ..prompting import Concise, NoThink
from .probes import Finding, Probe, run_probes
from .recipe import Recipe
from .training import Progress

log = logging.getLogger(__name__)

Record = dict[str, Any]
Rounds = Generator[list[Probe], list[Finding], "Part"]
"""Yields probes and is sent what they found, as often as it likes; returns the finished part."""

FORMAT = "laconic-embedded-card/2"
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class CardPlan:
    """How much is measured: ``problems`` of ``split`` per row, ``sweep`` dev problems per point of a sweep.

    A ``brief`` card has what candidates are chosen by and leaves the rest out.
    """

    split: str = "test"
    problems: int = 1000
    sweep: int = 120
    processes: int = 2
    brief: bool = False


@dataclass(frozen=True)
class Table:
    """A caption and rows of equal keys."""

    caption: str
    rows: list[Record]


@dataclass(frozen=True)
class Part:
    """What a section measured: figures by name, and tables that show them."""

    title: str
    note: str
    figures: Record
    tables: list[Table]


class Section(Protocol):
    """One part of the card."""

    def rounds(self, model: Path, folder: Path, plan: CardPlan) -> Rounds:
        """Measure the checkpoint in ``model``; ``folder`` is for files of the section's own."""
        ...


def write_card(
    model: Path, runs: Path, trained: tuple[Recipe, Progress], sections: Sequence[Section], plan: CardPlan
) -> Record:
    """Measure the checkpoint in ``model`` and write its card.json and README.md; returns the card.

    Run folders go into ``runs``; called again, only what is missing there runs.
    """
    runs.mkdir(parents=True, exist_ok=True)
    parts = [_measured(section, model, runs, plan) for section in sections]
    card = card_record(model, trained, parts, plan)
    write_atomic(model / "card.json", json.dumps(card, indent=1) + "\n")
    write_atomic(model / "README.md", card_text(card))
    return card


def _measured(section: Section, model: Path, runs: Path, plan: CardPlan) -> Part:
    rounds = section.rounds(model, runs, plan)
    try:
        probes = next(rounds)
        while True:
            probes = rounds.send(run_probes(model, runs, probes, plan.processes))
    except StopIteration as ended:
        return ended.value


@dataclass(frozen=True)
class Prompts:
    """Accuracy and length under each prompt the model knows, greedy and at temperature 0.6."""

    title: str = "Prompts"

    def rounds(self, model: Path, folder: Path, plan: CardPlan) -> Rounds:
        """One round: every prompt under both decodings."""
        asked: list[tuple[str, Method]] = [
            ("default", Method()),
            ("Be concise.", Concise()),
            ("no thinking", NoThink()),
        ]
        probes = [
            Probe("prompts", label, method, temperature, plan.split, plan.problems)
            for label, method in asked
            for temperature in (0.0, 0.6)
        ]
        if not plan.brief:
            probes += self._more(plan)
        found = yield probes
        figures = {_key(each): each.record() for each in found}
        steps = Table("Accuracy by number of steps.", [steps_row(each) for each in found if len(each.by_steps) > 1])
        note = "Problems of 2 to 5 steps, except where a row says otherwise."
        return Part(self.title, note, figures, [Table("", [finding_row(each) for each in found]), steps])

    def _more(self, plan: CardPlan) -> list[Probe]:
        """Other wordings, and problems of one and of six steps."""
        split, count = plan.split, plan.problems
        return [
            Probe("prompts", "boxed instruction", Concise(BOXED), 0.0, split, count),
            Probe("prompts", "Think carefully.", Concise("Think carefully."), 0.0, split, count),
            Probe("prompts", "no thinking, 1 step", NoThink(), 0.0, split, count, steps=(1, 1)),
            Probe("prompts", "default, 1 step", Method(), 0.0, split, count // 2, steps=(1, 1)),
            Probe("prompts", "default, 6 steps", Method(), 0.0, split, count // 2, steps=(6, 6)),
        ]


@dataclass(frozen=True)
class Shortening:
    """How often the reply to "Shorten: (a trace)" is a valid short trace, by the trace's level."""

    title: str = "Shortening"

    def rounds(self, model: Path, folder: Path, plan: CardPlan) -> Rounds:
        """One round: traces of level 2, 3 and 4."""
        found = yield [
            Probe("shorten", f"level {level}", NoThink(), t, plan.split, plan.problems, "shorten", level)
            for level in (2, 3, 4)
            for t in (0.0, 0.6)
        ]
        note = (
            'The reply to "Shorten: " and a written trace. Accuracy here: every equation is right and one of the '
            "problem's, in their order, and the last result is the answer."
        )
        rows = [finding_row(each) for each in found]
        right, n = sum(each.right for each in found), sum(each.n for each in found)
        figures: Record = {_key(each): each.record() for each in found}
        return Part(self.title, note, {**figures, "all": {"n": n, "accuracy": round(right / n, 4)}}, [Table("", rows)])


def _key(found: Finding) -> str:
    return f"{found.probe.label}, {decoding_name(found)}"


def finding_row(found: Finding) -> Record:
    """One row of a table of findings."""
    record = found.record()
    low, high = record["interval"]
    return {
        "what": found.probe.label,
        "decoding": decoding_name(found),
        "n": found.n,
        "accuracy": f"{found.accuracy:.3f}",
        "interval": f"{low:.3f} to {high:.3f}",
        "tokens": f"{found.thinking_tokens:.1f}",
        "cut": found.truncated,
    }


def steps_row(found: Finding) -> Record:
    """One row of a table by number of steps."""
    cells = {f"{each['steps']} steps": _share(each) for each in found.record()["by_steps"]}
    return {"what": found.probe.label, "decoding": decoding_name(found), **cells}


def _share(each: Record) -> str:
    low, high = each["interval"]
    return f"{each['accuracy']:.3f} ({low:.3f} to {high:.3f}, n={each['n']})"


def decoding_name(found: Finding) -> str:
    """How a finding was decoded."""
    return "greedy" if found.probe.temperature == 0 else f"T={found.probe.temperature}"


def card_record(model: Path, trained: tuple[Recipe, Progress], parts: Sequence[Part], plan: CardPlan) -> Record:
    """The card as plain data."""
    from safetensors import safe_open

    recipe, progress = trained
    with safe_open(str(model / "model.safetensors"), framework="pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    return {
        "format": FORMAT,
        "parameters": sum(_product(shape) for shape in shapes),
        "bytes": (model / "model.safetensors").stat().st_size,
        "recipe": asdict(recipe),
        "training": {
            "tokens": progress.tokens,
            "steps": progress.step,
            "minutes": round(progress.seconds / 60, 1),
            "hardware": hardware(),
        },
        "plan": asdict(plan),
        "parts": [asdict(part) for part in parts],
    }


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def card_text(card: Record) -> str:
    """The README of the checkpoint."""
    recipe, training = card["recipe"], card["training"]
    shape = recipe["architecture"]
    head = TEXT.format(
        parameters=f"{card['parameters'] / 1e6:.2f}",
        size=f"{card['bytes'] / 1e6:.1f}",
        tokens=f"{training['tokens'] / 1e6:.1f}",
        steps=training["steps"],
        minutes=training["minutes"],
        seed=recipe["seed"],
        **{name: shape[name] for name in ("layers", "hidden", "heads", "head_dim")},
    )
    return head + "".join(part_text(part) for part in card["parts"])


def part_text(part: Record) -> str:
    """One part as markdown."""
    tables = [f"{table['caption']}\n\n{table_text(table['rows'])}".lstrip() for table in part["tables"]]
    return "\n".join([f"\n## {part['title']}\n", part["note"] + "\n", "\n\n".join(tables)]) + "\n"


def table_text(rows: Sequence[Record]) -> str:
    """Rows of equal keys as a markdown table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


TEXT = """# The embedded reasoner

A {parameters}M-parameter Llama model ({size} MB; {layers} blocks, hidden size {hidden}, {heads} attention heads of
width {head_dim}, each with its own keys and values) that solves word problems by thinking, and thinks more than it
needs to. It exists to test methods that shorten reasoning without a GPU or a download. It knows one kind of problem;
nothing measured on it says anything about larger models.

- Data: procedurally made word problems of 1 to 6 arithmetic steps with integers from 1 to 199. Dev and test hold out
  whole equation chains, by hash. Traces have a persistent verbosity level; checks and recaps open with "Wait".
- Training: from scratch, {tokens}M tokens, {steps} steps, {minutes} minutes on 2 CPU cores, seed {seed}. Every other
  setting is in `card.json`.
- Prompts: the chat template opens the think block; `enable_thinking=False` closes it again at once. "Be concise." and
  "Think carefully." after the question change the length; "Shorten: " asks for a short version of a trace.

Intervals are 95%, Wilson for shares. Tokens are thinking tokens, the end-of-think token included; "cut" counts answers
that reached the limit of 640 tokens. Test problems, unless a row says dev.
"""
