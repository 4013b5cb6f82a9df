"""Adding directions to the residual stream while an engine decodes.

``h <- h + strength * step`` (or another operator) at the output of a block, at the states that predict the model's own
output: the last prompt token (it predicts the first one), then every generated token that is fed back, up to the end of
thinking or to the end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakSet, ref

from cot.engine import Engine, ModelAccess, Row
from cot.thinking import TAG_PAIRS
from eval_math.errors import BadInput, EngineError
from eval_math.records import Request

from .counting import ALWAYS, PromptTokens, SteerCount, Until, Window
from .operators import MODES, STILL_AT_ZERO, Mode, change
from .sites import block_output, check_blocks, find_blocks, model_shape, replace_output

if TYPE_CHECKING:
    import torch

PROBE = "1 + 1 = 2. So the answer is 2."

logger = logging.getLogger(__name__)
_steered_blocks: WeakSet[Any] = WeakSet()


Steps = Mapping[int, "torch.Tensor"]
"""Block -> step (hidden,) float32, as it is added at a strength of 1."""


@dataclass(frozen=True)
class Steering:
    """What is done where.

    ``prompt``: also the ``last`` prompt token (it predicts the first output token), ``all`` of them, or ``none``.
    ``until``: stop before the end-of-think token is fed back, so that the answer is written unsteered, or never. With
    a tokenizer that spells the tags with several tokens there is no such token, and the answer is steered as well.

    A request may choose for itself, in one batch with others: its extras ``steer_scale`` (a number that multiplies
    ``strength``; 0 is unsteered) and ``steer_vector`` (a name in ``vectors``) win over what stands here.
    """

    steps: Steps
    prompt: PromptTokens = "last"
    until: Until = "end_of_think"
    strength: float = 1.0
    """Multiplies the steps; for ``ablate`` the share of the projection that is taken out."""
    mode: Mode = "add"
    window: Window = ALWAYS
    vectors: Mapping[str, Steps] = field(default_factory=dict)
    """Other steps by name, for requests that ask for them; at the same blocks."""
    gate: frozenset[int] | None = None
    """Steer only states whose fed token is one of these; None = all."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BadInput(f"steering mode {self.mode!r} is unknown; choose one of {', '.join(MODES)}")
        if not math.isfinite(self.strength):
            raise BadInput(f"steering strength {self.strength} given, a finite number is expected")
        for name, steps in self.vectors.items():
            if set(steps) != set(self.steps):
                raise BadInput(
                    f"vector {name!r} has steps at blocks {sorted(steps)}, the others at {sorted(self.steps)}"
                )

    @property
    def idle(self) -> bool:
        """True if nothing is changed unless a request asks for it."""
        return self.still(self.strength) or not any(bool(step.any()) for step in self.steps.values())

    def still(self, strength: float) -> bool:
        """True if that strength leaves every state as it is, whatever the step."""
        return strength == 0 and self.mode in STILL_AT_ZERO

    def chosen(self, request: Request) -> tuple[str | None, float]:
        """Name of the steps and strength for one request.

        Raises:
            BadInput: an extra of the request is no number, or names no vector.
        """
        name, scale = request.extras.get("steer_vector"), request.extras.get("steer_scale", 1.0)
        known = isinstance(name, str) and name in self.vectors
        if name is not None and not known:
            raise BadInput(
                f"request {request.problem_id!r} asks for steer_vector {name!r}; known: "
                f"{', '.join(self.vectors) or 'none'}"
            )
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise BadInput(f"request {request.problem_id!r}: steer_scale {scale!r}, a finite number is expected")
        return (name if isinstance(name, str) else None), self.strength * float(scale)


@contextmanager
def steer(engine: Engine, steering: Steering) -> Iterator[SteerCount]:
    """Steer everything ``engine`` decodes inside the ``with`` block; the model is as before afterwards, also on error.

    A short probe at entry proves that the hooks act; at exit, the positions that were steered are checked to have no
    gap, and a run in which none was is logged. Prefix caches are dropped at both ends.

    Raises:
        BadInput: the engine cannot be steered, runs a compiled model, a block is out of range, already steered or of
            another width.
        EngineError: the probe moved nothing, or some decoded positions or all thinking went unsteered.
    """
    access = _access(engine)
    cached = engine.identity.engine != "hf"
    count = SteerCount(steering.prompt, steering.until, prefix_cache=cached, window=steering.window, gate=steering.gate)
    _warn_of_spelled_tags(engine, steering)
    if not steering.idle:
        _prove(engine, access, steering)
    with _hooked(access, steering, count):
        yield count
    count.raise_gaps()
    if not steering.idle:
        count.raise_untouched()


