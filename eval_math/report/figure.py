"""The figure of a report: accuracy against mean thinking tokens, as inline SVG.

Colours come from the page's style sheet by class, so that the figure follows dark and light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import product

from ..statistics import Interval


@dataclass(frozen=True)
class Point:
    """One run: accuracy as a fraction, mean thinking tokens, each with its 95% interval."""

    name: str
    tokens: Interval
    accuracy: Interval
    is_baseline: bool = False


@dataclass(frozen=True)
class Size:
    """Of the drawing, in pixels of the user; ``longest_name`` in characters."""

    width: int
    height: int
    font: float
    longest_name: int


WIDE = Size(820, 460, 13, 34)
NARROW = Size(358, 400, 12, 20)

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 34, 48
_RADIUS = 6.0
_GAPS = (13.0, 20.0, 30.0, 42.0, 56.0, 72.0)
_DIRECTIONS = (
    (1, -0.5),
    (-1, -0.5),
    (1, 0.6),
    (-1, 0.6),
    (0, -1.2),
    (0, 1.2),
    (1, 0.0),
    (-1, 0.0),
    (1, -1.2),
    (-1, 1.2),
)


def draw(points: Sequence[Point], *, size: Size = WIDE, name: str = "figure") -> str:
    """The figure as one ``<svg>``; points without accuracy or tokens are left out.

    Args:
        name: prefix of the element ids, unique in the page.
    """
    shown = [p for p in points if math.isfinite(p.tokens.value) and math.isfinite(p.accuracy.value)]
    scale = _Scale.around(shown, size)
    front = pareto_front(shown)
    parts = [
        f'<svg class="figure" viewBox="0 0 {size.width} {size.height}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc" font-size="{size.font}">',
        f'<title id="{name}-title">Accuracy against mean thinking tokens</title>',
        f'<desc id="{name}-desc">{escape(_description(shown, front))}</desc>',
        *_axes(scale),
        *_front_line(front, scale),
        *(_bars(point, scale) for point in shown),
        *(_mark(point, point in front, scale) for point in shown),
        *_labels(shown, front, scale),
        "</svg>",
    ]
    return "\n".join(parts)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in tokens or accuracy without losing in the other, from few tokens to many."""
    best, front = -math.inf, []
    for point in sorted(points, key=lambda p: (p.tokens.value, -p.accuracy.value)):
        if point.accuracy.value > best:
            front.append(point)
            best = point.accuracy.value
    return front


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values that cover ``low`` to ``high``, at most about ``most`` of them."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    """From tokens and accuracy to pixels."""

    size: Size
    x_ticks: list[float]
    y_ticks: list[float]

    @classmethod
    def around(cls, points: Sequence[Point], size: Size) -> _Scale:
        x_most, y_most = (6, 6) if size.width > 500 else (4, 5)
        far = max((_bound(p.tokens.high, p.tokens.value) for p in points), default=1.0)
        # The bound of two or three problems may be hundreds of times their mean.
        far = min(far, 3 * max((p.tokens.value for p in points), default=1.0))
        low = min((_bound(p.accuracy.low, p.accuracy.value) for p in points), default=0.0)
        high = max((_bound(p.accuracy.high, p.accuracy.value) for p in points), default=1.0)
        middle, half = (low + high) / 2, max(0.04, (high - low) / 2 * 1.08)
        y = [t for t in ticks(100 * (middle - half), 100 * (middle + half), y_most) if 0 <= t <= 100]
        return cls(size, ticks(0, max(1.0, far * 1.02), x_most), y)

    def x(self, tokens: float) -> float:
        span = self.size.width - _LEFT - _RIGHT
        return _LEFT + span * tokens / self.x_ticks[-1]

    def y(self, accuracy: float) -> float:
        low, high = self.y_ticks[0] / 100, self.y_ticks[-1] / 100
        return self.size.height - _BOTTOM - (self.size.height - _TOP - _BOTTOM) * (accuracy - low) / (high - low)


def _bound(bound: float, value: float) -> float:
    return bound if math.isfinite(bound) else value


def _axes(scale: _Scale) -> list[str]:
    size, floor = scale.size, scale.size.height - _BOTTOM
    parts = ['<g class="axis">']
    for tick in scale.y_ticks:
        y = scale.y(tick / 100)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{size.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in scale.x_ticks:
        x = scale.x(tick)
        anchor = "end" if tick == scale.x_ticks[-1] else "middle"
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 5}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 19}" text-anchor="{anchor}">{tick:,g}</text>')
    right, bottom = size.width - _RIGHT, size.height - 8
    parts.append(f'<text class="title" x="{_LEFT - 40}" y="16">accuracy, %</text>')
    parts.append(
        f'<text class="title" x="{right}" y="{bottom}" text-anchor="end">mean thinking tokens per answer</text>'
    )
    parts.append(f'<text class="hint" x="{right}" y="16" text-anchor="end">↖ shorter and better</text>')
    return [*parts, "</g>"]


def _front_line(front: Sequence[Point], scale: _Scale) -> list[str]:
    """The best accuracy to be had for so many tokens: a staircase from the shortest run on."""
    if len(front) < 2:
        return []
    path = f"M{scale.x(front[0].tokens.value):.1f} {scale.y(front[0].accuracy.value):.1f}"
    for point in front[1:]:
        path += f" H{scale.x(point.tokens.value):.1f} V{scale.y(point.accuracy.value):.1f}"
    return [f'<path class="front" d="{path} H{scale.size.width - _RIGHT}"/>']


def _bars(point: Point, scale: _Scale) -> str:
    x, y = scale.x(point.tokens.value), scale.y(point.accuracy.value)
    parts = []
    if math.isfinite(point.accuracy.low):
        low, high = scale.y(point.accuracy.low), scale.y(point.accuracy.high)
        parts.append(f'<path d="M{x:.1f} {low:.1f} V{high:.1f} M{x - 4:.1f} {low:.1f} h8 M{x - 4:.1f} {high:.1f} h8"/>')
    if math.isfinite(point.tokens.low):
        low, high = scale.x(point.tokens.low), scale.x(point.tokens.high)
        parts.append(f'<path d="M{low:.1f} {y:.1f} H{high:.1f} M{low:.1f} {y - 4:.1f} v8 M{high:.1f} {y - 4:.1f} v8"/>')
    return f'<g class="bars">{"".join(parts)}</g>'


def _mark(point: Point, in_front: bool, scale: _Scale) -> str:
    x, y = scale.x(point.tokens.value), scale.y(point.accuracy.value)
    title = f"<title>{escape(_sentence(point))}</title>"
    if point.is_baseline:
        r = _RADIUS + 2
        path = f"M{x:.1f} {y - r:.1f} l{r} {r} l-{r} {r} l-{r} -{r}z"
        return f'<path class="mark baseline" d="{path}">{title}</path>'
    kind = "mark best" if in_front else "mark"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}">{title}</circle>'


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def distance(self, x: float, y: float) -> float:
        return math.hypot(max(self.left - x, 0.0, x - self.right), max(self.top - y, 0.0, y - self.bottom))


@dataclass(frozen=True)
class _Spot:
    """Where a text stands, as SVG says it."""

    x: float
    y: float
    anchor: str


@dataclass
class _Labels:
    """Puts each label where it covers least; ``taken`` grows by what has been drawn."""

    scale: _Scale
    marks: list[tuple[float, float]]
    taken: list[_Box] = field(default_factory=list)

    def place(self, x: float, y: float, text: str) -> _Spot:
        """Where to write ``text`` for a point at (x, y)."""
        width, height = 0.58 * self.scale.size.font * len(text), self.scale.size.font
        found = []
        for gap, (dx, dy) in product(_GAPS, _DIRECTIONS):
            anchor_x, middle = x + dx * gap, y + dy * gap
            left = anchor_x - {1: 0.0, -1: width, 0: width / 2}[dx]
            box = _Box(left, middle - height / 2, left + width, middle + height / 2)
            cost = self._cost(box) + self._confusion(box, x, y) + 2.5 * (gap - _GAPS[0]) + abs(dy)
            found.append((cost, len(found), anchor_x, middle, dx, box))
        _, _, anchor_x, middle, dx, box = min(found)
        self.taken.append(_Box(box.left - 4, box.top - 4, box.right + 4, box.bottom + 4))
        return _Spot(anchor_x, middle + 0.35 * height, {1: "start", -1: "end", 0: "middle"}[dx])

    def _confusion(self, box: _Box, x: float, y: float) -> float:
        """A label nearer to another point than to its own is read as that point's."""
        return 80.0 * sum(box.distance(*other) < box.distance(x, y) for other in self.marks if other != (x, y))

    def _cost(self, box: _Box) -> float:
        size = self.scale.size
        outside = max(0.0, 2 - box.left) + max(0.0, box.right - size.width + 2)
        outside += max(0.0, _TOP - 14 - box.top) + max(0.0, box.bottom - (size.height - _BOTTOM - 2))
        return 200 * outside + sum(box.overlap(other) for other in self.taken)


