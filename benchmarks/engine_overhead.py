"""What laconic's vLLM engine costs over bare ``LLM.generate``: tokens/s of both on the same requests and the same LLM.

    python -m benchmarks.engine_overhead [--pairs 9] [--requests 256] [--json FILE]

Both sides get the same prompts as token ids, the same sampling and an empty prefix cache. Laconic's side includes
rendering the chat template, splitting thinking from answer, counting and building the traces.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from benchmarks.interleaved import measure, show

if TYPE_CHECKING:
    from cot.engine import EngineConfig
    from eval_math.records import Request


@dataclass(frozen=True)
class EngineOverhead:
    """Tokens/s through laconic's vLLM engine over bare ``LLM.generate``."""

    pairs: int = 9
    """Interleaved pairs."""
    requests: int = 256
    """Requests per side and pair."""
    model: str = "embedded"
    """Model folder, hub id or `embedded`."""
    max_tokens: int = 512
    """Longest output."""
    batch_size: int = 64
    """Requests in flight."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: EngineOverhead) -> int:
    """Measure and print; exit code 1 where the goal is missed."""
    from cot.benchmarks import load
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from eval_math.records import Message, Request, Sampling

    problems = load("embedded", split="train", limit=command.requests)
    requests = [
        Request(p.id, messages=(Message("user", p.question),), sampling=Sampling(max_tokens=command.max_tokens))
        for p in problems
    ]
    config = EngineConfig(model=command.model, engine="vllm", batch_size=command.batch_size)
    engine = open_engine(config)
    llm = _bare_vllm(config)
    prompts = [{"prompt_token_ids": engine.prompt_ids(request)} for request in requests]
    try:
        ratio = measure("engine_overhead", lambda: _laconic(engine, requests),
                        lambda: _bare(llm, prompts, command.max_tokens), pairs=command.pairs, goal=0.97)  # fmt: skip
    finally:
        engine.close()
    return show(ratio, command.json)


def _bare_vllm(config: EngineConfig) -> Any:
    """vLLM's own front end with the arguments that laconic's engine gives it."""
    from vllm import LLM

    from cot.chat import max_length, resolve_model
    from cot.engines.vllm_start import engine_arguments

    folder = resolve_model(config.model)
    return LLM(**engine_arguments(config, folder, max_length(folder, config.max_model_len)))


def _laconic(engine: Any, requests: Sequence[Request]) -> float:
    engine.forget_prefixes()
    start = time.perf_counter()
    tokens = sum(trace.n_tokens for trace in engine.generate(requests))
    return tokens / (time.perf_counter() - start)


def _bare(llm: Any, prompts: Sequence[Any], max_tokens: int) -> float:
    from vllm import SamplingParams

    llm.reset_prefix_cache()
    start = time.perf_counter()
    outputs = llm.generate(list(prompts), SamplingParams(max_tokens=max_tokens, temperature=0.0), use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs) / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(run(tyro.cli(EngineOverhead)))
