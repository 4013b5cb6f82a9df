"""Cutting the chain of thought at a token budget, bare or with a sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from eval_math.errors import BadInput
from eval_math.records import Json, Request, Trace

from .datagen.prompt_files import prompts_hash
from .engine import Engine
from .phases import Course, Phased, check_end_tag, ids_of, model_wording


@dataclass(frozen=True)
class Cut(Phased):
    """Thinking ends after ``tokens`` tokens, then the answer is written: the null baseline of every shortening method.

    Phase one decodes up to the budget: what ends within it is as plain generation, id for id. Else, phase two appends
    ``sentence`` and the end tag where thinking had not ended by itself, and decodes the answer. Sentence and tag count
    as thinking, so thinking never has more than ``tokens`` tokens; tokens of ``forced`` count as answer. The limit of
    the request holds for both phases together; thinking that leaves nothing of it for an answer gives a trace with
    finish ``length``. An output that ends without ever closing its thinking is left as it is.
    """

    name: ClassVar[str] = "cut"
    summary: ClassVar[str] = "thinking cut at a budget, answer forced"

    tokens: int = 256
    """Budget of thinking tokens, what is appended included, so at least one more than that has."""
    forced: str | None = ""
    """Text that opens the answer of a cut chain of thought, e.g. ``The answer is``; none = the model's own."""
    end: str = "</think>"
    """The model's end-of-think tag."""
    sentence: str | None = ""
    """Text put before the end tag of a cut chain of thought, e.g. that time is up; none = the model's own."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadInput(
                f"method {self.name}: tokens={self.tokens}, at least 1 is expected (no thinking at all: nothink)"
            )

    def fingerprint(self) -> dict[str, Json]:
        """Parameters, and a hash of the wording where it is the model's."""
        shown = super().fingerprint()
        if self.sentence == "":
            del shown["sentence"]
        own = None in (self.sentence, self.forced)
        return {**shown, **({"wording": prompts_hash("phases")} if own else {})}

    def check(self, engine: Engine) -> None:
        """Refuse a tag that is not the model's, and a budget without room for a thought before what is appended.

        Raises:
            BadInput: names what was given and what would do.
        """
        check_end_tag(engine, self.name, self.end)
        n_end = len(self._closing(engine))
        if self.tokens <= n_end:
            what = "the end tag alone takes" if n_end == len(engine.encode(self.end)) else "sentence and end tag take"
            raise BadInput(
                f"method {self.name}: tokens={self.tokens}, but {what} {n_end}; "
                f"give at least {n_end + 1} (no thinking at all: nothink)"
            )

    def first(self, engine: Engine, course: Course) -> Request:
        """Decode as plain generation would, up to the budget."""
        course.notes["cut"] = False
        return self._thinking(course.request, self._room(engine))

    def then(self, engine: Engine, course: Course, trace: Trace) -> Request | Trace | None:
        """End the thought that is still open, go on with an answer that was stopped on its way."""
        course.kept = trace
        if course.stage == "answer":
            return trace
        if self.end in trace.text:
            return self._closed(engine, course, trace)
        if trace.finish == "stop":
            return trace
        if trace.thinking is None:
            return self._answer(engine, course, ids_of(trace, self.name))
        return self._cut(engine, course, ids_of(trace, self.name))

    def _thinking(self, request: Request, room: int) -> Request:
        most = min(room, request.sampling.max_tokens)
        return replace(request, sampling=replace(request.sampling, max_tokens=most))

    def _closed(self, engine: Engine, course: Course, trace: Trace) -> Request | Trace:
        """What follows a thought that ended by itself."""
        return trace if trace.finish == "stop" else self._answer(engine, course, ids_of(trace, self.name))

    def _cut(self, engine: Engine, course: Course, thought: tuple[int, ...]) -> Request | Trace:
        opening = self._said(engine, self.forced, "after")
        found = self._answer(engine, course, (*thought, *self._closing(engine), *opening))
        course.notes["cut"] = isinstance(found, Request)
        return found

    def _answer(self, engine: Engine, course: Course, output: tuple[int, ...]) -> Request | Trace:
        course.stage = "answer"
        return course.go_on(engine, output) or course.cut_off()

    def _room(self, engine: Engine) -> int:
        """Tokens of a thought before what is appended to it."""
        return self.tokens - len(self._closing(engine))

    def _closing(self, engine: Engine) -> list[int]:
        """Ids of sentence and end tag."""
        return [*self._said(engine, self.sentence, "before"), *engine.encode(self.end)]

    def _said(self, engine: Engine, text: str | None, place: str) -> list[int]:
        said = model_wording(engine, "limit")[place] if text is None else text
        return engine.encode(said) if said else []


@dataclass(frozen=True)
class Limit(Cut):
    """Qwen3's thinking budget (arXiv 2505.09388, section 4.3): `Cut` with the model's own stop sentence.

    Sentence and opening of the answer are per-model data (``cot/prompts/phases.json``): Qwen3's for models that have
    none there. Departure: the sentence is part of the budget here, so that the budget holds; in the paper it comes on
    top.
    """

    name: ClassVar[str] = "limit"
    summary: ClassVar[str] = "thinking budget as Qwen3 has it: a stop sentence, the end tag, the answer"

    forced: str | None = None
    sentence: str | None = None