def _labels(points: Sequence[Point], front: Sequence[Point], scale: _Scale) -> list[str]:
    labels = _Labels(scale, [(scale.x(p.tokens.value), scale.y(p.accuracy.value)) for p in points])
    for point in points:
        labels.taken.extend(_covered(point, scale))
    order = sorted(points, key=lambda p: (not p.is_baseline, p not in front, p.tokens.value))
    return [_label(point, labels, scale) for point in order]


def _label(point: Point, labels: _Labels, scale: _Scale) -> str:
    longest = scale.size.longest_name - (11 if point.is_baseline else 0)
    text = point.name if len(point.name) <= longest else point.name[: longest - 1] + "…"
    text += " (baseline)" if point.is_baseline else ""
    x, y = scale.x(point.tokens.value), scale.y(point.accuracy.value)
    spot = labels.place(x, y, text)
    kind = "label baseline" if point.is_baseline else "label"
    place = f'x="{spot.x:.1f}" y="{spot.y:.1f}" text-anchor="{spot.anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _covered(point: Point, scale: _Scale) -> list[_Box]:
    x, y = scale.x(point.tokens.value), scale.y(point.accuracy.value)
    boxes = [_Box(x - 9, y - 9, x + 9, y + 9)]
    if math.isfinite(point.accuracy.low):
        boxes.append(_Box(x - 2, scale.y(point.accuracy.high), x + 2, scale.y(point.accuracy.low)))
    if math.isfinite(point.tokens.low):
        boxes.append(_Box(scale.x(point.tokens.low), y - 2, scale.x(point.tokens.high), y + 2))
    return boxes


def _sentence(point: Point) -> str:
    accuracy, tokens = point.accuracy, point.tokens
    text = f"{point.name}: accuracy {100 * accuracy.value:.1f}%"
    if math.isfinite(accuracy.low):
        text += f" (95% interval {100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})"
    text += f", {tokens.value:,.1f} thinking tokens"
    return text + (f" ({tokens.low:,.1f} to {tokens.high:,.1f})" if math.isfinite(tokens.low) else "")


def _description(points: Sequence[Point], front: Sequence[Point]) -> str:
    if not points:
        return "No run has figures yet."
    best = ", ".join(point.name for point in front)
    return ". ".join([*(_sentence(p) for p in points), f"On the front, best accuracy for their tokens: {best}."])
