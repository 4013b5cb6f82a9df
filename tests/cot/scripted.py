"""An engine with a known answer to each problem, one character per token, for tests of what surrounds an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from cot.engine import EngineIdentity
from eval_math.records import Problem, Request, Trace

END, EOS = 1, 2
TAG = "</think>"


def encode(text: str) -> list[int]:
    """Ids of ``text``: code points, the end tag as `END`."""
    head, tag, tail = text.partition(TAG)
    return [*map(ord, head), *([END] if tag else []), *map(ord, tail)]


def decode(ids: Sequence[int]) -> str:
    return "".join(TAG if token == END else "" if token == EOS else chr(token) for token in ids)


@dataclass
class ScriptedEngine:
    """``outputs``: problem id -> what the model says. Answers in reverse order inside a batch."""

    outputs: dict[str, str]
    batch_size: int = 4
    max_model_len: int = 1000
    fail: dict[str, str] = field(default_factory=dict)
    before: Callable[[Request], None] = lambda request: None
    capabilities: frozenset[str] = frozenset({"generate", "prefill"})
    asked: list[Request] = field(default_factory=list)
    closed: bool = False

    @property
    def identity(self) -> EngineIdentity:
        settings = {"batch_size": self.batch_size, "max_model_len": self.max_model_len}
        return EngineIdentity("scripted", "tiny", "hash", "template", "float32", settings=settings)

    def generate(
        self, requests: Iterable[Request], *, on_trace: Callable[[Trace], None] | None = None
    ) -> Iterator[Trace]:
        source = iter(requests)
        try:
            while batch := list(islice(source, self.batch_size)):
                self.asked += batch
                for request in reversed(batch):
                    self.before(request)
                    trace = self.answer(request)
                    if on_trace is not None:
                        on_trace(trace)
                    yield trace
        finally:
            self.closed = True

    def answer(self, request: Request) -> Trace:
        if request.problem_id in self.fail:
            return self.trace(request, [], "error", self.fail[request.problem_id])
        prefill = list(request.prefill_ids)
        script = encode(self.outputs[request.problem_id])
        if END in prefill:
            given = len(prefill) - prefill.index(END) - 1
            rest = script[script.index(END) + 1 :][given:]
        else:
            rest = script[len(prefill) :]
        new = []
        for token in [*rest, EOS]:
            if len(new) == request.sampling.max_tokens:
                return self.trace(request, [*prefill, *new], "length")
            new.append(token)
            if token == END and request.sampling.stop_at_think_end:
                break
        return self.trace(request, [*prefill, *new], "stop")

    def trace(self, request: Request, ids: list[int], finish: str, error: str | None = None) -> Trace:
        end = ids.index(END) + 1 if END in ids else len(ids)
        return Trace(
            request.problem_id,
            request.sample,
            "",
            decode(ids),
            decode(ids[:end]).removesuffix(TAG),
            decode(ids[end:]),
            len(self.prompt_ids(request)) - len(request.prefill_ids),
            end,
            len(ids) - end,
            finish,  # type: ignore[arg-type]
            n_forward=max(0, len(ids) - len(request.prefill_ids)),
            seconds=0.25,
            token_ids=tuple(ids),
            error=error,
            provenance={"seed": request.sampling.seed},
        )

    def score(self, items: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        return encode(text)

    def prompt_ids(self, request: Request) -> list[int]:
        shown = "".join(message.content for message in request.messages)
        if request.template.get("enable_thinking") is False:
            shown += TAG
        return [*encode(shown), *request.prefill_ids]

    def close(self) -> None:
        pass


def toy(count: int) -> tuple[list[Problem], dict[str, str]]:
    """Problems ``i + i`` and outputs with 10 + i thinking tokens and the end tag; every fifth answer is wrong."""
    problems = [Problem(f"p/{i}", "toy", f"{i}+{i}?", str(2 * i)) for i in range(count)]
    answers = {p.id: str(2 * i + (i % 5 == 4)) for i, p in enumerate(problems)}
    return problems, {p.id: "x" * (10 + i) + TAG + f"\\boxed{{{answers[p.id]}}}" for i, p in enumerate(problems)}
