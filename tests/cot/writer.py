"""A writer with known answers for tests of rewriting jobs: it shortens by leaving out sentences that open a doubt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from cot.engine import EngineIdentity
from eval_math.records import Request, Trace

FILLER = re.compile(r"(Wait|Okay|Hmm)[^.]*\. ?")


@dataclass
class ScriptedWriter:
    """Answers what stands after the last colon or line break of the question, its filler left out.

    ``before`` is called before each answer and may raise; scores are minus the length of what is scored.
    """

    batch_size: int = 4
    before: Callable[[Request], None] = lambda request: None
    model_hash: str = "writer"
    capabilities: frozenset[str] = frozenset({"generate", "score"})
    asked: list[Request] = field(default_factory=list)
    scored: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    closed: bool = False
    answer: Callable[[str], str] = lambda text: FILLER.sub("", text)

    @property
    def identity(self) -> EngineIdentity:
        settings = {"batch_size": self.batch_size, "max_model_len": 100_000}
        return EngineIdentity("scripted", "writer", self.model_hash, "template", "float32", settings=settings)

    def generate(
        self, requests: Iterable[Request], *, on_trace: Callable[[Trace], None] | None = None
    ) -> Iterator[Trace]:
        source = iter(requests)
        while batch := list(islice(source, self.batch_size)):
            for request in reversed(batch):
                self.before(request)
                self.asked.append(request)
                text = self.answer(re.split(r"(?:Shorten: |\n)", request.messages[-1].content)[-1])
                n = len(text)
                yield Trace(request.problem_id, request.sample, "", text, None, text, 9, 0, n, "stop")

    def score(self, items: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        self.scored += [(tuple(prompt), tuple(completion)) for prompt, completion in items]
        return [[-float(len(completion))] * len(completion) for _, completion in items]

    def encode(self, text: str) -> list[int]:
        return [*map(ord, text)]

    def prompt_ids(self, request: Request) -> list[int]:
        return self.encode(request.messages[-1].content)

    def close(self) -> None:
        self.closed = True


def sums(n: int, start: int = 0) -> list[dict[str, object]]:
    """Source rows: sums with a doubt after each step."""
    rows = []
    for at in range(start, start + n):
        a, b, c = at % 90 + 2, at % 7 + 3, at // 90 + 1
        steps = f"Okay, let me see. So {a}+{b}={a + b}. Wait, is that right? Yes it is. So {a + b}+{c}={a + b + c}."
        output = f"{steps}</think>The answer is \\boxed{{{a + b + c}}}."
        rows.append({"id": f"sum-{at}", "question": f"{a}+{b}+{c}?", "answer": str(a + b + c), "output": output})
    return rows


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def renamed(engine: ScriptedWriter, **changes: object) -> ScriptedWriter:
    return replace(engine, **changes)  # type: ignore[arg-type]
