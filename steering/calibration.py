"""How strong to steer: a strength for a budget of divergence, measured or bounded.

The divergence of a token is KL(p || p~) of the next-token distributions without and with steering, full vocabulary, in
nats. Four rules find the strength for a budget ``eps``:

- ``empirical``: the mean divergence over the tokens of given responses, measured with the real injection (edited keys
  and values included), is brought to ``eps`` by bisection;
- ``fisher``: g^2 Var_p(W v) / 2 = ``eps``, exact to second order, for one state at a time;
- ``bound``: the exact largest strength that the bound on one distribution allows (`bound.safe_strength`);
- ``paper``: the paper's rule (median sensitivity, 95th percentile of curvature).

The two bounds are far below what works: they count every token of the vocabulary alike. They are here to be compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from eval_math.errors import BadInput

from .bound import fisher_strength, paper_strength, safe_strength
from .forcing import Response, divergences, log_probabilities, next_logits
from .sites import check_blocks, find_blocks

if TYPE_CHECKING:
    import torch

Mode = Literal["empirical", "fisher", "bound", "paper"]
Aggregate = Literal["median", "p95", "max"]
MODES: tuple[Mode, ...] = get_args(Mode)
SHARES: dict[Aggregate, float] = {"median": 50.0, "p95": 5.0, "max": 0.0}
"""Percentile of the states' own strengths: ``max`` holds for every state, so it takes the smallest."""
LONGEST_SEARCH = 40


@dataclass(frozen=True)
class CalibrationConfig:
    """Budget and rule."""

    mode: Mode = "empirical"
    eps: float = 0.05
    """Nats per token."""
    states: int = 50
    """States whose sensitivity and curvature are measured."""
    aggregate: Aggregate = "median"
    """Of the strengths that ``bound`` finds for single states: median, p95 (holds for 95 of 100) or max (for all)."""
    difference: float = 0.05
    """Step of the finite differences, as a share of the mean norm of the states."""
    batch_tokens: int = 4096
    tolerance: float = 0.01
    """The divergence met by ``empirical`` is within this share of ``eps``."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.aggregate not in SHARES:
            raise BadInput(f"calibration: mode {self.mode!r}, aggregate {self.aggregate!r}; known: {', '.join(MODES)}")
        positive = (self.eps, self.states, self.difference, self.batch_tokens, self.tolerance)
        if not all(value > 0 and math.isfinite(value) for value in positive):
            raise BadInput("calibration: eps, states, difference, batch_tokens and tolerance must be positive")


@dataclass(frozen=True)
class Divergence:
    """What a strength does to the tokens of responses, in nats per token."""

    strength: float
    mean: float
    p95: float
    largest: float


@dataclass(frozen=True)
class Sensitivity:
    """One state: a = ||W v||, Var_p(W v), and the norm of the second derivative along v; per unit of strength."""

    slope: float
    variance: float
    curvature: float


@dataclass(frozen=True)
class Calibration:
    """The strength found, in multiples of the step, and everything that led there."""

    strength: float
    mode: Mode
    eps: float
    task: Divergence
    """On the responses, at that strength."""
    generic: Divergence | None
    """On generic text, at that strength."""
    sensitivity: float | None
    """Median of a over the states; None for ``empirical``."""
    curvature: float | None
    """95th percentile."""
    n_states: int
    step_norm: float
    """Norm of the step of strength 1."""
    state_norm: float
    """Mean norm of the states that are steered."""
    curve: tuple[Divergence, ...]
    """Every strength that was measured, in order."""

    @property
    def share(self) -> float:
        """Norm of what is added, as a share of the states'."""
        return self.strength * self.step_norm / self.state_norm if self.state_norm else math.nan

    def to_json(self) -> str:
        """One line of JSON, for the ``kl`` entry of a vector file."""
        return json.dumps({**asdict(self), "share_of_state_norm": self.share})


@dataclass(frozen=True)
class Task:
    """What is calibrated: a model, the step of strength 1 at a block, responses, and text that is not of the task."""

    model: Any
    block: int
    step: torch.Tensor
    responses: Sequence[Response]
    generic: Sequence[Response] = ()

    def __post_init__(self) -> None:
        check_blocks([self.block], len(find_blocks(self.model)))
        if not self.responses:
            raise BadInput("calibration: no responses given; give the long sides of at least a few pairs")
        if not bool(self.step.any()):
            raise BadInput("calibration: the step is zero, so no strength moves anything")


def calibrate(
    task: Task,
    config: CalibrationConfig = CalibrationConfig(),
    on_measured: Callable[[Divergence], None] | None = None,
) -> Calibration:
    """Find the strength for ``config.eps``.

    Raises:
        BadInput: a block that the model lacks, no responses, a zero step, or a step that moves no distribution.
    """
    meter = _Meter(task, config, on_measured)
    sensitivities: list[Sensitivity] = []
    if config.mode == "empirical":
        strength = _bisect(meter, config)
    else:
        sensitivities = measure_states(task, config)
        strength = _by_rule(sensitivities, config)
    if not math.isfinite(strength):
        raise BadInput("calibration: the step moves no next-token distribution of these responses")
    return Calibration(
        strength=strength,
        mode=config.mode,
        eps=config.eps,
        task=meter.at(strength),
        generic=_measured(task, task.generic, strength, config) if task.generic else None,
        sensitivity=float(np.median([s.slope for s in sensitivities])) if sensitivities else None,
        curvature=float(np.percentile([s.curvature for s in sensitivities], 95)) if sensitivities else None,
        n_states=len(sensitivities),
        step_norm=float(task.step.norm()),
        state_norm=state_norm(task, config),
        curve=meter.curve,
    )


