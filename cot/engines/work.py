"""Requests on their way in and traces on their way out, the same for every engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from eval_math.errors import BadInput, EngineError
from eval_math.records import Finish, Json, Request, Trace

from ..chat import Chat
from ..thinking import Split

DTYPES = ("auto", "float32", "bfloat16", "float16")
OnTrace = Callable[[Trace], None]
Check = Callable[[Request], object]
"""Raises BadInput for a request that cannot run."""


@dataclass(frozen=True)
class Work:
    """A request with its rendered prompt, ready to decode.

    ``ids`` are what the model is shown, the last ``n_prefill`` of them the start of its own output; at most
    ``max_new_tokens`` are generated.
    """

    request: Request
    ids: tuple[int, ...]
    n_prefill: int
    max_new_tokens: int
    started: float

    @property
    def n_prompt(self) -> int:
        """Prompt tokens, prefill left out."""
        return len(self.ids) - self.n_prefill


@dataclass(frozen=True)
class Desk:
    """Admits requests and writes traces for one engine."""

    chat: Chat
    max_model_len: int
    provenance: Mapping[str, Json]
    checks: list[Check] = field(default_factory=list)
    """What every request must pass, besides fitting the model."""

    def add_check(self, check: Check) -> Callable[[], None]:
        """Put every request to ``check`` from now on; returns what ends that."""
        self.checks.append(check)
        return lambda: self.checks.remove(check)

    def admit(self, request: Request) -> Work | Trace:
        """The request ready to decode, or an error trace if it cannot run.

        Raises:
            BadInput: no request with messages can run, as the tokenizer has no chat template.
        """
        started = time.perf_counter()
        try:
            ids = self.chat.render(request)
        except BadInput as error:
            if not self.chat.tokenizer.chat_template:
                raise
            return self.failed(request, str(error))
        refusal = self._refusal(request)
        if refusal is not None:
            return self.failed(request, refusal, len(ids))
        room = self.max_model_len - len(ids)
        if not ids or room < 1:
            return self.failed(request, _no_room(request, len(ids), self.max_model_len), len(ids))
        sampling = request.sampling
        return Work(request, tuple(ids), len(request.prefill_ids), min(sampling.max_tokens, room), started)

    def _refusal(self, request: Request) -> str | None:
        try:
            for check in self.checks:
                check(request)
        except BadInput as error:
            return str(error)
        return None

    def failed(self, request: Request, error: str, n_prompt: int = 0) -> Trace:
        """The trace of a request that did not run."""
        return failed_trace(request, error, {**self.provenance, "seed": request.sampling.seed}, n_prompt)

    def finished(self, work: Work, generated: Sequence[int], finish: Finish) -> Trace:
        """The trace of a finished request; texts end before the first stop string."""
        output = [*work.ids[work.n_prompt :], *generated]
        cut = self.chat.split(work.ids[: work.n_prompt], output)
        text = self.chat.decode(output)
        excess = self._excess(work.request, generated) if finish == "stop" else 0
        thinking, answer = _shortened(cut, excess)
        return Trace(
            problem_id=work.request.problem_id,
            sample=work.request.sample,
            method="",
            text=text[: len(text) - excess],
            thinking=thinking,
            answer_text=answer,
            n_prompt_tokens=work.n_prompt,
            n_thinking_tokens=cut.n_thinking,
            n_answer_tokens=cut.n_answer,
            finish=finish,
            n_forward=len(generated),
            seconds=time.perf_counter() - work.started,
            token_ids=tuple(output),
            provenance={**self.provenance, "seed": work.request.sampling.seed},
        )

    def stop_ids(self, request: Request) -> frozenset[int]:
        """Tokens after which the request's output ends; they stay in it."""
        end = self.chat.tags.end_id
        if request.sampling.stop_at_think_end and end is not None:
            return self.chat.end_ids | {end}
        return self.chat.end_ids

    def stop_texts(self, request: Request) -> tuple[str, ...]:
        """Strings after which the output ends; the end tag among them where it has no id of its own."""
        tags = self.chat.tags
        by_text = request.sampling.stop_at_think_end and tags.end_id is None
        return (*request.sampling.stop, tags.end_text) if by_text else request.sampling.stop

    def _excess(self, request: Request, generated: Sequence[int]) -> int:
        """Characters from the first stop string to the end of the text."""
        if not request.sampling.stop:
            return 0
        text = self.chat.decode(generated)
        found = [at for at in map(text.find, request.sampling.stop) if at >= 0]
        return len(text) - min(found) if found else 0


