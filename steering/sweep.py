"""Where and how strongly to steer: block x strength on a dev set, each point a run folder of its own.

A point is able if its accuracy is at most ``margin`` below the unsteered run's and the paired comparison does not say
that more was lost. Among able points those that have *kept* accuracy (see `equality`) come first, if the dev set is
large enough to tell; of these the one with the fewest thinking tokens is chosen. Points that are stored already are
read, not run again. A heat map of the grid is drawn as sweep.svg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cot.engine import Engine
from cot.evaluate import EvalConfig, evaluate_into
from cot.method import Method
from eval_math.equality import Equality
from eval_math.errors import BadInput
from eval_math.files import write_atomic, write_json
from eval_math.paired import compare
from eval_math.records import Json, Problem
from eval_math.report.curve import Cell, draw_heat_map
from eval_math.summary import SummaryRow, figures_json

from .asc import Asc
from .counting import PromptTokens, Until
from .sites import engine_shape
from .vector import SteeringVector, load_vector, save_vector


@dataclass(frozen=True)
class SweepConfig:
    """The grid and the rule of choice."""

    blocks: tuple[int, ...] | None = None
    """Blocks to try, from 0; None = the vector's default block."""
    strengths: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5)
    margin: float = 0.01
    """Accuracy that may be lost, as a fraction."""
    give_up: float = 0.2
    """On a block, once a strength costs more accuracy than this, stronger ones are not run."""
    prompt: PromptTokens = "last"
    until: Until = "end_of_think"

    def __post_init__(self) -> None:
        if not self.strengths or any(not 0 < s < float("inf") for s in self.strengths):
            raise BadInput(f"strengths: {self.strengths} given, at least one positive number expected")
        if not 0 <= self.margin < 1 or not 0 <= self.give_up <= 1:
            raise BadInput(f"margin={self.margin}, give_up={self.give_up}: fractions of 1 expected")


@dataclass(frozen=True)
class Point:
    """One steered run; ``run`` is None where it was given up on before."""

    block: int
    strength: float
    run: SummaryRow | None
    accuracy: Equality = "open"
    """Whether accuracy was kept, against the unsteered run, at the sweep's margin."""


@dataclass(frozen=True)
class SweepResult:
    """All points and the chosen one, None if no point is shorter at enough accuracy."""

    base: SummaryRow
    points: tuple[Point, ...]
    best: Point | None
    vector: Path | None
    """The vector with the chosen block and strength as its defaults."""


def sweep(  # noqa: PLR0913, PLR0917
    engine: Engine,
    problems: Sequence[Problem],
    vector: Path,
    out: Path,
    config: SweepConfig = SweepConfig(),
    evaluation: EvalConfig | None = None,
) -> SweepResult:
    """Run the unsteered baseline and each point on ``problems``.

    Run folders, sweep.json and vector.safetensors (the chosen point as its default) go into ``out``.

    Args:
        evaluation: how problems are answered; None = one greedy answer each.

    Raises:
        BadInput: the vector does not fit the model, or has no direction at a block; no problems.
        RunMismatch: ``out`` holds points of another configuration.
    """
    loaded = load_vector(vector, engine_shape(engine), engine.identity.model)
    if not problems:
        raise BadInput("sweep: no problems given; expected a dev set of about a hundred")
    evaluation = evaluation or EvalConfig(problems[0].benchmark)
    blocks = sorted(set(config.blocks or loaded.info.apply_layers))
    for block in blocks:
        loaded.step(block, 1.0)

    def run(name: str, method: Method) -> SummaryRow:
        return evaluate_into(out / name, problems, method, engine, evaluation)

    def run_point(block: int, strength: float, method: Method) -> Point:
        name = f"block{block}_strength{strength:g}"
        row = run(name, method)
        paired = compare(out / "base", out / name, margin=config.margin)
        return Point(block, strength, row, paired.equal_accuracy)

    base = run("base", Method())
    points = _run_grid(vector, blocks, config, base, run_point)
    best = choose(base, points, config.margin)
    result = SweepResult(base, tuple(points), best, _save_tuned(loaded, best, out))
    write_json(out / "sweep.json", sweep_json(result, config))
    write_atomic(out / "sweep.svg", heat_map(result))
    return result