def measure_states(task: Task, config: CalibrationConfig) -> list[Sensitivity]:
    """Sensitivity of single next-token distributions to a step at their own state, by central differences.

    For each state the text is cut behind it, so that no other state is steered.
    """
    scale = config.difference * state_norm(task, config) / float(task.step.norm())
    rng = np.random.default_rng(config.seed)
    places = [(r, at) for r in task.responses for at in range(r.start, len(r.ids))]
    chosen = rng.permutation(len(places))[: config.states]
    # A cut response has one token: the state before it is steered, and its logits are read.
    cut = [Response(places[i][0].ids[: places[i][1] + 1], places[i][1]) for i in sorted(chosen)]
    return [found for batch in _batches(cut, config.batch_tokens) for found in _sensitivities(task, batch, scale)]


def state_norm(task: Task, config: CalibrationConfig) -> float:
    """Mean norm of the unsteered states at the block that would be steered."""
    from .capture import Reading, Text, read_states

    texts = [Text(r.ids, tuple(range(r.start - 1, len(r.ids) - 1))) for r in task.responses]
    states = read_states(task.model, Reading(texts, [task.block], config.batch_tokens))
    return float(states.norms[task.block].mean())


def _sensitivities(task: Task, batch: Sequence[Response], scale: float) -> list[Sensitivity]:
    import torch

    with torch.no_grad():
        middle = next_logits(task.model, batch)
        ahead = next_logits(task.model, batch, task.block, scale * task.step)
        behind = next_logits(task.model, batch, task.block, -scale * task.step)
    found = []
    for low, base, high in zip(behind, middle, ahead, strict=True):
        slope, bend = ((high - low) / (2 * scale))[0], ((high - 2 * base + low) / scale**2)[0]
        p = base[0].softmax(-1)
        variance = float((p * slope**2).sum() - (p * slope).sum() ** 2)
        found.append(Sensitivity(float(slope.norm()), max(0.0, variance), float(bend.norm())))
    return found


def _by_rule(states: Sequence[Sensitivity], config: CalibrationConfig) -> float:
    if config.mode == "fisher":
        return fisher_strength(float(np.mean([s.variance for s in states])), config.eps)
    if config.mode == "paper":
        slope = float(np.median([s.slope for s in states]))
        return paper_strength(slope, float(np.percentile([s.curvature for s in states], 95)), config.eps)
    own = [safe_strength(s.slope, s.curvature, config.eps) for s in states]
    return float(np.percentile(own, SHARES[config.aggregate]))


def _bisect(meter: _Meter, config: CalibrationConfig) -> float:
    """Bisection on the logarithm of the strength, between a strength below the budget and one above it."""
    low = high = config.difference * state_norm(meter.task, config) / float(meter.task.step.norm())
    for _ in range(LONGEST_SEARCH):
        if meter.at(low).mean <= config.eps:
            break
        low /= 2
    for _ in range(LONGEST_SEARCH):
        if meter.at(high).mean > config.eps:
            break
        high *= 2
    else:
        return math.inf
    for _ in range(LONGEST_SEARCH):
        middle = math.sqrt(low * high)
        found = meter.at(middle).mean
        if abs(found - config.eps) <= config.tolerance * config.eps:
            return middle
        low, high = (middle, high) if found <= config.eps else (low, middle)
    return low


class _Meter:
    """Measures strengths on the responses, each once; the unsteered distributions are kept."""

    def __init__(self, task: Task, config: CalibrationConfig, on_measured: Callable[[Divergence], None] | None) -> None:
        self.task = task
        self._config = config
        self._on_measured = on_measured
        self._known: dict[float, Divergence] = {}

    @property
    def curve(self) -> tuple[Divergence, ...]:
        return tuple(self._known[strength] for strength in sorted(self._known))

    def at(self, strength: float) -> Divergence:
        if strength not in self._known:
            found = _measured(self.task, self.task.responses, strength, self._config)
            self._known[strength] = found
            if self._on_measured is not None:
                self._on_measured(found)
        return self._known[strength]


def _measured(task: Task, responses: Sequence[Response], strength: float, config: CalibrationConfig) -> Divergence:
    import torch

    found = []
    with torch.no_grad():
        for batch in _batches(responses, config.batch_tokens):
            base = log_probabilities(task.model, batch)
            steered = log_probabilities(task.model, batch, task.block, strength * task.step)
            found.append(divergences(base, steered).clamp(min=0).double().cpu())
    values = torch.cat(found).numpy()
    return Divergence(strength, float(values.mean()), float(np.percentile(values, 95)), float(values.max()))


def _batches(responses: Sequence[Response], batch_tokens: int) -> list[list[Response]]:
    """Responses of like length together, ``batch_tokens`` padded tokens at most (or one response)."""
    ordered = sorted(responses, key=lambda r: -len(r.ids))
    batches: list[list[Response]] = []
    while ordered:
        size = max(1, batch_tokens // len(ordered[0].ids))
        batches.append(ordered[:size])
        ordered = ordered[size:]
    return batches
