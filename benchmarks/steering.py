"""What steering costs: extraction against the naive loop, and tokens/s of each way to steer over unsteered decoding.

    python -m benchmarks.steering [--what extraction hook per-request baked] [--engine vllm] [--pairs 9] [--json FILE]

Extraction: 100 pairs, all blocks, against one text at a time with ``output_hidden_states`` and logits. Decoding: the
same requests with a step too small to change what is said, so that both sides decode the same tokens. ``per-request``
gives three of four requests a strength or vector of their own. Goals: 10 times, and 0.97 (hook), 0.95 (per-request),
0.99 (baked).
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from benchmarks.interleaved import Ratio, measure

if TYPE_CHECKING:
    import torch

    from cot.engine import Engine
    from eval_math.records import Pair, Request

GOALS = {"extraction": 10.0, "hook": 0.97, "per-request": 0.95, "baked": 0.99}
SHARE = 1e-4
"""Norm of the step as a share of the states': it is added and counted like any other, and changes no text."""


@dataclass(frozen=True)
class SteeringCosts:
    """Extraction and tokens/s, interleaved."""

    what: tuple[str, ...] = tuple(GOALS)
    """extraction, hook, per-request, baked."""
    engine: str = "vllm"
    """hf or vllm, for decoding."""
    model: str = "embedded"
    """Model folder, hub id or `embedded`."""
    block: int = 2
    """Block to steer."""
    pairs: int = 9
    """Interleaved pairs."""
    requests: int = 128
    """Requests per side and pair."""
    max_tokens: int = 256
    """Longest output."""
    batch_size: int = 64
    """Requests in flight."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: SteeringCosts) -> int:
    """Measure and print; exit code 1 where a goal is missed."""
    from scripts.command import write_figures

    found: list[Ratio] = []
    if "extraction" in command.what:
        found.append(extraction(command))
    if set(command.what) - {"extraction"}:
        found.extend(decoding(command))
    for ratio in found:
        verdict = "holds" if ratio.holds else "MISSED"
        print(f"{ratio.name}: {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], goal {ratio.goal}: {verdict}")
    write_figures(command.json, {ratio.name: asdict(ratio) for ratio in found})
    return 0 if all(ratio.holds for ratio in found) else 1


def written_pairs(count: int) -> list[Pair]:
    """Verbose and concise traces of the same problems."""
    from cot.embedded import make_problems
    from cot.embedded.traces import write_trace
    from eval_math.records import Pair

    rng = random.Random(0)
    return [
        Pair(p.id, p.question, write_trace(p, 4, rng), write_trace(p, 0, rng), "self:embedded")
        for p in make_problems("train", count, seed=3)
    ]


def extraction(command: SteeringCosts) -> Ratio:
    """Pairs per second over the naive loop; both give the same vectors."""
    import torch

    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from steering.extraction import extract

    pairs = written_pairs(100)
    engine: Any = open_engine(EngineConfig(command.model, "hf"))
    try:
        ours = extract(engine, pairs).vector.directions
        theirs = engine.apply_model(lambda model: naive(model, engine, pairs))
        cosine = torch.cosine_similarity(ours[command.block], theirs[command.block], dim=0)
        print(f"cosine of both vectors at block {command.block}: {float(cosine):.6f}")
        return measure(
            "extraction",
            lambda: _rate(len(pairs), lambda: extract(engine, pairs)),
            lambda: _rate(len(pairs), lambda: engine.apply_model(lambda model: naive(model, engine, pairs))),
            pairs=command.pairs,
            goal=GOALS["extraction"],
        )
    finally:
        engine.close()


def naive(model: Any, engine: Engine, pairs: Sequence[Pair]) -> dict[int, torch.Tensor]:
    """One text at a time, every hidden state and the logits kept: the loop that papers release."""
    import torch

    from cot.chat import open_chat, resolve_model
    from steering.extraction import PairEncoder, Recipe, benchmark_prompt

    chat = open_chat(resolve_model(engine.identity.model))
    encoder = PairEncoder(engine, chat, Recipe(), benchmark_prompt)
    rows: dict[int, list[torch.Tensor]] = {block: [] for block in range(model.config.num_hidden_layers - 1)}
    for pair in pairs:
        states = []
        for text in encoder.sides(pair):
            with torch.no_grad():
                states.append(model(torch.tensor([text.ids]), output_hidden_states=True).hidden_states)
        for block, found in rows.items():
            found.append(states[1][block + 1][0, -1] - states[0][block + 1][0, -1])
    return {block: torch.stack(found).float().mean(0) for block, found in rows.items()}


def _rate(count: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def decoding(command: SteeringCosts) -> Iterator[Ratio]:
    """Tokens/s of each way to steer over unsteered decoding on the same engine."""
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    engine: Any = open_engine(EngineConfig(command.model, command.engine, batch_size=command.batch_size))
    requests, step = _requests(command), _step(command)
    mixed = [replace(r, extras=_CHOICES[i % 4]) for i, r in enumerate(requests)]
    try:
        for name, asked in (("hook", requests), ("per-request", mixed)):
            if name in command.what:
                yield _compared(name, command, lambda asked=asked: _steered(engine, command, step, asked), engine)
        if "baked" in command.what:
            with _baked(command, step) as other:
                yield _compared("baked", command, lambda: _tokens_per_second(other, requests), engine)
    finally:
        engine.close()


_CHOICES: tuple[dict[str, Any], ...] = ({}, {"steer_scale": 0.5}, {"steer_scale": -1.0}, {"steer_vector": "other"})


def _compared(name: str, command: SteeringCosts, steered: Callable[[], float], engine: Engine) -> Ratio:
    requests = _requests(command)
    label = f"{name}, {command.engine}"
    return measure(label, steered, lambda: _tokens_per_second(engine, requests), pairs=command.pairs, goal=GOALS[name])


def _requests(command: SteeringCosts) -> list[Request]:
    from cot.benchmarks import load
    from eval_math.prompts import prompt
    from eval_math.records import Request, Sampling

    problems = load("embedded", split="train", limit=command.requests)
    return [Request(p.id, messages=prompt(p), sampling=Sampling(max_tokens=command.max_tokens)) for p in problems]


def _step(command: SteeringCosts) -> torch.Tensor:
    import torch

    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from steering.extraction import Recipe, extract

    engine = open_engine(EngineConfig(command.model, "hf"))
    try:
        vector = extract(engine, written_pairs(8), Recipe(blocks=(command.block,))).vector
    finally:
        engine.close()
    drawn = torch.randn(vector.info.hidden_size, generator=torch.Generator().manual_seed(0))
    return drawn * (SHARE * vector.resid_norm[command.block] / drawn.norm())


def _steered(engine: Any, command: SteeringCosts, step: torch.Tensor, requests: Sequence[Request]) -> float:
    from steering.application import Steering, steer

    others = {"other": {command.block: -step}}
    with steer(engine, Steering({command.block: step}, vectors=others)):
        return _tokens_per_second(engine, requests)


def _tokens_per_second(engine: Any, requests: Sequence[Request]) -> float:
    engine.forget_prefixes()
    started = time.perf_counter()
    tokens = sum(trace.n_tokens for trace in engine.generate(requests))
    return tokens / (time.perf_counter() - started)


@contextmanager
def _baked(command: SteeringCosts, step: torch.Tensor) -> Iterator[Any]:
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "baked"
        bake_step(command.model, command.block, step, out)
        engine = open_engine(EngineConfig(str(out), command.engine, batch_size=command.batch_size))
        try:
            yield engine
        finally:
            engine.close()


def bake_step(model: str, block: int, step: torch.Tensor, out: Path) -> None:
    """Write ``model`` with ``step`` added at ``block`` to the folder ``out``."""
    from cot.chat import resolve_model
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from steering.bake import bake
    from steering.sites import engine_shape
    from steering.vector import SteeringVector, VectorInfo

    plain = open_engine(EngineConfig(model, "hf"))
    shape, model_id = engine_shape(plain), plain.identity.model
    plain.close()
    info = VectorInfo(model_id, shape.model_type, shape.hidden_size, shape.num_layers, (block,), (block,), gamma=1.0)
    bake(resolve_model(model), SteeringVector({block: step}, info), out)


if __name__ == "__main__":
    raise SystemExit(run(tyro.cli(SteeringCosts, description=__doc__)))
