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
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

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
    count = SteerCount(steering.prompt, steering.until, prefix_cache=cached, window=steering.window)
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
        stack.callback(access.apply_model(partial(_hook, steering=steering, rows=access.current_rows, count=count)))
        access.forget_prefixes()
        yield


def _prove(engine: Engine, access: ModelAccess, steering: Steering) -> None:
    """Refuse an engine that does not run the hooks: the bare step must move the probe.

    Without the window, since the probe is short, and added, since a clamp may rightly leave every state as it is.
    """
    bare = replace(steering, mode="add", window=ALWAYS, strength=steering.strength or 1.0)
    first, again = _probe(engine), _probe(engine)
    with _hooked(access, bare, SteerCount(bare.prompt, bare.until)):
        _refuse_no_effect(first, again, _probe(engine))


class Share(NamedTuple):
    """The positions of one request in a forward pass that are edited, and how."""

    row: Row
    start: int
    stop: int
    steps: str | None
    strength: float


def edit_states(
    output: Any, shares: Sequence[Share], step_of: Callable[[str | None], torch.Tensor], how: Steering
) -> Any:
    """What a block returned with its states edited in float32 at the shares; other positions keep their bits.

    Args:
        output: (batch, time, hidden) or (tokens, hidden), alone or first in a tuple; see `block_output`.
        step_of: the step (hidden,) float32 of a name.
    """
    import torch

    states = block_output(output)
    flat, width = states.reshape(-1, states.shape[-1]), states.shape[-2]
    places = [place for share in shares for place in _places(share, width)]
    weights = _weights(shares, how.window)
    one = len({share.steps for share in shares}) == 1
    steps = step_of(shares[0].steps).to(flat.device)
    if not one:
        steps = torch.cat([step_of(s.steps).to(flat.device).expand(s.stop - s.start, -1) for s in shares])
    index = None if len(places) == len(flat) else torch.tensor(places)
    chosen = flat if index is None else flat[index.to(flat.device)]
    moved = change(how.mode, chosen.float(), steps, weights.to(flat.device))

    def put(additive: torch.Tensor) -> torch.Tensor:
        rows = additive.reshape(-1, additive.shape[-1])
        old = rows if index is None else rows[index.to(rows.device)]
        edited = (old.float() + moved).to(additive.dtype)
        whole = edited if index is None else rows.index_copy(0, index.to(rows.device), edited)
        return whole.view(additive.shape)

    return replace_output(output, put)


def _places(share: Share, width: int) -> range:
    """Where a share stands among the states of all rows, one row of ``width`` tokens after the other."""
    row = share.row
    first = row.offset + share.start - row.first_position + (row.batch_row or 0) * width
    return range(first, first + share.stop - share.start)


def _weights(shares: Sequence[Share], window: Window) -> torch.Tensor:
    """(states, 1) or, where all are alike, (1, 1) float32."""
    import torch

    if window.fade_tokens is None:
        if len({share.strength for share in shares}) == 1:
            return torch.tensor([[shares[0].strength]], dtype=torch.float32)
        found = [[share.strength] for share in shares for _ in range(share.stop - share.start)]
        return torch.tensor(found, dtype=torch.float32)
    places = [(share, at - share.row.n_prompt + 1) for share in shares for at in range(share.start, share.stop)]
    return torch.tensor([[share.strength * window.weight(token)] for share, token in places], dtype=torch.float32)


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

    def __call__(self, module: Any, arguments: Any, output: Any) -> Any:
        shares = [share for row in self.rows() if (share := self._share(row)) is not None]
        return edit_states(output, shares, self._step, self.steering) if shares else output

    def _share(self, row: Row) -> Share | None:
        start, stop = self.count.add(row) if self.counts else self.count.span(row)
        # Most requests choose nothing; this runs for each of them in every pass.
        name, strength = self.steering.chosen(row.request) if row.request.extras else (None, self.steering.strength)
        if start >= stop or name not in self.moving:
            return None
        return None if self.steering.still(strength) else Share(row, start, stop, name, strength)

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
