"""Evidence that decoded tokens were steered: positions are counted as they pass, and gaps between them refused.

`SteerCount.mismatches` also compares the counts with traces, for a caller who has them; `steer` itself does not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal
from weakref import ReferenceType, ref

from cot.engine import Row
from eval_math.errors import BadInput, EngineError
from eval_math.records import Request, Trace

PromptTokens = Literal["last", "all", "none"]
Until = Literal["end_of_think", "eos"]
Key = tuple[str, int]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """Which output tokens are steered, through the states that predict them: ``start`` to ``stop`` - 1, from 0.

    Prompt tokens before the last one belong to no output token; they are steered only if ``start`` is 0. With
    ``fade_tokens`` the weight falls linearly from 1 at the first output token to 0 at that number.
    """

    start: int = 0
    stop: int | None = None
    fade_tokens: int | None = None

    def __post_init__(self) -> None:
        stop = self.start + 1 if self.stop is None else self.stop
        if not 0 <= self.start < stop or (self.fade_tokens is not None and self.fade_tokens < 1):
            raise BadInput(f"steering window {self}: 0 <= start < stop and fade_tokens of 1 or more are expected")

    def weight(self, token: int) -> float:
        """The weight at output token ``token``; negative numbers are prompt tokens."""
        return 1.0 if self.fade_tokens is None else max(0.0, 1 - max(0, token) / self.fade_tokens)


ALWAYS = Window()


@dataclass
class _Seen:
    request: ReferenceType[Request]
    next_position: int
    steered: int = 0
    reused: int = 0
    closed_in_prompt: bool = False
    opened_at: int = 0
    ended: bool = False
    in_prompt: int = 0
    """Prompt positions among those steered or reused."""


class SteerCount:
    """Counts steered positions, each once even if an engine computes it again.

    Positions of one request follow each other; a pass in which the hook did not run leaves a gap, which is counted.
    Positions whose keys and values came from a prefix cache filled under the same steering count as reused; for an
    engine without such a cache they are a gap. After a prompt that closed thinking nothing is steered, unless the
    output starts with a start tag: then from that tag on.

    With a ``gate`` only positions whose token is in it are steered and counted; a gap is a gap all the same.
    """

    def __init__(
        self,
        prompt: PromptTokens,
        until: Until,
        *,
        prefix_cache: bool = True,
        window: Window = ALWAYS,
        gate: frozenset[int] | None = None,
    ) -> None:
        self.prompt: PromptTokens = prompt
        self.until: Until = until
        self.window = window
        self.gate = gate
        self.prefix_cache = prefix_cache
        self.clear()

    def clear(self) -> None:
        """Forget everything seen so far."""
        self.steered = 0
        self.gaps = 0
        self._seen: dict[Key, _Seen] = {}

    def span(self, row: Row) -> tuple[int, int]:
        """First and past-the-last sequence position of this pass to be edited; empty unless first < last."""
        start, stop = max(self._start(row.n_prompt), row.first_position), row.first_position + row.length
        if self.window.stop is not None:
            stop = min(stop, row.n_prompt - 1 + self.window.stop)
        if self.until == "eos":
            return start, stop
        if _closed_in_prompt(row):
            return start, start
        seen = self._seen.get(_key(row))
        if seen is not None and seen.request() is row.request:
            start = max(start, seen.opened_at)
        return start, stop if row.think_end is None else min(stop, row.think_end)

    def places(self, row: Row, start: int, stop: int) -> Collection[int]:
        """Which of the positions ``start ... stop - 1`` the gate lets through; those whose tokens ``row`` tells."""
        if self.gate is None:
            return range(start, stop)
        after = row.first_position + row.length
        first = max(start, after - len(row.ids))
        return [position for position in range(first, stop) if row.ids[position - after] in self.gate]

    def add(self, row: Row) -> tuple[int, int]:
        """Note that this pass edits the positions of `span` (with a gate, of `places`), and return the span."""
        request, first, length, end = row.request, row.first_position, row.length, row.think_end
        seen = self._seen.get((request.problem_id, request.sample))
        if length == 1 and seen is not None and not seen.closed_in_prompt and seen.request() is request:
            # Most rows of most passes: one more token of the thinking, or one after it. Nothing else can change then.
            if end is None and first == seen.next_position >= row.n_prompt and self.window.stop is None:
                seen.next_position = first + 1
                if self.gate is None or row.ids[-1] in self.gate:
                    seen.steered += 1
                    self.steered += 1
                return first, first + 1
            if end is not None and seen.ended and end < first and self.until == "end_of_think":
                return first, first
        return self._add(row)

    def _add(self, row: Row) -> tuple[int, int]:
        seen = self._entry(row)
        self._follow(seen, row)
        start, stop = self.span(row)
        if start >= stop:
            return start, stop
        self.gaps += max(0, start - seen.next_position)
        fresh = self.places(row, max(start, seen.next_position), stop)
        seen.steered += len(fresh)
        self.steered += len(fresh)
        seen.in_prompt += _below(fresh, row.n_prompt)
        seen.next_position = max(seen.next_position, stop)
        return start, stop

    def of(self, trace: Trace) -> int:
        """Positions of the latest request behind ``trace`` that were steered, now or when its prefix was cached."""
        seen = self._seen.get((trace.problem_id, trace.sample))
        return 0 if seen is None else seen.steered + seen.reused

    def expected(self, trace: Trace) -> int:
        """Positions that should have been steered for ``trace``: one for each token decoded under steering.

        The state that predicts the first output token is the last prompt token's; the last output token is never fed.
        With a gate, output tokens are looked up in the trace; a trace holds no prompt tokens, theirs are as counted.
        """
        seen = self._seen.get((trace.problem_id, trace.sample))
        if trace.finish == "error":
            return 0
        if seen is not None and seen.closed_in_prompt:
            return 0
        if seen is not None and seen.opened_at:
            return self._gated(trace, seen.opened_at + 1 - trace.n_prompt_tokens, trace.n_thinking_tokens)
        thought = self.until == "end_of_think" and trace.n_thinking_tokens > 0
        decoded = trace.n_thinking_tokens if thought else trace.n_tokens
        return self._gated(trace, {"last": 0, "all": 1 - trace.n_prompt_tokens, "none": 1}[self.prompt], decoded)

    def _gated(self, trace: Trace, first: int, stop: int) -> int:
        found = self._within(first, stop)
        if self.gate is None:
            return len(found)
        seen = self._seen.get((trace.problem_id, trace.sample))
        ids = trace.token_ids or ()
        fed = sum(ids[token - 1] in self.gate for token in found if token > 0)
        return fed + (0 if seen is None else seen.in_prompt)

    def _within(self, first: int, stop: int) -> range:
        """Those of the output tokens ``first ... stop - 1`` that the window holds; prompt tokens are negative."""
        if self.window.start:
            first = max(first, self.window.start)
        if self.window.stop is not None:
            stop = min(stop, self.window.stop)
        return range(first, stop)

    def mismatches(self, traces: Iterable[Trace]) -> dict[Key, tuple[int, int]]:
        """(counted, expected) of the traces where the two differ."""
        pairs = {(t.problem_id, t.sample): (self.of(t), self.expected(t)) for t in traces}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def raise_gaps(self) -> None:
        """Refuse a run in which some decoded positions were not steered.

        Raises:
            EngineError: with the number of positions.
        """
        if self.gaps:
            raise EngineError(
                f"steering missed {self.gaps} decoded positions ({self.steered} were steered): the engine ran passes "
                "without its hooks; start it with enforce_eager=true and do not use these traces"
            )

    def raise_untouched(self) -> None:
        """Refuse a run that thought without any steered position; warn of one that was not steered at all.

        Raises:
            EngineError: thinking went by and ended in the output of some request, and nothing was steered.
        """
        if self.steered or not self._seen:
            return
        n = len(self._seen)
        if any(seen.ended for seen in self._seen.values()) and not self.window.start and self.gate is None:
            raise EngineError(
                f"steering: thinking tokens were decoded and no position of {n} request(s) was steered; do not use "
                "these traces and report this with the engine's version"
            )
        logger.warning(
            "steering touched none of %d request(s): thinking was closed before their outputs began, they ended before "
            "the window, no token of the gate was fed, or nothing that they generated was fed back; let the chat "
            "template open thinking, or steer with until=eos",
            n,
        )

    def _start(self, n_prompt: int) -> int:
        start = {"all": 0, "last": max(n_prompt - 1, 0), "none": n_prompt}[self.prompt]
        return max(start, n_prompt - 1 + self.window.start) if self.window.start else start

    def _follow(self, seen: _Seen, row: Row) -> None:
        """Note whether thinking is still closed by the prompt, begins anew or has ended in the output."""
        seen.ended |= row.think_end is not None and row.think_end > row.n_prompt
        if not seen.closed_in_prompt:
            return
        if _closed_in_prompt(row):
            seen.next_position = max(seen.next_position, row.first_position + row.length)
        else:
            seen.closed_in_prompt, seen.opened_at = False, seen.next_position

    def _entry(self, row: Row) -> _Seen:
        key = _key(row)
        seen = self._seen.get(key)
        if seen is None or seen.request() is not row.request:
            start = self._start(row.n_prompt)
            closed = self.until == "end_of_think" and _closed_in_prompt(row)
            reused = range(start, row.first_position if self.prefix_cache and not closed else start)
            places = self.places(row, start, max(start, reused.stop))
            seen = _Seen(
                ref(row.request),
                max(start, reused.stop),
                reused=len(places),
                closed_in_prompt=closed,
                in_prompt=_below(places, row.n_prompt),
            )
            self._seen[key] = seen
        return seen


def _below(places: Collection[int], n_prompt: int) -> int:
    return sum(place < n_prompt for place in places)


def _key(row: Row) -> Key:
    return row.request.problem_id, row.request.sample


def _closed_in_prompt(row: Row) -> bool:
    return row.think_end is not None and row.think_end < row.n_prompt