def _run_grid(
    vector: Path,
    blocks: Sequence[int],
    config: SweepConfig,
    base: SummaryRow,
    run_point: Callable[[int, float, Method], Point],
) -> list[Point]:
    points: list[Point] = []
    for block in blocks:
        hopeless = False
        for strength in sorted(set(config.strengths)):
            method = Asc(str(vector), block, strength, config.prompt, config.until)
            point = Point(block, strength, None) if hopeless else run_point(block, strength, method)
            hopeless = point.run is None or point.run.accuracy < base.accuracy - config.give_up
            points.append(point)
    return points


def choose(base: SummaryRow, points: Sequence[Point], margin: float) -> Point | None:
    """The shortest able point that thinks less than the baseline, of those with accuracy kept if there are any."""
    # Accuracies are means of 0 and 1: the slack keeps a loss of exactly the margin inside it.
    able = [
        (
            point.accuracy != "kept",
            point.run.thinking_tokens_mean,
            -point.run.accuracy,
            point.strength,
            point.block,
            point,
        )
        for point in points
        if point.run is not None
        and point.accuracy != "lost"
        and point.run.accuracy >= base.accuracy - margin - 1e-9
        and point.run.thinking_tokens_mean < base.thinking_tokens_mean
    ]
    return min(able, key=lambda entry: entry[:5])[5] if able else None


def heat_map(result: SweepResult) -> str:
    """The grid as SVG: darker fields save more thinking tokens; each shows accuracy and mean thinking tokens."""
    strengths = sorted({point.strength for point in result.points})
    found = {(point.block, point.strength): point for point in result.points}
    rows = {
        f"block {block}": [_heat(found[block, strength], result) for strength in strengths]
        for block in sorted({point.block for point in result.points})
    }
    base = result.base
    title = (
        f"Accuracy % and thinking tokens by block and strength; unsteered {100 * base.accuracy:.1f} at "
        f"{base.thinking_tokens_mean:.1f} (n={base.n})"
    )
    return draw_heat_map(title, rows, [f"{strength:g}" for strength in strengths])


def _heat(point: Point, result: SweepResult) -> Cell:
    if point.run is None:
        return Cell(None, ("not run",))
    saved = 1 - point.run.thinking_tokens_mean / result.base.thinking_tokens_mean
    lines = (f"{100 * point.run.accuracy:.1f}", f"{point.run.thinking_tokens_mean:.0f} tokens")
    return Cell(saved, lines, point is result.best)


def sweep_json(result: SweepResult, config: SweepConfig) -> dict[str, Json]:
    """The object of sweep.json."""
    best = result.best
    return {
        "config": figures_json(config),
        "base": figures_json(result.base),
        "points": [figures_json(point) for point in result.points],
        "best": {"block": best.block, "strength": best.strength} if best else None,
        "vector": str(result.vector) if result.vector else None,
    }


def format_grid(result: SweepResult) -> str:
    """A table of accuracy and mean thinking tokens, blocks down, strengths across; the chosen point is starred."""
    strengths = sorted({point.strength for point in result.points})
    cells = {(p.block, p.strength): _cell(p, p == result.best) for p in result.points}
    lines = [f"{'block':>5}" + "".join(f"{strength:>18g}" for strength in strengths)]
    for block in sorted({point.block for point in result.points}):
        lines.append(f"{block:>5}" + "".join(f"{cells[block, s]:>18}" for s in strengths))
    base = result.base
    lines.append(
        f"unsteered: accuracy {base.accuracy:.3f}, {base.thinking_tokens_mean:.1f} thinking tokens (n={base.n})"
    )
    return "\n".join(lines)


def _cell(point: Point, chosen: bool) -> str:
    if point.run is None:
        return "-"
    return f"{point.run.accuracy:.3f} / {point.run.thinking_tokens_mean:.1f}" + ("*" if chosen else " ")


def _save_tuned(vector: SteeringVector, best: Point | None, out: Path) -> Path | None:
    if best is None:
        return None
    path = out / "vector.safetensors"
    save_vector(vector.tuned(best.block, best.strength), path)
    return path
