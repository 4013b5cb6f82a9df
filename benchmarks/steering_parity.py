"""Do all ways to steer give the same model? Log-probabilities of generated tokens against transformers with hooks.

    python -m benchmarks.steering_parity [--prompts 20] [--tokens 64] [--compiled] [--json FILE]

The reference decodes greedily in float32, steered at every position. Each way then scores the same tokens; the largest
difference of a log-probability must stay under 1e-4 nats. Negative control: the unsteered reference must be at least
100 times farther away. Strengths and vectors per request are compared by what they decode, in one mixed batch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    import torch

    from cot.engine import Engine
    from eval_math.records import Request
    from steering.sites import ModelShape

LARGEST = 1e-4
CONTROL = 100.0
SERVE = "import json, sys; from steering.serving import Served, serve; serve(Served(**json.loads(sys.argv[1])))"
START_SECONDS = 300
SHARE = 0.3
"""Norm of the step as a share of the states': enough to change what is said."""


@dataclass(frozen=True)
class SteeringParity:
    """Ways to steer against transformers with hooks."""

    model: str = "embedded"
    """Model folder, hub id or `embedded`."""
    block: int = 2
    """Block to steer."""
    prompts: int = 20
    """Problems whose answers are compared."""
    tokens: int = 64
    """Generated tokens of each."""
    vllm: bool = True
    """Compare vLLM, with hooks and with the baked folder."""
    server: bool = True
    """Compare the steered vLLM server, over HTTP."""
    compiled: bool = False
    """Also the baked folder in a compiled vLLM (needs a compiler, takes minutes)."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


@dataclass(frozen=True)
class Line:
    """One way: the largest difference in nats and, for decoding, how many outputs are the same."""

    way: str
    error: float | None = None
    same: str = ""
    holds: bool = True


@dataclass
class _Bench:
    """The reference and what has been compared with it."""

    command: SteeringParity
    shape: ModelShape
    step: torch.Tensor
    items: list[tuple[list[int], list[int]]]
    reference: list[list[float]]
    effect: float
    lines: list[Line] = field(default_factory=list)

    def scored(self, way: str, found: Sequence[Sequence[float]]) -> None:
        error = farthest(found, self.reference)
        self.lines.append(Line(way, error, holds=error <= LARGEST and self.effect >= CONTROL * error))

    def decoded(self, way: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
        same = sum(found[name] == ids for name, ids in expected.items())
        self.lines.append(Line(way, None, f"{same} of {len(expected)} outputs", same == len(expected)))


def farthest(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """The largest difference of two log-probabilities."""
    return max(abs(x - y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


def run(command: SteeringParity) -> int:
    """Compare and print; exit code 1 where a way is too far off."""
    from scripts.command import write_figures

    with _engine(command, command.model, "hf") as hf:
        bench = _reference(command, hf)
        expected = _mixed(hf, bench)
    with tempfile.TemporaryDirectory() as name:
        folder = _bake(command, bench.step, Path(name) / "baked")
        with _engine(command, folder, "hf") as baked:
            bench.scored("baked, transformers", baked.score(bench.items))
        if command.vllm:
            _compare_vllm(command, bench, folder, expected)
        if command.server:
            _compare_server(command, bench, Path(name), expected)
    print(f"unsteered reference: {bench.effect:.2e} nats away")
    for line in bench.lines:
        what = line.same if line.error is None else f"{line.error:.1e} nats"
        print(f"{line.way:<34}{what:<24}{'holds' if line.holds else 'MISSED'}")
    write_figures(command.json, {"effect": bench.effect, "ways": [asdict(line) for line in bench.lines]})
    return 0 if all(line.holds for line in bench.lines) else 1


def _compare_vllm(command: SteeringParity, bench: _Bench, folder: str, expected: dict[str, Any]) -> None:
    from steering.application import steer

    with _engine(command, command.model, "vllm") as vllm:
        with steer(vllm, _steering(bench)):
            bench.scored("hooks, vLLM eager", vllm.score(bench.items))
        bench.decoded("per request, vLLM eager", _mixed(vllm, bench), expected)
    with _engine(command, folder, "vllm") as baked:
        bench.scored("baked, vLLM eager", baked.score(bench.items))
    if command.compiled:
        with _engine(command, folder, "vllm", enforce_eager=False) as compiled:
            assert not compiled.eager, "vLLM did not compile"
            bench.scored("baked, vLLM compiled", compiled.score(bench.items))


def _compare_server(command: SteeringParity, bench: _Bench, folder: Path, expected: dict[str, Any]) -> None:
    """The same through `laconic steer serve`: all positions steered unless a request asks for something else."""
    with (
        _served(command, _vector_files(bench, folder)) as url,
        _engine(command, command.model, "openai", base_url=url) as far,
    ):
        bench.scored("server, HTTP", far.score(bench.items))
        found = {trace.problem_id: trace.token_ids for trace in far.generate(_asked(bench))}
        bench.decoded("per request, server", found, expected)


@contextmanager
def _served(command: SteeringParity, vectors: list[str]) -> Iterator[str]:
    """The address of a steered server of its own process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--dtype", "float32", "--max-num-seqs", "8"]
    asked = {"vectors": vectors, "model": command.model, "prompt": "all", "until": "eos", "port": port, "flags": flags}
    words = [sys.executable, "-c", SERVE, json.dumps(asked)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield _ready(process, f"http://127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _ready(process: subprocess.Popen[bytes], url: str) -> str:
    import httpx

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the steered server ended with code {process.returncode}; start it by hand to see why")
        try:
            httpx.get(f"{url}/health", timeout=2).raise_for_status()
            return f"{url}/v1"
        except httpx.HTTPError:
            time.sleep(0.5)
    raise RuntimeError(f"the steered server did not answer within {START_SECONDS} seconds")


def _vector_files(bench: _Bench, folder: Path) -> list[str]:
    """The two steps of `_steering` as files for a server."""
    from steering.vector import SteeringVector, VectorInfo, save_vector

    command, shape = bench.command, bench.shape
    info = VectorInfo(
        command.model, shape.model_type, shape.hidden_size, shape.num_layers, (command.block,), (command.block,), 1.0
    )
    for name, steps in {"main": _steering(bench).steps, **_steering(bench).vectors}.items():
        save_vector(SteeringVector(steps, info), folder / f"{name}.safetensors")
    return [str(folder / f"{name}.safetensors") for name in ("main", *_steering(bench).vectors)]


def _reference(command: SteeringParity, hf: Any) -> _Bench:
    from steering.application import steer
    from steering.sites import engine_shape

    bench = _Bench(command, engine_shape(hf), _step(command, hf), [], [], 0.0)
    requests = _requests(command)
    with steer(hf, _steering(bench)):
        said = {trace.problem_id: trace.token_ids for trace in hf.generate(requests)}
        bench.items = [(hf.prompt_ids(r), list(said[r.problem_id] or ())) for r in requests]
        bench.reference = hf.score(bench.items)
    bench.effect = farthest(hf.score(bench.items), bench.reference)
    return bench


def _steering(bench: _Bench) -> Any:
    import torch

    from steering.application import Steering

    block = bench.command.block
    others = {"other": {block: torch.roll(bench.step, 7)}}
    return Steering({block: bench.step}, "all", "eos", vectors=others)


def _mixed(engine: Any, bench: _Bench) -> dict[str, Any]:
    """Outputs of one batch whose requests choose for themselves."""
    from steering.application import steer

    with steer(engine, _steering(bench)):
        return {trace.problem_id: trace.token_ids for trace in engine.generate(_asked(bench))}


def _asked(bench: _Bench) -> list[Request]:
    """Requests that ask for strengths 1, 0, - and another vector in turn."""
    extras: list[dict[str, Any]] = [{}, {"steer_scale": 0}, {"steer_scale": -1.0}, {"steer_vector": "other"}]
    return [replace(r, extras=extras[i % 4]) for i, r in enumerate(_requests(bench.command))]


def _requests(command: SteeringParity) -> list[Request]:
    from cot.benchmarks import load
    from eval_math.prompts import prompt
    from eval_math.records import Request, Sampling

    problems = load("embedded", split="test", limit=command.prompts)
    return [Request(p.id, messages=prompt(p), sampling=Sampling(max_tokens=command.tokens)) for p in problems]


def _step(command: SteeringParity, hf: Engine) -> torch.Tensor:
    from benchmarks.steering import written_pairs
    from steering.extraction import Recipe, extract

    vector = extract(hf, written_pairs(40), Recipe(blocks=(command.block,))).vector
    direction = vector.directions[command.block]
    return direction * (SHARE * vector.resid_norm[command.block] / float(direction.norm()))


def _bake(command: SteeringParity, step: torch.Tensor, out: Path) -> str:
    from benchmarks.steering import bake_step

    bake_step(command.model, command.block, step, out)
    return str(out)


@contextmanager
def _engine(command: SteeringParity, model: str, engine: str, **options: Any) -> Iterator[Any]:
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    opened = open_engine(EngineConfig(model, engine, dtype="float32", batch_size=8, options=options))
    try:
        yield opened
    finally:
        opened.close()


if __name__ == "__main__":
    raise SystemExit(run(tyro.cli(SteeringParity, description=__doc__)))
