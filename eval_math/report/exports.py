"""The figures of a report as files for papers and spreadsheets: Markdown, CSV, JSON, SVG."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import BadInput
from ..files import write_atomic
from ..statistics import Interval
from ..summary import figures_json
from .collection import Collection, Entry, Group
from .figure import WIDE, draw
from .page import figure_points, page_part, write_page
from .terminal import number

Format = Literal["html", "md", "csv", "json", "svg"]
FORMATS: tuple[Format, ...] = get_args(Format)


def format_of(out: Path, chosen: Format | None = None) -> Format:
    """The format asked for, else the one that the file's name ends in.

    Raises:
        BadInput: neither tells.
    """
    found: Format | None = chosen
    for name in FORMATS:
        if found is None and out.suffix.lower() == f".{name}":
            found = name
    if found is None:
        raise BadInput(f"{out}: what kind of file? End its name in .{', .'.join(FORMATS)}, or give --format")
    return found


def write_export(collection: Collection, out: Path, kind: Format, **page: Any) -> list[Path]:
    """Write one file and return it; for svg one file per benchmark, with its name added where there are several.

    Args:
        page: what `write_page` takes; only for html.

    Raises:
        StoreError: a file cannot be written.
    """
    if kind == "html":
        write_page(collection, out, **page)
    elif kind == "svg":
        return [
            _write_figure(group, path) for group, path in zip(collection.groups, _paths(collection, out), strict=True)
        ]
    else:
        text = {"md": markdown, "csv": table_csv, "json": _json}[kind](collection)
        write_atomic(out, text)
    return [out]


def markdown(collection: Collection) -> str:
    """One table per benchmark: accuracy, tokens, change against the baseline, with intervals."""
    return "\n".join(_markdown_group(group) for group in collection.groups)


def _markdown_group(group: Group) -> str:
    heads = (
        "method", "n", "accuracy %", "thinking tokens", "tokens per correct", "change, points", "thinking saved %",
        "equal accuracy", "cut off", "loops", "no answer",
    )  # fmt: skip
    lines = [_markdown_row(heads), _markdown_row(["---"] * len(heads))]
    lines += [_markdown_row(_markdown_cells(entry)) for entry in group.entries]
    model = ", ".join(dict.fromkeys(Path(entry.row.model).name for entry in group.entries))
    heading = f"{group.baseline.row.n_problems:,} problems, model {escape(model, quote=False)}"
    return f"**{escape(group.benchmark, quote=False)}**, {heading}\n\n" + "\n".join(lines) + "\n"


def _markdown_cells(entry: Entry) -> list[str]:
    row, paired = entry.row, entry.comparison
    verdict = f"{paired.equal_accuracy} (margin {100 * paired.margin:g})" if paired else ""
    return [
        escape(entry.name.replace("|", "\\|"), quote=False) + (" (baseline)" if entry.is_baseline else ""),
        f"{row.n:,}",
        _range(Interval(row.accuracy, row.accuracy_low, row.accuracy_high)),
        number(row.thinking_tokens_mean),
        number(row.tokens_per_correct),
        _range(paired.accuracy_difference) if paired else "",
        _range(paired.thinking_saving) if paired else "",
        verdict,
        str(row.truncated),
        str(row.looping),
        str(row.unparsable + row.timeouts + row.errors),
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _range(interval: Interval) -> str:
    value, low, high = (100 * v for v in (interval.value, interval.low, interval.high))
    if not math.isnan(value) and math.isnan(low):
        return f"{value:.1f}"
    return "-" if math.isnan(value) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def table_csv(collection: Collection) -> str:
    """One line per run: every figure of its summary, then those of its comparison as ``change_...``."""
    rows = [_flat_row(entry) for entry in collection.entries]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat_row(entry: Entry) -> dict[str, Any]:
    row = _flat(figures_json(entry.row))
    if entry.comparison is None:
        return row
    paired = figures_json(entry.comparison)
    paired |= {"gained": len(paired["gained"]), "lost": len(paired["lost"])}
    return row | _flat({f"change_{name}": value for name, value in paired.items()})


def _flat(figures: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        if name == "repeated" and value is None:
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}_")
        else:
            flat[prefix + name] = value
    return flat


def _json(collection: Collection) -> str:
    return json.dumps(collection.to_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _write_figure(group: Group, path: Path) -> Path:
    write_atomic(path, figure_svg(group))
    return path


def figure_svg(group: Group) -> str:
    """The figure of a benchmark as an SVG file of its own, light or dark as its reader is."""
    svg = draw(figure_points(group), size=WIDE)
    style = page_part("colours.css") + page_part("figure.css") + "svg { background: var(--card); }"
    head, _, rest = svg.partition(">")
    size = f'width="{WIDE.width}" height="{WIDE.height}"'
    return f'{head} xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{rest}\n'


def _paths(collection: Collection, out: Path) -> list[Path]:
    if len(collection.groups) == 1:
        return [out]
    names: list[str] = []
    for group in collection.groups:
        name = re.sub(r"[^\w.-]+", "-", group.benchmark)
        names.append(f"{name}-{len(names) + 1}" if name in names else name)
    return [out.with_name(f"{out.stem}-{name}{out.suffix}") for name in names]
