"""Adding directions to the residual stream while an engine decodes.

``h <- h + step`` at the output of a block, at the states that predict the model's own output: the last prompt token
(it predicts the first one), then every generated token that is fed back, up to the end of thinking or to the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from cot.engine import Engine, ModelAccess, Row
from cot.thinking import TAG_PAIRS
from eval_math.errors import BadInput, EngineError

from .counting import PromptTokens, SteerCount, Until
from .sites import check_blocks, find_blocks, model_shape, replace_output

if TYPE_CHECKING:
    import torch

PROBE = "1 + 1 = 2. So the answer is 2."

logger = logging.getLogger(__name__)
_steered_blocks: WeakSet[Any] = WeakSet()


@dataclass(frozen=True)
class Steering:
    """What is added where: block -> step (hidden,) float32, strength already in it.

    ``prompt``: also the ``last`` prompt token (it predicts the first output token), ``all`` of them, or ``none``.
    ``until``: stop before the end-of-think token is fed back, so that the answer is written unsteered, or never. With
    a tokenizer that spells the tags with several tokens there is no such token, and the answer is steered as well.
    """

    steps: Mapping[int, torch.Tensor]
    prompt: PromptTokens = "last"
    until: Until = "end_of_think"

    @property
    def idle(self) -> bool:
        """True if every step is zero."""
        return not any(bool(step.any()) for step in self.steps.values())


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
    count = SteerCount(steering.prompt, steering.until, prefix_cache=engine.identity.engine != "hf")
    _warn_of_spelled_tags(engine, steering)
    unsteered = None if steering.idle else (_probe(engine), _probe(engine))
    with ExitStack() as stack:
        stack.callback(access.forget_prefixes)
        stack.callback(access.apply_model(partial(_hook, steering=steering, rows=access.current_rows, count=count)))
        access.forget_prefixes()
        if unsteered is not None:
            _refuse_no_effect(*unsteered, _probe(engine))
        count.clear()
        yield count
    count.raise_gaps()
    if unsteered is not None:
        count.raise_untouched()


def add_step(hidden: torch.Tensor, step: torch.Tensor, spans: Sequence[tuple[Row, int, int]]) -> torch.Tensor:
    """A new tensor: ``hidden`` with ``step`` added in float32 at the spans; other positions keep their bits.

    Args:
        hidden: (batch, time, hidden) or (tokens, hidden).
        step: (hidden,) float32.
        spans: rows with the first and past-the-last sequence position to edit.
    """
    import torch

    step = step.to(hidden.device)
    states = hidden.reshape(-1, hidden.shape[-1])
    places = [place for span in spans for place in _places(*span, width=hidden.shape[-2])]
    if len(places) == len(states):
        return (hidden.float() + step).to(hidden.dtype)
    index = torch.tensor(places, device=hidden.device)
    edited = (states[index].float() + step).to(hidden.dtype)
    return states.index_copy(0, index, edited).view(hidden.shape)


def _places(row: Row, start: int, stop: int, *, width: int) -> range:
    """Where a span stands among the states of all rows, one row of ``width`` tokens after the other."""
    first = row.offset + start - row.first_position + (row.batch_row or 0) * width
    return range(first, first + stop - start)


@dataclass(frozen=True)
class _Edit:
    """The forward hook of one block; the first steered block also counts."""

    step: torch.Tensor
    idle: bool
    rows: Callable[[], list[Row]]
    count: SteerCount
    counts: bool

    def __call__(self, block: Any, arguments: Any, output: Any) -> Any:
        spans = []
        for row in self.rows():
            if self.counts:
                self.count.add(row)
            start, stop = self.count.span(row)
            if start < stop:
                spans.append((row, start, stop))
        if self.idle or not spans:
            return output
        return replace_output(output, partial(add_step, step=self.step, spans=spans))


def _hook(model: Any, *, steering: Steering, rows: Callable[[], list[Row]], count: SteerCount) -> Callable[[], None]:
    """Put the hooks on; returns what takes them off."""
    blocks = find_blocks(model)
    chosen = check_blocks(steering.steps, len(blocks))
    _refuse_steps(model, steering, [b for b in chosen if blocks[b] in _steered_blocks])
    handles = []
    for block in chosen:
        device = next(blocks[block].parameters()).device
        step = steering.steps[block].float().to(device)
        edit = _Edit(step, not bool(step.any()), rows, count, counts=block == chosen[0])
        handles.append(blocks[block].register_forward_hook(edit))
        _steered_blocks.add(blocks[block])

    def remove() -> None:
        for handle in handles:
            handle.remove()
        for block in chosen:
            _steered_blocks.discard(blocks[block])

    return remove


def _refuse_steps(model: Any, steering: Steering, taken: Sequence[int]) -> None:
    if taken:
        raise BadInput(
            f"block {taken[0]} is being steered already; leave that `with` block first, or add the vectors up"
        )
    width = model_shape(model).hidden_size
    for block, step in steering.steps.items():
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
