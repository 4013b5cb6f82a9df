"""The model card of a finished training, from what was recorded, and its loss curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval_math.files import write_atomic
from eval_math.records import Json
from eval_math.report.curve import Axes, draw_curves

from .folder import TrainingFolder, package_versions

if TYPE_CHECKING:
    from .session import Session

ENDS = 0.1
"""Share of the updates whose mean is the loss at the start, and at the end."""


def write_card(
    folder: TrainingFolder, session: Session, losses: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Json]:
    """Write README.md and loss.svg; returns the figures that training.json keeps.

    Args:
        losses: lines of loss.jsonl.
        found: lines of evaluation.jsonl.
    """
    figures = summary(losses, session.prepared.facts, found)
    write_atomic(folder.path / "loss.svg", loss_curve(losses, session.task.loss_unit))
    write_atomic(folder.path / "README.md", card_text(session, figures, found))
    return figures


def summary(
    losses: Sequence[Mapping[str, Any]], facts: Mapping[str, Json], found: Sequence[Mapping[str, Any]]
) -> dict[str, Json]:
    """Updates, tokens, loss at both ends, and the first and last evaluation."""
    each = [float(row["loss"]) for row in losses]
    part = max(1, round(len(each) * ENDS))
    seconds = float(losses[-1]["seconds"]) if losses else 0.0
    tokens = int(losses[-1]["tokens"]) if losses else 0
    return {
        "updates": len(each),
        "tokens": tokens,
        "loss_start": sum(each[:part]) / part,
        "loss_end": sum(each[-part:]) / part,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        **_preferences(losses[-part:]),
        "rows": facts["trained"],
        "too_long": facts["too_long"],
        "evaluations": [dict(row) for row in found],
    }


def _preferences(losses: Sequence[Mapping[str, Any]]) -> dict[str, Json]:
    """Of preference training: how often, and by how much, the chosen completion has the larger reward."""
    names = {"preferred_end": "rewards/accuracies", "margin_end": "rewards/margins"}
    return {
        shown: sum(float(row[name]) for row in losses) / len(losses)
        for shown, name in names.items()
        if losses and all(name in row for row in losses)
    }


def loss_curve(losses: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Loss in ``unit`` by update as SVG, on logarithmic axes."""
    points = [(float(row["step"]), float(row["loss"])) for row in losses]
    return draw_curves({"": points}, Axes("Training loss", "update", f"loss ({unit})"))


def card_text(session: Session, figures: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> str:
    """The README of the model folder."""
    facts, config = session.prepared.facts, session.config
    lines = [
        f"# {session.out.name}",
        "",
        f"`{config.model}` after `laconic train {session.task.name}`: {figures['updates']} updates of "
        f"{config.batch_size} rows, {figures['tokens']:,} tokens, {figures['seconds']:,} seconds. "
        f"Loss {figures['loss_start']:.4f} {session.task.loss_unit} at the start, {figures['loss_end']:.4f} at the end "
        "(means of a tenth of the updates each); see loss.jsonl and loss.svg.",
        *_preferred(figures),
        "",
        "## Data",
        "",
        f"- `{facts['path']}`, sha256 `{facts['sha256']}`",
        f"- {facts['rows']:,} rows read, {facts['too_long']:,} left out for being longer than {facts['max_length']:,} "
        f"tokens, {facts['trained']:,} trained on; the longest has {facts['longest']:,} tokens",
        "",
        *_warnings(session.prepared.warnings),
        *_evaluations(config.benchmark, found),
        "## Settings",
        "",
        *_table(["setting", "value"], [[name, _shown(value)] for name, value in config.decisive().items()]),
        "",
        "## Versions",
        "",
        ", ".join(f"{name} {version}" for name, version in package_versions().items()),
    ]
    return "\n".join(lines) + "\n"


def _preferred(figures: Mapping[str, Any]) -> list[str]:
    if "preferred_end" not in figures:
        return []
    text = f"At the end the chosen completion has the larger reward in {figures['preferred_end']:.1%} of the pairs"
    return ["", f"{text}, by {figures['margin_end']:.3f} on average (means of the last tenth of the updates)."]


def _warnings(warnings: Sequence[str]) -> list[str]:
    return ["## Notes on the chat template", "", *(f"- {text}" for text in warnings), ""] if warnings else []


def _evaluations(benchmark: str | None, found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    rows = [
        [
            str(row["step"]),
            str(row["n"]),
            f"{row['accuracy']:.3f} ({row['accuracy_low']:.3f} to {row['accuracy_high']:.3f})",
            f"{row['thinking_tokens']:.1f} ({row['thinking_tokens_low']:.1f} to {row['thinking_tokens_high']:.1f})",
            str(row["truncated"]),
        ]
        for row in found
    ]
    head = ["update", "n", "accuracy", "thinking tokens", "cut off"]
    return [f"## Evaluation on {benchmark}", "", "Greedy, 95% intervals.", "", *_table(head, rows), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
