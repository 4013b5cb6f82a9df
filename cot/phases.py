"""Decoding in several phases per request: the driver, and what a later phase may still spend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from eval_math.errors import BadInput
from eval_math.records import Json, Request, Trace, unit_seed

from .chat import Chat, open_chat, resolve_model
from .datagen.prompt_files import read_prompts
from .engine import Engine
from .method import Method
from .thinking import TAG_PAIRS, ThinkTags

WINDOW_BATCHES = 4
DEFAULT_WINDOW = 256


@dataclass
class Course:
    """One request on its way through its phases, and what they have cost so far.

    ``kept`` is the last trace that became part of the output; ``stage`` and ``count`` belong to the method; ``notes``
    go into the provenance of the final trace.
    """

    request: Request
    stage: str = "think"
    count: int = 0
    kept: Trace | None = None
    n_phases: int = 0
    n_forward: int = 0
    n_probe_tokens: int = 0
    seconds: float = 0.0
    notes: dict[str, Json] = field(default_factory=dict)

    def add(self, trace: Trace) -> None:
        """Count the work of a phase that ended."""
        self.n_phases += 1
        self.n_forward += trace.n_forward
        self.seconds += trace.seconds

    def n_generated(self, output: Sequence[int]) -> int:
        """Tokens of an output without those that the request came with."""
        return len(output) - len(self.request.prefill_ids)

    def go_on(self, engine: Engine, output: Sequence[int], most: int | None = None, **sampling: Any) -> Request | None:
        """The request that goes on after ``output``; None if the limit leaves no token for it.

        The limit of the request holds for all phases and probes together; a phase gets ``most`` tokens at most. Each
        phase has a seed of its own: with the same one, its first draws would repeat those of the phase before.
        """
        left = self.request.sampling.max_tokens - self.n_generated(output) - self.n_probe_tokens
        length = engine.identity.settings.get("max_model_len")
        if isinstance(length, int) and self.kept is not None:
            left = min(left, length - self.kept.n_prompt_tokens - len(output))
        left = left if most is None else min(left, most)
        if left < 1:
            return None
        seed = phase_seed(self.request.sampling.seed, self.n_phases)
        wanted = replace(self.request.sampling, **{"max_tokens": left, "seed": seed, **sampling})
        return replace(self.request, prefill_ids=tuple(output), sampling=wanted)

    def cut_off(self) -> Trace:
        """The last kept trace as the final one, for want of room."""
        if self.kept is None:
            raise ValueError("no trace has been kept")
        return replace(self.kept, finish="length")

    def whole(self, trace: Trace) -> Trace:
        """The final trace with the work of all phases."""
        notes = {"seed": self.request.sampling.seed, "phases": self.n_phases, **self.notes}
        return replace(
            trace,
            n_forward=self.n_forward,
            seconds=self.seconds,
            n_probe_tokens=self.n_probe_tokens,
            provenance={**trace.provenance, **notes},
        )


@dataclass(frozen=True)
class Phased(Method):
    """A method whose requests take several calls of the engine: subclasses say the `first` one and what comes `then`.

    Requests are driven a window at a time, all phases of a window mixed, so that results come in while the run goes on.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"generate", "prefill"})

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """All phases of all requests.

        Raises:
            BadInput: the method does not fit the model, or the engine left token ids out of its traces.
        """
        self.check(engine)
        source, window = iter(requests), window_size(engine)
        while chunk := list(islice(source, window)):
            yield from self._window(engine, [self.course(request) for request in chunk])

    def course(self, request: Request) -> Course:
        """Where a request stands before its first phase."""
        return Course(request)

    def first(self, engine: Engine, course: Course) -> Request:
        """The first phase."""
        raise NotImplementedError

    def then(self, engine: Engine, course: Course, trace: Trace) -> Request | Trace | None:
        """After a phase: the next one, the final trace, or None to wait for `settle`."""
        raise NotImplementedError

    def settle(self, engine: Engine, waiting: list[Course]) -> Iterator[tuple[Course, Request | Trace]]:
        """What comes next for the courses that wait, once the engine is free."""
        return iter(())

    def _window(self, engine: Engine, courses: list[Course]) -> Iterator[Trace]:
        by_unit = {(course.request.problem_id, course.request.sample): course for course in courses}
        asked = [self.first(engine, course) for course in courses]
        while asked:
            following, waiting = list[Request](), list[Course]()
            for trace in engine.generate(asked):
                course = by_unit[trace.problem_id, trace.sample]
                course.add(trace)
                found = trace if trace.finish == "error" else self.then(engine, course, trace)
                if isinstance(found, Trace):
                    yield course.whole(found)
                elif found is None:
                    waiting.append(course)
                else:
                    following.append(found)
            for course, found in self.settle(engine, waiting):
                if isinstance(found, Trace):
                    yield course.whole(found)
                else:
                    following.append(found)
            asked = following


def ids_of(trace: Trace, method: str) -> tuple[int, ...]:
    """The output's ids.

    Raises:
        BadInput: the engine left them out.
    """
    if trace.token_ids is None:
        engine = trace.provenance.get("engine")
        raise BadInput(f"method {method} needs token ids in the traces, which engine {engine} left out")
    return trace.token_ids


def phase_seed(seed: int, phase: int) -> int:
    """Seed of a phase, counted from 0; the first has the request's own."""
    return unit_seed(seed, "phase", phase) if phase else seed


def end_tag(engine: Engine) -> str:
    """The model's end tag, chosen as `find_tags` does: of the first pair of single tokens, else the usual one."""
    return think_tags(engine)[1]


def think_tags(engine: Engine) -> tuple[str, str]:
    """The model's start and end tags."""
    single = (pair for pair in TAG_PAIRS if all(len(engine.encode(tag)) == 1 for tag in pair))
    return next(single, (ThinkTags.start_text, ThinkTags.end_text))


def check_end_tag(engine: Engine, method: str, end: str) -> None:
    """Refuse a tag that is not the model's.

    Raises:
        BadInput: names the model's tag.
    """
    known = end_tag(engine)
    if end != known:
        raise BadInput(f"method {method}: end={end!r} is not the model's end tag; give end={known}")


def window_size(engine: Engine) -> int:
    """Requests in flight at once: a few batches."""
    batch = engine.identity.settings.get("batch_size")
    return WINDOW_BATCHES * batch if isinstance(batch, int) else DEFAULT_WINDOW


def model_wording(engine: Engine, method: str) -> dict[str, Any]:
    """What ``cot/prompts/phases.json`` says of ``method`` for the engine's model: of the first entry that its name has.

    The last entry fits every model.
    """
    name = engine.identity.model.lower()
    models = read_prompts("phases")["models"]
    return next(entry[method] for entry in models if entry["model"] in name and method in entry)


def chat_of(engine: Engine, tokenizer: str | None) -> Chat:
    """The tokenizer of the engine's model, or the one in folder ``tokenizer``.

    Raises:
        BadInput: the model is served from elsewhere and no folder is named, or there is no tokenizer.
    """
    name = engine.identity.model
    if tokenizer is not None:
        return _opened(Path(tokenizer).expanduser())
    if engine.identity.engine == "openai" and name != "embedded" and not Path(name).expanduser().is_dir():
        raise BadInput(f"the tokenizer of {name} is not on this machine; name a folder that has it with tokenizer=")
    return _opened(resolve_model(name))


@lru_cache(maxsize=4)
def _opened(folder: Path) -> Chat:
    return open_chat(folder)
