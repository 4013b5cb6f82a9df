"""Latent thoughts in an unmodified vLLM against the transformers loop: the same ids, and how much faster.

    python -m benchmarks.latent_serving --model FOLDER [--requests 500] [--pairs 7] [--explicit FOLDER] [--json FILE]

FOLDER is a trained reasoner, of either rule. All requests are queued at once, 32 are decoded at a time, greedy. Ids and
numbers of latents are compared request by request; throughput is measured on a part of them, interleaved. With
``--explicit``, questions per second of a model that thinks in words, in vLLM too. Goals: all equal, twice the speed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from benchmarks.interleaved import measure

if TYPE_CHECKING:
    from cot.method import Method
    from eval_math.records import Problem, Request, Trace

GOAL = 2.0


@dataclass(frozen=True)
class LatentServing:
    """Equality and throughput."""

    model: Path
    """Folder of a trained latent reasoner."""
    benchmark: str = "embedded:small"
    """Questions: a benchmark, or a file of them; asked as the reasoner was taught."""
    requests: int = 500
    concurrent: int = 32
    pairs: int = 7
    """Interleaved pairs of throughput; 0 for none."""
    part: int = 96
    """Requests of each measurement."""
    max_tokens: int = 200
    """Most latents and tokens of an answer."""
    explicit: Path | None = None
    """Folder of a model that thinks in words."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: LatentServing) -> int:
    """Compare, measure, print; exit code 1 where a goal is missed."""
    from cot.methods import parse_method
    from scripts.command import write_figures

    method = parse_method("latent")
    ours, theirs = _open(command, command.model, "vllm"), _open(command, command.model, "hf")
    asked = _requests(command)
    found: dict[str, Any] = compared(_answers(ours, method, asked), _answers(theirs, method, asked))
    print(f"equal: {found['equal']} of {found['requests']}, {found['latents']:.1f} latents on average")
    holds = found["equal"] == found["requests"]
    if command.pairs:
        part = asked[: command.part]
        ratio = measure(
            "vLLM over transformers, answers/s",
            lambda: _rate(ours, method, part),
            lambda: _rate(theirs, method, part),
            pairs=command.pairs,
            goal=GOAL,
        )
        print(f"{ratio.name}: {ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], goal {GOAL}")
        found["throughput"], holds = asdict(ratio), holds and ratio.holds
    theirs.close()
    if command.explicit is not None:
        found["explicit"] = _beside(command, ours, method)
    write_figures(command.json, found)
    return int(not holds)


def compared(ours: dict[str, Trace], theirs: dict[str, Trace]) -> dict[str, float]:
    """How many requests have the same ids and as many latents in both."""
    same = [
        (trace.token_ids, trace.n_latent_steps) == (theirs[name].token_ids, theirs[name].n_latent_steps)
        for name, trace in ours.items()
    ]
    latents = sum(trace.n_latent_steps for trace in ours.values()) / len(ours)
    return {"requests": len(same), "equal": sum(same), "latents": latents}


def _beside(command: LatentServing, ours: Any, method: Method) -> dict[str, Any]:
    """Questions per second in latents and in words, both in vLLM, one engine after the other."""
    from cot.method import Method as Plain

    assert command.explicit is not None
    latent = [_rate(ours, method, _requests(command)[: command.part]) for _ in range(3)]
    ours.close()
    words = _open(command, command.explicit, "vllm")
    asked = _requests(command)[: command.part]
    explicit = [_rate(words, Plain(), asked) for _ in range(3)]
    words.close()
    print(f"questions/s in vLLM: latents {max(latent):.1f}, words {max(explicit):.1f}")
    return {"latent_questions_per_second": latent, "explicit_questions_per_second": explicit}


def _open(command: LatentServing, model: Path, engine: str) -> Any:
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    return open_engine(EngineConfig(str(model), engine, dtype="float32", batch_size=command.concurrent))


def _requests(command: LatentServing) -> list[Request]:
    from eval_math.prompts import prompt
    from eval_math.records import Request, Sampling

    sampling = Sampling(max_tokens=command.max_tokens)
    return [Request(each.id, messages=prompt(each), sampling=sampling) for each in _problems(command)]


def _problems(command: LatentServing) -> list[Problem]:
    from cot.benchmarks import load

    return load(command.benchmark, split="test", limit=command.requests)


def _answers(engine: Any, method: Method, requests: Sequence[Request]) -> dict[str, Trace]:
    with method.attach(engine):
        return {trace.problem_id: trace for trace in method.drive(engine, requests)}


def _rate(engine: Any, method: Method, requests: Sequence[Request]) -> float:
    started = time.perf_counter()
    _answers(engine, method, requests)
    return len(requests) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(run(tyro.cli(LatentServing, description=__doc__)))