@contextmanager
def _hooked(access: ModelAccess, steering: Steering, count: SteerCount) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(access.forget_prefixes)
        stack.callback(access.check_requests(steering.chosen))
        stack.callback(access.apply_model(partial(_hook, steering=steering, rows=access.current_rows, count=count)))
        access.forget_prefixes()
        yield


def _prove(engine: Engine, access: ModelAccess, steering: Steering) -> None:
    """Refuse an engine that does not run the hooks: the bare step must move the probe.

    Without window and gate, since the probe is short, and added, since a clamp may rightly leave every state as it is.
    """
    bare = replace(steering, mode="add", window=ALWAYS, gate=None, strength=steering.strength or 1.0)
    first, again = _probe(engine), _probe(engine)
    with _hooked(access, bare, SteerCount(bare.prompt, bare.until)):
        _refuse_no_effect(first, again, _probe(engine))


@dataclass
class Edits:
    """States of a forward pass that are edited, one entry each: where among all, by which steps, how strongly."""

    places: list[int] = field(default_factory=list)
    steps: list[str | None] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def edit_states(output: Any, edits: Edits, step_of: Callable[[str | None], torch.Tensor], mode: Mode) -> Any:
    """What a block returned with its states edited in float32; other positions keep their bits.

    Args:
        output: (batch, time, hidden) or (tokens, hidden), alone or first in a tuple; see `block_output`. Places count
            the rows of a batch one after the other.
        step_of: the step (hidden,) float32 of a name.
    """
    import torch

    additive = output[0] if isinstance(output, tuple) else output
    count = additive.shape[:-1].numel()
    index = None if len(edits.places) == count else torch.tensor(edits.places, device=additive.device)
    steps, weights = _gathered(edits, step_of, additive.device)
    # Adding needs no look at the states, and with vLLM that would be one more sum of two tensors.
    states = additive if mode == "add" else block_output(output)
    moved = change(mode, _taken(states, index).float(), steps, weights)

    def put(additive: torch.Tensor) -> torch.Tensor:
        edited = (_taken(additive, index).float() + moved).to(additive.dtype)
        if index is None:
            return edited.view(additive.shape)
        return additive.reshape(-1, additive.shape[-1]).index_copy(0, index, edited).view(additive.shape)

    return replace_output(output, put)


