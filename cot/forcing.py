"""Budget forcing (s1, arXiv 2501.19393, section 3): thinking is cut at a cap, and extended where it ends early."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from eval_math.errors import BadInput
from eval_math.records import Json, Request, Trace

from .budget import Cut
from .datagen.prompt_files import prompts_hash
from .engine import Engine
from .phases import Course, ids_of, model_wording


@dataclass(frozen=True)
class Budget(Cut):
    """`Cut` at ``tokens``; where the model ends thinking by itself, ``wait`` takes the place of its end tag.

    That happens up to ``ignores`` times while the budget has room for one more token of thought. Thinking never has
    more than ``tokens`` tokens; with ``ignores=0`` and a cap that is not hit the output is plain generation, id for id.
    An end tag that is taken back was decoded for nothing and is charged as a probe token.

    Departures: the cap counts the end tag; the cue of the answer (``forced``) is empty unless given; an output that
    ends without an end tag is left as it is.
    """

    name: ClassVar[str] = "budget"
    summary: ClassVar[str] = "budget forcing (s1): thinking cut at a cap, extended by Wait where it ends early"

    ignores: int = 2
    """How often the end of thinking is taken back."""
    wait: str | None = None
    """Text put in its place, e.g. ``Wait``; none = the model's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ignores < 0 or self.wait == "":
            raise BadInput(f"method budget: ignores={self.ignores}, wait={self.wait!r}; expected 0 or more, and a text")

    def fingerprint(self) -> dict[str, Json]:
        """Parameters, and a hash of the wording where it is the model's."""
        return {**super().fingerprint(), **({"wording": prompts_hash("phases")} if self.wait is None else {})}

    def _thinking(self, request: Request, room: int) -> Request:
        asked = super()._thinking(request, room)
        return replace(asked, sampling=replace(asked.sampling, stop_at_think_end=True)) if self.ignores else asked

    def _closed(self, engine: Engine, course: Course, trace: Trace) -> Request | Trace:
        if not self.ignores:
            return super()._closed(engine, course, trace)
        output = ids_of(trace, self.name)
        return self._extended(engine, course, output) or self._answer(engine, course, output)

    def _extended(self, engine: Engine, course: Course, output: tuple[int, ...]) -> Request | None:
        """The phase that thinks on; None if there is none."""
        end = tuple(engine.encode(self.end))
        if course.count >= self.ignores or output[-len(end) :] != end:
            return None
        longer = (*output[: -len(end)], *self._wait(engine))
        most = self._room(engine) - course.n_generated(longer)
        course.n_probe_tokens += len(end)
        found = course.go_on(engine, longer, most, stop_at_think_end=True)
        if found is None:
            course.n_probe_tokens -= len(end)
            return None
        course.count += 1
        course.notes["ignored"] = course.count
        return found

    def _wait(self, engine: Engine) -> list[int]:
        return engine.encode(model_wording(engine, "budget")["wait"] if self.wait is None else self.wait)
