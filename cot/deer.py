"""DEER (arXiv 2504.15895): dynamic early exit, once a trial answer is given with confidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

from eval_math.errors import BadInput
from eval_math.records import Json, Request, Trace

from .chat import Chat
from .datagen.prompt_files import prompts_hash
from .engine import Engine
from .phases import Course, Phased, chat_of, check_end_tag, end_tag, ids_of, model_wording

Mean = Literal["geometric", "arithmetic", "min"]


@dataclass
class Trial(Course):
    """A course with the trial under way: ``thought`` before the boundary, ``resumed`` with it, ``decoded`` the trial's
    ids after those it was ``asked`` with."""

    thought: tuple[int, ...] = ()
    resumed: tuple[int, ...] = ()
    asked: Request | None = None
    decoded: tuple[int, ...] = ()


@dataclass(frozen=True)
class Deer(Phased):
    """Thinking stops wherever the model writes ``boundary``; a cue then asks for the answer, decoded greedily. If the
    tokens of this trial are likely enough on average, thinking is closed and the answer written; else the model goes
    on from its own boundary, as if nothing had been asked.

    Trials are charged: their tokens, the cue among them, are probe tokens, within the request's limit like all others,
    and each costs one forward pass more for its log-probabilities. Never confident, the method is plain greedy
    generation, id for id. Cue, its stop and what closes the thinking are per-model data (``cot/prompts/phases.json``).

    Departures: trials are greedy at any temperature (the released code leaves theirs unset, which samples at 1); the
    mean is geometric, as in the paper's text (the released default is arithmetic); an empty trial has confidence 0.
    """

    name: ClassVar[str] = "deer"
    summary: ClassVar[str] = "thinking ends once a trial answer is confident"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "prefill", "score"})

    threshold: float = 0.95
    """Confidence that a trial must exceed."""
    mean: Mean = "geometric"
    """Of the probabilities of the trial's tokens: geometric, arithmetic or min."""
    probes: int = 10
    """Most trials per request."""
    boundary: str = "Wait"
    """Text at which a thought may end."""
    probe_tokens: int = 20
    """Most tokens of a trial."""
    think_share: float = 0.9
    """Share of the request's limit that thinking may take."""
    cue: str | None = None
    """Text that asks for the answer; none = the model's own, its stop with it."""
    tokenizer: str | None = None
    """Folder with the model's tokenizer, for models served from elsewhere."""

    def __post_init__(self) -> None:
        checks = {
            "threshold": self.threshold >= 0,
            "mean": self.mean in ("geometric", "arithmetic", "min"),
            "probes": self.probes >= 0,
            "boundary": bool(self.boundary),
            "probe_tokens": self.probe_tokens >= 1,
            "think_share": 0 < self.think_share <= 1,
        }
        for field, good in checks.items():
            if not good:
                raise BadInput(f"method deer: {field}={getattr(self, field)!r} is out of range")

    def check(self, engine: Engine) -> None:
        """Refuse a model whose tokenizer is not at hand.

        Raises:
            BadInput: says what to give.
        """
        chat_of(engine, self.tokenizer)
        check_end_tag(engine, self.name, end_tag(engine))

    def fingerprint(self) -> dict[str, Json]:
        """Parameters and a hash of the wording; the tokenizer is the model's."""
        shown = {name: value for name, value in super().fingerprint().items() if name != "tokenizer"}
        return {**shown, "wording": prompts_hash("phases")}

    def course(self, request: Request) -> Course:
        """With room for a trial."""
        return Trial(request)

    def first(self, engine: Engine, course: Course) -> Request:
        """Thinking, to the first boundary.

        Raises:
            BadInput: the limit leaves no room for a thought.
        """
        found = self._think(engine, course, course.request.prefill_ids)
        if found is None:
            given = course.request.sampling.max_tokens
            raise BadInput(f"method deer: max_tokens={given} leaves no room for thinking; give more")
        return found

    def then(self, engine: Engine, course: Course, trace: Trace) -> Request | Trace | None:
        """A trial at a boundary, the answer after the end of thinking."""
        if course.stage == "probe":
            return self._tried(course, trace)
        course.kept = trace
        if course.stage == "answer":
            return trace
        output = ids_of(trace, self.name)
        if end_tag(engine) in trace.text:
            return self._answer(engine, course, output, "own")
        if trace.finish == "stop":
            return self._boundary(engine, course, trace, output)
        if trace.thinking is None:
            return course.go_on(engine, output) or course.cut_off()
        return self._close(engine, course, output, "budget")

    def settle(self, engine: Engine, waiting: list[Course]) -> Iterator[tuple[Course, Request | Trace]]:
        """Exit or think on, by the log-probabilities of the trials."""
        trials = [course for course in waiting if isinstance(course, Trial) and course.asked is not None]
        items = [(engine.prompt_ids(trial.asked), list(trial.decoded)) for trial in trials if trial.asked]
        for trial, scores in zip(trials, engine.score(items) if items else [], strict=True):
            trial.n_forward += 1
            yield trial, self._decide(engine, trial, scores)

    def _think(self, engine: Engine, course: Course, output: tuple[int, ...]) -> Request | None:
        budget = int(self.think_share * course.request.sampling.max_tokens)
        most = budget - len(self._closing(engine)) - course.n_generated(output)
        stop = course.request.sampling.stop
        if course.count < self.probes:
            stop = (*stop, self.boundary)
        course.stage = "think"
        return course.go_on(engine, output, most, stop=stop, stop_at_think_end=True)

    def _boundary(self, engine: Engine, course: Course, trace: Trace, output: tuple[int, ...]) -> Request | Trace:
        chat = chat_of(engine, self.tokenizer)
        if course.count >= self.probes or not isinstance(course, Trial):
            return trace
        before = max(len(course.resumed), len(course.request.prefill_ids))
        n_boundary = _tail(chat, output[before:], self.boundary)
        if not n_boundary:
            return trace
        if trace.thinking is None:
            # An answer without thinking may hold the boundary too: nothing is there to be left early.
            course.stage = "answer"
            return course.go_on(engine, output) or course.cut_off()
        cue = engine.encode(self._wording(engine)["cue"])
        course.thought, course.resumed = output[:-n_boundary], output
        asked = course.go_on(
            engine, (*course.thought, *cue), self.probe_tokens, temperature=0.0, repetition_penalty=1.0,
            stop=(self._wording(engine)["stop"],), stop_at_think_end=True,
        )  # fmt: skip
        if asked is None:
            return self._on(engine, course)
        course.stage, course.asked = "probe", asked
        course.count += 1
        course.notes["probes"] = course.count
        return asked

    def _tried(self, course: Course, trace: Trace) -> None:
        if isinstance(course, Trial) and course.asked is not None:
            started = len(course.asked.prefill_ids)
            course.decoded = ids_of(trace, self.name)[started:]
            course.n_probe_tokens += started - len(course.thought) + len(course.decoded)

    def _decide(self, engine: Engine, trial: Trial, scores: Sequence[float]) -> Request | Trace:
        wording = self._wording(engine)
        text = chat_of(engine, self.tokenizer).decode(trial.decoded)
        sure = 0.0 if _empty(text, wording["stop"]) else confidence(scores[wording["skip"] :], self.mean)
        trial.notes["confidence"] = sure
        if sure > self.threshold:
            return self._close(engine, trial, trial.thought, "confident")
        return self._on(engine, trial)

    def _on(self, engine: Engine, trial: Trial) -> Request | Trace:
        """Think on from the model's own boundary."""
        return self._think(engine, trial, trial.resumed) or self._close(engine, trial, trial.thought, "budget")

    def _close(self, engine: Engine, course: Course, thought: tuple[int, ...], why: str) -> Request | Trace:
        after = self._wording(engine)["after"]
        opening = engine.encode(after) if after else []
        return self._answer(engine, course, (*thought, *self._closing(engine), *opening), why)

    def _answer(self, engine: Engine, course: Course, output: tuple[int, ...], why: str) -> Request | Trace:
        course.stage = "answer"
        course.notes["exit"] = why
        return course.go_on(engine, output) or course.cut_off()

    def _closing(self, engine: Engine) -> list[int]:
        before = self._wording(engine)["before"]
        return [*(engine.encode(before) if before else ()), *engine.encode(end_tag(engine))]

    def _wording(self, engine: Engine) -> dict[str, Any]:
        found = model_wording(engine, "deer")
        return found if self.cue is None else {**found, "cue": self.cue}


def confidence(logprobs: Sequence[float], mean: Mean) -> float:
    """Mean probability of tokens with the given log-probabilities (nats); 0 if there are none."""
    if not logprobs:
        return 0.0
    if mean == "geometric":
        return math.exp(fmean(logprobs))
    probabilities = [math.exp(value) for value in logprobs]
    return min(probabilities) if mean == "min" else fmean(probabilities)


def _empty(text: str, stop: str) -> bool:
    return not text.partition(stop)[0].strip(" {\n")


def _tail(chat: Chat, new: Sequence[int], boundary: str) -> int:
    """How many of the last tokens it takes to spell the boundary; 0 if the new tokens do not hold it."""
    return next((n for n in range(1, len(new) + 1) if boundary in chat.decode(new[len(new) - n :])), 0)