def _taken(states: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    """(edited states, hidden)."""
    flat = states.reshape(-1, states.shape[-1])
    return flat if index is None else flat[index]


def _gathered(
    edits: Edits, step_of: Callable[[str | None], torch.Tensor], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps (states, hidden) or (hidden,), weights (states, 1) or (1, 1), the latter where all are alike."""
    import torch

    names = list(dict.fromkeys(edits.steps))
    steps = step_of(names[0]).to(device)
    if len(names) > 1:
        order = torch.tensor([names.index(name) for name in edits.steps], device=device)
        steps = torch.stack([step_of(name).to(device) for name in names])[order]
    alike = edits.weights.count(edits.weights[0]) == len(edits.weights)
    weights = torch.tensor(edits.weights[:1] if alike else edits.weights, dtype=torch.float32, device=device)
    return steps, weights[:, None]


Choice = tuple[ReferenceType[Request], str | None, float]


@dataclass(frozen=True)
class _Edit:
    """The forward hook of one block; the first steered block also counts."""

    block: int
    steering: Steering
    moving: frozenset[str | None]
    """Names of the steps that are not zero at this block."""
    rows: Callable[[], list[Row]]
    count: SteerCount
    counts: bool
    choices: dict[int, Choice] = field(default_factory=dict)
    """What running requests chose, by id."""

    def __call__(self, module: Any, arguments: Any, output: Any) -> Any:
        edits, span = Edits(), self.count.add if self.counts else self.count.span
        for row in self.rows():
            start, stop = span(row)
            if start < stop:
                self._collect(edits, row, start, stop, output)
        return edit_states(output, edits, self._step, self.steering.mode) if edits.places else output

    def _collect(self, edits: Edits, row: Row, start: int, stop: int, output: Any) -> None:
        """Add a row's states. This runs for every row of every pass, mostly for one state."""
        steering = self.steering
        name, strength = self._chosen(row.request) if row.request.extras else (None, steering.strength)
        if name not in self.moving or (strength == 0 and steering.still(0)):
            return
        shift = row.offset - row.first_position
        if row.batch_row:
            shift += row.batch_row * (output[0] if isinstance(output, tuple) else output).shape[-2]
        places = self.count.places(row, start, stop) if steering.gate is not None else range(start, stop)
        fade, before = steering.window.fade_tokens, row.n_prompt - 1
        for at in places:
            edits.places.append(shift + at)
            edits.steps.append(name)
            edits.weights.append(strength if fade is None else strength * steering.window.weight(at - before))

    def _chosen(self, request: Request) -> tuple[str | None, float]:
        """`Steering.chosen`, remembered: a request asks for the same in each of its passes."""
        key = id(request)
        known = self.choices.get(key)
        if known is None or known[0]() is not request:
            known = (ref(request, lambda _: self.choices.pop(key, None)), *self.steering.chosen(request))
            self.choices[key] = known
        return known[1], known[2]

    def _step(self, name: str | None) -> torch.Tensor:
        return (self.steering.steps if name is None else self.steering.vectors[name])[self.block]


def _hook(model: Any, *, steering: Steering, rows: Callable[[], list[Row]], count: SteerCount) -> Callable[[], None]:
    """Put the hooks on; returns what takes them off."""
    blocks = find_blocks(model)
    chosen = check_blocks(steering.steps, len(blocks))
    _refuse_steps(model, steering, [b for b in chosen if blocks[b] in _steered_blocks])
    handles = []
    placed = _placed(steering, {block: next(blocks[block].parameters()).device for block in chosen})
    for block in chosen:
        named = {None: placed.steps, **placed.vectors}
        moving = frozenset(name for name, steps in named.items() if bool(steps[block].any()))
        edit = _Edit(block, placed, moving, rows, count, counts=block == chosen[0])
        handles.append(blocks[block].register_forward_hook(edit))
        _steered_blocks.add(blocks[block])

    def remove() -> None:
        for handle in handles:
            handle.remove()
        for block in chosen:
            _steered_blocks.discard(blocks[block])

    return remove


def _placed(steering: Steering, devices: Mapping[int, torch.device]) -> Steering:
    """The same with every step in float32 on its block's device: a sharded model has several."""

    def moved(steps: Steps) -> Steps:
        return {block: step.float().to(devices[block]) for block, step in steps.items()}

    vectors = {name: moved(steps) for name, steps in steering.vectors.items()}
    return replace(steering, steps=moved(steering.steps), vectors=vectors)


def _refuse_steps(model: Any, steering: Steering, taken: Sequence[int]) -> None:
    if taken:
        raise BadInput(
            f"block {taken[0]} is being steered already; leave that `with` block first, or add the vectors up"
        )
    width = model_shape(model).hidden_size
    given = [entry for steps in (steering.steps, *steering.vectors.values()) for entry in steps.items()]
    for block, step in given:
        if tuple(step.shape) != (width,):
            raise BadInput(
                f"block {block}: a step of shape {tuple(step.shape)} given, the model's hidden_size is {width}"
            )


def _access(engine: Engine) -> ModelAccess:
    name = engine.identity.engine
    if "steer" not in engine.capabilities or not isinstance(engine, ModelAccess):
        raise BadInput(f"engine {name!r} cannot be steered, its model is not in this process; use hf or vllm")
    if not engine.eager:
        raise BadInput(
            f"engine {name!r} runs a compiled model, which ignores hooks added later: steering would silently do "
            "nothing; start the engine with enforce_eager=true"
        )
    return engine


def _warn_of_spelled_tags(engine: Engine, steering: Steering) -> None:
    single = any(all(len(engine.encode(tag)) == 1 for tag in pair) for pair in TAG_PAIRS)
    if steering.until == "end_of_think" and not steering.idle and not single:
        logger.warning(
            "steering until the end of thinking: the tokenizer of %s spells the think tags with several tokens, so the "
            "end is not seen and the answer is steered as well",
            engine.identity.model,
        )


def _probe(engine: Engine) -> list[float]:
    ids = engine.encode(PROBE)
    return engine.score([(ids, ids)])[0]


def _refuse_no_effect(first: list[float], again: list[float], steered: list[float]) -> None:
    noise = max(abs(a - b) for a, b in zip(first, again, strict=True))
    moved = max(abs(a - b) for a, b in zip(first, steered, strict=True))
    if moved <= 3 * noise:
        raise EngineError(
            f"steering has no effect: a probe's log-probabilities moved by {moved:.1e} nats (noise {noise:.1e}); the "
            "strength is too small for the model's number format, or the engine does not run the hooks"
        )