def failed_trace(request: Request, error: str, provenance: Mapping[str, Json], n_prompt: int = 0) -> Trace:
    """An empty trace with ``finish="error"`` and the reason."""
    return Trace(
        problem_id=request.problem_id,
        sample=request.sample,
        method="",
        text="",
        thinking=None,
        answer_text="",
        n_prompt_tokens=n_prompt,
        n_thinking_tokens=0,
        n_answer_tokens=0,
        finish="error",
        error=error,
        provenance=provenance,
    )


def deliver(traces: Iterable[Trace], on_trace: OnTrace | None) -> Iterator[Trace]:
    """Yield each trace after ``on_trace`` has seen it."""
    for trace in traces:
        if on_trace is not None:
            on_trace(trace)
        yield trace


def check_open(closed: bool, name: str) -> None:
    """Refuse the use of a closed engine."""
    if closed:
        raise EngineError(f"the {name} engine was closed; open it again")


def check_options(options: Mapping[str, Json], known: Iterable[str], engine: str) -> None:
    """Refuse option names that the engine does not know, naming near matches."""
    names = sorted(known)
    for name in options:
        if name not in names:
            near = get_close_matches(name, names, n=3, cutoff=0.5) or names[:12]
            raise BadInput(f"engine {engine}: unknown option {name!r}; did you mean {', '.join(near)}?")


def choose_dtype(name: str, on_cpu: bool) -> str:
    """The dtype behind ``name``; ``auto`` is float32 on CPU and the model's own on a GPU, in every engine.

    Raises:
        BadInput: unknown dtype.
    """
    if name not in DTYPES:
        raise BadInput(f"dtype {name!r} is unknown; choose one of {', '.join(DTYPES)}")
    return "float32" if name == "auto" and on_cpu else name


def check_items(items: Sequence[tuple[Sequence[int], Sequence[int]]], max_model_len: int) -> None:
    """Refuse what cannot be scored, naming the item."""
    for at, item in enumerate(items):
        if not item[0]:
            raise BadInput(f"score: item {at} has no prompt ids; at least one is needed to predict the first token")
        if item_length(item) > max_model_len:
            raise BadInput(f"score: item {at} has {item_length(item)} tokens, max_model_len is {max_model_len}")


def score_request(at: int, item: tuple[Sequence[int], Sequence[int]]) -> Request:
    """A scored item as hooks see it: the completion is its prefill."""
    return Request(problem_id=f"score-{at}", prompt_ids=tuple(item[0]), prefill_ids=tuple(item[1]))


def item_length(item: tuple[Sequence[int], Sequence[int]]) -> int:
    """Tokens of a scored item: prompt and completion."""
    return len(item[0]) + len(item[1])


def _no_room(request: Request, length: int, limit: int) -> str:
    if not length:
        return f"request {request.problem_id!r}: the prompt is empty"
    return (
        f"request {request.problem_id!r}: the prompt has {length} tokens and max_model_len is {limit}; "
        "raise max_model_len or shorten the prompt"
    )


def _shortened(cut: Split, excess: int) -> tuple[str | None, str]:
    """Thinking and answer without the last ``excess`` characters of the text."""
    if not excess:
        return cut.thinking, cut.answer
    if cut.n_answer or cut.thinking is None:
        return cut.thinking, cut.answer[: max(0, len(cut.answer) - excess)]
    return cut.thinking[: max(0, len(cut.thinking) - excess)], cut.answer
