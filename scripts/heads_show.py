"""`laconic heads show`: the scores of a head table, as numbers and as a heat map."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rl.head_table import HeadTable

SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class HeadsShow:
    """Which heads a table ranks first, by layer."""

    table: Annotated[Path, tyro.conf.Positional]
    """A table of `laconic heads find`, or a published one in text (.tsv)."""
    sparsity: float = 0.5
    """Heads below this share of the ranking have a window; they are marked."""
    floor: int = 0
    """Every layer keeps so many whole heads."""
    svg: Path | None = None
    """Draw the heat map to this file."""
    other: Path | None = None
    """Compare with another table of the same model: rank correlation, and how many heads both keep."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: HeadsShow) -> int:
    """Read, rank and print."""
    from eval_math.files import write_atomic
    from rl.head_table import agreement, load_table

    from .command import write_figures

    table = load_table(command.table)
    kept = table.kept(command.sparsity, floor=command.floor)
    figures = {
        "kind": table.kind,
        "scores": table.scores,
        "kept": kept,
        "sparsity": command.sparsity,
        **({"agreement": agreement(table, load_table(command.other), command.sparsity)} if command.other else {}),
    }
    stream = sys.stderr if command.json == "-" else sys.stdout
    print(_shown(table, command), file=stream)
    if "agreement" in figures:
        shared = figures["agreement"]
        print(f"rank correlation {shared['spearman']:.2f}, both keep {100 * shared['overlap']:.0f}%", file=stream)
    if command.svg:
        write_atomic(command.svg, heat_map(table, command.sparsity, command.floor))
    write_figures(command.json, figures)
    return 0


def heat_map(table: HeadTable, sparsity: float, floor: int = 0) -> str:
    """Layers down, heads across; whole heads have a frame."""
    from eval_math.report.curve import Cell, draw_heat_map

    kept = table.kept(sparsity, floor=floor)
    most = max(1e-9, *(score for row in table.scores for score in row))
    rows = {
        str(layer): [
            Cell(max(0.0, score / most), chosen=keeps)
            for score, keeps in zip(table.scores[layer], kept[layer], strict=True)
        ]
        for layer in range(table.shape[0])
    }
    title = f"KV heads ({table.kind}): score, framed where everything is kept at sparsity {sparsity:g}"
    return draw_heat_map(title, rows, [str(head) for head in range(table.shape[1])])


def _shown(table: HeadTable, command: HeadsShow) -> str:
    kept = table.kept(command.sparsity, floor=command.floor)
    layers, heads = table.shape
    facts = ", ".join(f"{name} {value}" for name, value in table.provenance.items() if not isinstance(value, dict))
    most = max(1e-9, *(score for row in table.scores for score in row))
    lines = [f"{table.kind}: {layers} layers x {heads} KV heads{'; ' + facts if facts else ''}", ""]
    for layer, (row, keeps) in enumerate(zip(table.scores, kept, strict=True)):
        cells = " ".join(f"{score:6.3f}{'*' if keep else ' '}" for score, keep in zip(row, keeps, strict=True))
        shades = "".join(SHADES[min(len(SHADES) - 1, int(max(0.0, score / most) * len(SHADES)))] for score in row)
        lines.append(f"{layer:>4} |{shades}| {cells}")
    empty = sum(not any(row) for row in kept)
    return "\n".join([*lines, "", f"* keeps everything at sparsity {command.sparsity:g}; {empty} layer(s) keep none"])
