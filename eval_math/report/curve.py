"""Lines over a logarithmic axis, and heat maps, as SVG files that stand alone and follow dark and light."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .page import page_part

WIDTH, HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 46, 52
_STYLE = """
svg { background: var(--card); font: 13px var(--sans); } text { fill: var(--soft); } .title, .name { fill: var(--ink); }
.grid { stroke: var(--line); } .line { fill: none; stroke: var(--accent); stroke-width: 2; }
.line.second { stroke: var(--dim); stroke-dasharray: 5 4; } .rule { stroke: var(--bad); stroke-dasharray: 3 3; }
.cell { fill: var(--accent); } .frame { fill: none; stroke: var(--line); }
.chosen { fill: none; stroke: var(--bad); stroke-width: 2.5; }
.value { fill: var(--ink); paint-order: stroke; stroke: var(--card); stroke-width: 3; }
"""


@dataclass(frozen=True)
class Axes:
    """What a curve shows: titles, and a level and a place that are marked with a line."""

    title: str
    x: str
    y: str
    level: float | None = None
    place: float | None = None


def draw_curves(lines: Mapping[str, Sequence[tuple[float, float]]], axes: Axes) -> str:
    """Lines of (x, y) points on two logarithmic axes; points that are not positive are left out."""
    shown = {name: [p for p in points if p[0] > 0 and p[1] > 0] for name, points in lines.items()}
    xs = [x for points in shown.values() for x, _ in points] + ([axes.place] if axes.place else [])
    ys = [y for points in shown.values() for _, y in points] + ([axes.level] if axes.level else [])
    if not xs or not ys:
        return _svg(axes.title, [])
    across, up = _Log.around(xs, _LEFT, WIDTH - _RIGHT), _Log.around(ys, HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(across, up, axes)]
    for number, (name, points) in enumerate(shown.items()):
        kind = "line" if number == 0 else "line second"
        path = " L".join(f"{across.at(x):.1f} {up.at(y):.1f}" for x, y in sorted(points))
        if points:
            # Names stand at different places along their lines, above the first and below the others.
            x, y = sorted(points)[(len(points) - 1) * (3 - number % 3) // 4]
            aside = -10 if number == 0 else 20
            parts.append(f'<path class="{kind}" d="M{path}"/>')
            parts.append(
                f'<text class="name" x="{across.at(x):.1f}" y="{up.at(y) + aside:.1f}" '
                f'text-anchor="middle">{escape(name)}</text>'
            )
    return _svg(axes.title, parts)


@dataclass(frozen=True)
class _Log:
    """From values to pixels on a logarithmic axis."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> _Log:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.1, 0.05 * (high - low))
        return cls(low - room, high + room, start, end)

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        steps = (1, 2, 5) if self.high - self.low < 2 else (1,)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        found = [step * 10.0**power for power in powers for step in steps]
        return [value for value in found if self.low <= math.log10(value) <= self.high]


def _grid(across: _Log, up: _Log, axes: Axes) -> list[str]:
    floor, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in up.ticks():
        y = up.at(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in across.ticks():
        parts.append(f'<text x="{across.at(value):.1f}" y="{floor + 20}" text-anchor="middle">{value:g}</text>')
    if axes.level:
        y = up.at(axes.level)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    if axes.place:
        x = across.at(axes.place)
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{floor}"/>')
    parts.append(f'<text class="title" x="{_LEFT - 52}" y="38">{escape(axes.y)}</text>')
    parts.append(f'<text class="title" x="{right}" y="{HEIGHT - 10}" text-anchor="end">{escape(axes.x)}</text>')
    return parts


@dataclass(frozen=True)
class Cell:
    """One field of a heat map: what fills it (0 to 1, darker is more) and the lines written in it; None = not run."""

    fill: float | None
    lines: tuple[str, ...] = ()
    chosen: bool = False


def draw_heat_map(title: str, rows: Mapping[str, Sequence[Cell]], columns: Sequence[str]) -> str:
    """Rows of cells under named columns; the chosen cell has a frame."""
    width = (WIDTH - _LEFT - _RIGHT) / max(1, len(columns))
    height = min(64.0, (HEIGHT - _TOP - _BOTTOM) / max(1, len(rows)))
    parts = []
    for place, name in enumerate(columns):
        x = _LEFT + (place + 0.5) * width
        parts.append(f'<text x="{x:.1f}" y="{_TOP - 6}" text-anchor="middle">{escape(name)}</text>')
    for number, (name, cells) in enumerate(rows.items()):
        top = _TOP + number * height
        parts.append(f'<text x="{_LEFT - 8}" y="{top + height / 2 + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for place, cell in enumerate(cells):
            parts.extend(_cell(cell, (_LEFT + place * width, top, width - 2, height - 2)))
    return _svg(title, parts)


def _cell(cell: Cell, box: tuple[float, float, float, float]) -> list[str]:
    x, y, width, height = box
    frame = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    parts = [f'<rect class="frame" {frame}/>']
    if cell.fill is not None:
        opacity = 0.08 + 0.8 * min(1.0, max(0.0, cell.fill))
        parts.append(f'<rect class="cell" {frame} fill-opacity="{opacity:.2f}"/>')
    if cell.chosen:
        parts.append(f'<rect class="chosen" {frame}/>')
    first = y + height / 2 + 5 - 8 * (len(cell.lines) - 1)
    for number, line in enumerate(cell.lines):
        place = f'x="{x + width / 2:.1f}" y="{first + 16 * number:.1f}"'
        parts.append(f'<text class="value" {place} text-anchor="middle">{escape(line)}</text>')
    return parts


def _svg(title: str, parts: Sequence[str]) -> str:
    style = page_part("colours.css") + _STYLE
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return (
        f'{head}<style>{style}</style><text class="title" x="12" y="18" font-weight="600">{escape(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )
