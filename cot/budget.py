"""Cutting the chain of thought at a token budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

from eval_math.errors import BadInput
from eval_math.records import Request, Trace

from .engine import Engine
from .method import Method
from .thinking import TAG_PAIRS, ThinkTags

WINDOW_BATCHES = 4
DEFAULT_WINDOW = 256


@dataclass(frozen=True)
class Cut(Method):
    """Thinking ends after ``tokens`` tokens, then the answer is written: the null baseline of every shortening method.

    Phase one decodes thinking up to the budget; phase two appends the end tag where thinking had not ended by itself,
    and decodes the answer. The tag counts as thinking, so thinking never has more than ``tokens`` tokens; tokens of
    ``forced`` count as answer. The limit of the request holds for both phases together; thinking that leaves nothing
    of it for an answer gives a trace with finish ``length``.
    """

    name: ClassVar[str] = "cut"
    summary: ClassVar[str] = "thinking cut at a budget, answer forced"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "prefill"})

    tokens: int = 256
    """Budget of thinking tokens, the end tag included, so at least one more than the tag has."""
    forced: str = ""
    """Text that opens the answer of a cut chain of thought, e.g. ``The answer is``."""
    end: str = "</think>"
    """The model's end-of-think tag."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadInput(f"method cut: tokens={self.tokens}, at least 1 is expected (no thinking at all: nothink)")

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """Both phases over a window of requests at a time, so that results come in while the run goes on.

        Raises:
            BadInput: ``end`` is not the model's end tag, or ``tokens`` leaves no room for a thought before it.
        """
        self.check(engine)
        source = iter(requests)
        window = _window(engine)
        while chunk := list(islice(source, window)):
            yield from self._run(engine, chunk)

    def check(self, engine: Engine) -> None:
        """Refuse a tag that is not the model's, and a budget without room for a thought before it.

        Raises:
            BadInput: names what was given and what would do.
        """
        known = _end_tag(engine)
        if self.end != known:
            raise BadInput(f"method cut: end={self.end!r} is not the model's end tag; give end={known}")
        n_end = len(engine.encode(self.end))
        if self.tokens <= n_end:
            raise BadInput(
                f"method cut: tokens={self.tokens}, but the end tag alone takes {n_end}; "
                f"give at least {n_end + 1} (no thinking at all: nothink)"
            )

    def _run(self, engine: Engine, requests: list[Request]) -> Iterator[Trace]:
        asked = {(request.problem_id, request.sample): request for request in requests}
        end = tuple(engine.encode(self.end))
        thoughts: dict[tuple[str, int], Trace] = {}
        answers: list[Request] = []
        for trace in engine.generate([self._thinking(request, len(end)) for request in requests]):
            unit = (trace.problem_id, trace.sample)
            answer = self._answer(engine, asked[unit], trace, end)
            if answer is None:
                yield replace(trace, finish="length") if self._stopped_thinking(trace) else trace
            else:
                thoughts[unit] = trace
                answers.append(answer)
        for trace in engine.generate(answers) if answers else ():
            yield _joined(thoughts[trace.problem_id, trace.sample], trace)

    def _thinking(self, request: Request, n_end: int) -> Request:
        most = min(self.tokens - n_end, request.sampling.max_tokens)
        return replace(request, sampling=replace(request.sampling, max_tokens=most, stop_at_think_end=True))

    def _answer(self, engine: Engine, request: Request, trace: Trace, end: tuple[int, ...]) -> Request | None:
        """The request of phase two; None if phase one already gave the final trace."""
        if trace.finish == "error":
            return None
        if trace.token_ids is None:
            raise BadInput(f"method cut needs token ids in the traces, which engine {engine.identity.engine} left out")
        spent = len(trace.token_ids) - len(request.prefill_ids)
        if self.end in trace.text or (trace.finish == "length" and trace.thinking is None):
            return self._rest(request, trace.token_ids, spent)
        if trace.finish == "stop":
            return None
        added = (*end, *engine.encode(self.forced)) if self.forced else end
        return self._rest(request, (*trace.token_ids, *added), spent + len(added))

    def _stopped_thinking(self, trace: Trace) -> bool:
        return trace.finish == "stop" and self.end in trace.text

    def _rest(self, request: Request, output: tuple[int, ...], spent: int) -> Request | None:
        left = request.sampling.max_tokens - spent
        if left < 1:
            return None
        return replace(request, prefill_ids=output, sampling=replace(request.sampling, max_tokens=left))


def _end_tag(engine: Engine) -> str:
    """The model's end tag, chosen as `find_tags` does: of the first pair of single tokens, else the usual one."""
    single = (end for start, end in TAG_PAIRS if len(engine.encode(start)) == len(engine.encode(end)) == 1)
    return next(single, ThinkTags.end_text)


def _window(engine: Engine) -> int:
    batch = engine.identity.settings.get("batch_size")
    return WINDOW_BATCHES * batch if isinstance(batch, int) else DEFAULT_WINDOW


def _joined(thought: Trace, whole: Trace) -> Trace:
    """The second trace, which holds the whole output, with the work of both; ``cut`` says that thinking was ended."""
    return replace(
        whole,
        n_forward=thought.n_forward + whole.n_forward,
        seconds=thought.seconds + whole.seconds,
        provenance={**whole.provenance, "cut": thought.finish == "length" and thought.thinking is not None},
    )
