"""`laconic steer calibrate`: a strength for a budget of divergence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cot.engine import Engine
    from steering.calibration import Calibration, Divergence, Task
    from steering.forcing import Response
    from steering.vector import SteeringVector


@dataclass(frozen=True)
class SteerCalibrate:
    """Find the strength at which a vector changes the next-token distributions by a given divergence."""

    vector: Path = Path("vector.safetensors")
    """Vector file."""
    pairs: Path = Path("pairs.jsonl")
    """Pairs whose long sides are the responses that are measured."""
    model: str = "embedded"
    """Model folder, hub id, or `embedded` for the reasoner that ships with laconic."""
    block: int | None = None
    """Block to steer, from 0; default: the vector's own."""
    mode: Literal["empirical", "fisher", "bound", "paper"] = "empirical"
    """empirical measures; fisher is its second order; bound is the exact bound; paper is the paper's rule."""
    eps: float = 0.05
    """Budget in nats per token."""
    limit: int = 50
    """Responses that are measured."""
    generic: Path | None = None
    """Text file with other text than the task's, one passage per line; default: a few lines of plain prose."""
    out: Path | None = None
    """Write the vector with this block and strength as its defaults."""
    plot: Path | None = None
    """Write divergence against strength as SVG."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    json: str | None = None
    """Write the record as one JSON object to this file, - for standard output."""


PROSE = (
    "The harbour was quiet before sunrise, and the first boats came back with little to show for the night.",
    "Bread keeps longer when it is cooled on a rack, because the crust loses its steam on every side.",
    "Her letters from that winter speak of snow, of the price of coal, and of a neighbour who played the flute.",
    "Most bridges of the old town were built of the same yellow stone, cut in a quarry a day's walk to the north.",
)


def run(command: SteerCalibrate) -> int:
    """Calibrate, print the record, store the vector and the plot."""
    import json
    import sys

    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from eval_math.errors import BadInput

    from .command import write_figures

    if command.limit < 1:
        raise BadInput(f"--limit {command.limit}: at least one response is expected")
    for name in ("out", "plot"):
        path = getattr(command, name)
        if path is not None and not path.absolute().parent.is_dir():
            raise BadInput(f"--{name} {path}: its folder does not exist; make it first")
    engine = open_engine(EngineConfig(command.model, "hf", dtype=command.dtype, device=command.device))
    try:
        vector, block, found = _calibrate(command, engine)
    finally:
        engine.close()
    shown = sys.stderr if command.json == "-" else sys.stdout
    print(format_calibration(found, block), file=shown)
    _store(command, vector, block, found)
    write_figures(command.json, {"block": block, **json.loads(found.to_json())})
    return 0


def _calibrate(command: SteerCalibrate, engine: Engine) -> tuple[SteeringVector, int, Calibration]:
    from cot.engine import ModelAccess
    from steering.calibration import CalibrationConfig, calibrate
    from steering.extraction import long_responses
    from steering.pairs import load_pairs
    from steering.sites import engine_shape
    from steering.vector import load_vector

    assert isinstance(engine, ModelAccess)
    vector = load_vector(command.vector, engine_shape(engine), engine.identity.model)
    block = vector.info.apply_layers[0] if command.block is None else command.block
    config = CalibrationConfig(command.mode, command.eps)
    responses = long_responses(engine, load_pairs(command.pairs)[: command.limit])
    generic = _generic(command, engine)

    def measure(model: object) -> Calibration:
        return calibrate(_task(model, vector, block, responses, generic), config, _show)

    return vector, block, engine.apply_model(measure)


def _task(
    model: object, vector: SteeringVector, block: int, responses: list[Response], generic: list[Response]
) -> Task:
    from steering.calibration import Task

    return Task(model, block, vector.step(block, 1.0), responses, generic)


def _generic(command: SteerCalibrate, engine: Engine) -> list[Response]:
    from eval_math.errors import BadInput
    from steering.forcing import Response

    lines = list(PROSE)
    if command.generic is not None:
        try:
            lines = command.generic.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--generic {command.generic}: a text file is expected ({error})") from error
    ids = [tuple(engine.encode(line))[:256] for line in lines if line.strip()]
    return [Response(each, 1) for each in ids if len(each) > 1]


def _show(measured: Divergence) -> None:
    import sys

    if sys.stderr.isatty():
        print(f"  strength {measured.strength:.4g}: {measured.mean:.4g} nats per token", file=sys.stderr)


def format_calibration(found: Calibration, block: int) -> str:
    """The record in lines of plain text."""
    task = found.task
    lines = [
        f"block {block}, strength {found.strength:.4g} ({found.mode}, {found.eps:g} nats per token)",
        f"  added       {found.strength * found.step_norm:.4g}, {100 * found.share:.1f}% of the states' mean norm",
        f"  responses   mean {task.mean:.4g} nats per token, p95 {task.p95:.4g}, largest {task.largest:.4g}",
    ]
    if found.generic is not None:
        lines.append(f"  other text  mean {found.generic.mean:.4g}, p95 {found.generic.p95:.4g}")
    if found.sensitivity is not None and found.curvature is not None:
        lines.append(
            f"  states      {found.n_states}: median sensitivity {found.sensitivity:.4g}, p95 curvature "
            f"{found.curvature:.4g}"
        )
    return "\n".join(lines)


def _store(command: SteerCalibrate, vector: SteeringVector, block: int, found: Calibration) -> None:
    from dataclasses import replace

    from eval_math.files import write_atomic
    from eval_math.report.curve import Axes, draw_curves
    from steering.vector import save_vector

    if command.out is not None:
        tuned = vector.tuned(block, found.strength)
        extra = {**tuned.info.extra, "gamma_source": f"calibrated, {found.mode}, eps {found.eps:g}"}
        save_vector(replace(tuned, info=replace(tuned.info, kl=found.to_json(), extra=extra)), command.out)
    if command.plot is not None:
        lines = {
            "mean": [(d.strength, d.mean) for d in found.curve],
            "95th percentile": [(d.strength, d.p95) for d in found.curve],
        }
        axes = Axes(f"Divergence on responses, block {block}", "strength", "nats per token", found.eps, found.strength)
        write_atomic(command.plot, draw_curves(lines, axes))
