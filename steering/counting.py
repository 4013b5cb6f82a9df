"""Proof that every decoded token was steered: positions are counted as they pass and compared with the traces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from weakref import ReferenceType, ref

from cot.engine import Row
from eval_math.errors import EngineError
from eval_math.records import Request, Trace

Prompt = Literal["last", "all", "none"]
Until = Literal["end_of_think", "eos"]
Key = tuple[str, int]


@dataclass
class _Seen:
    request: ReferenceType[Request]
    next_position: int
    steered: int = 0
    reused: int = 0
    closed_in_prompt: bool = False


class SteerCount:
    """Counts steered positions, each once even if an engine computes it again.

    Positions of one request follow each other; a pass in which the hook did not run leaves a gap, which is counted.
    Positions whose keys and values came from a prefix cache filled under the same steering count as reused.
    """

    def __init__(self, prompt: Prompt, until: Until) -> None:
        self.prompt: Prompt = prompt
        self.until: Until = until
        self.clear()

    def clear(self) -> None:
        """Forget everything seen so far."""
        self.steered = 0
        self.gaps = 0
        self._seen: dict[Key, _Seen] = {}

    def span(self, row: Row) -> tuple[int, int]:
        """First and past-the-last sequence position of this pass to be edited; empty unless first < last."""
        stop = row.first_position + row.length
        if self.until == "end_of_think" and row.think_end is not None:
            stop = min(stop, row.think_end)
        return max(self._start(row.n_prompt), row.first_position), stop

    def add(self, row: Row) -> None:
        """Note that this pass edits the positions of `span`."""
        start, stop = self.span(row)
        seen = self._entry(row)
        if start >= stop:
            return
        self.gaps += max(0, start - seen.next_position)
        fresh = max(0, stop - max(start, seen.next_position))
        seen.steered += fresh
        self.steered += fresh
        seen.next_position = max(seen.next_position, stop)

    def of(self, trace: Trace) -> int:
        """Positions of the latest request behind ``trace`` that were steered, now or when its prefix was cached."""
        seen = self._seen.get((trace.problem_id, trace.sample))
        return 0 if seen is None else seen.steered + seen.reused

    def expected(self, trace: Trace) -> int:
        """Positions that should have been steered for ``trace``: one for each token decoded under steering.

        The state that predicts the first output token is the last prompt token's; the last output token is never fed.
        """
        seen = self._seen.get((trace.problem_id, trace.sample))
        if trace.finish == "error":
            return 0
        if self.until == "end_of_think" and seen is not None and seen.closed_in_prompt:
            return 0
        thought = self.until == "end_of_think" and trace.n_thinking_tokens > 0
        decoded = trace.n_thinking_tokens if thought else trace.n_tokens
        return max(0, decoded + {"last": 0, "all": trace.n_prompt_tokens - 1, "none": -1}[self.prompt])

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

    def _start(self, n_prompt: int) -> int:
        return {"all": 0, "last": max(n_prompt - 1, 0), "none": n_prompt}[self.prompt]

    def _entry(self, row: Row) -> _Seen:
        key = (row.request.problem_id, row.request.sample)
        seen = self._seen.get(key)
        if seen is None or seen.request() is not row.request:
            start = self._start(row.n_prompt)
            closed = row.think_end is not None and row.think_end < row.n_prompt
            reused = 0 if self.until == "end_of_think" and closed else max(0, row.first_position - start)
            seen = _Seen(ref(row.request), start + reused, reused=reused, closed_in_prompt=closed)
            self._seen[key] = seen
        return seen
