"""Do vLLM and transformers give the same greedy tokens, unsteered and steered? Each difference is explained.

The share of ids counts, per problem, those before the first difference: what follows one is another text.

    python -m benchmarks.engine_parity --vector v.safetensors --block 3 --strength 0.5 [--problems 300] [--json FILE]

For every output that differs, the first differing position is scored by transformers under the same steering: the gap
between the log-probabilities of the two tokens says whether it was a tie that rounding decided.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import tyro

from cot.environment import hardware

if TYPE_CHECKING:
    from cot.engine import Engine
    from cot.method import Method
    from eval_math.records import Request


@dataclass(frozen=True)
class EngineParity:
    """Share of problems on which vLLM and transformers decode the same greedy ids."""

    vector: str | None = None
    """Steering vector; without one only the unsteered model is compared."""
    block: int | None = None
    """Block to steer."""
    strength: float | None = None
    """Steering strength."""
    problems: int = 300
    """Problems of the embedded benchmark's test split."""
    model: str = "embedded"
    """Model folder, hub id or `embedded`."""
    dtype: str = "float32"
    """float32 or bfloat16, for both engines."""
    max_tokens: int = 512
    """Longest output."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


@dataclass(frozen=True)
class Divergence:
    """Where two greedy outputs part, and by how little: gap of log-probabilities in nats."""

    problem: str
    position: int
    gap: float


def run(command: EngineParity) -> int:
    """Compare and print; exit code 1 where fewer than 99% of the ids agree."""
    from scripts.command import write_figures

    results = [_compare(command, steered) for steered in ((False, True) if command.vector else (False,))]
    share = min(result["ids_share"] for result in results)
    figures = {"name": "engine_parity", "ratio": share, "low": share, "high": share, "goal": 0.99,
               "holds": share >= 0.99, "pairs": command.problems, "hardware": hardware(), "runs": results}  # fmt: skip
    for result in results:
        print(
            f"{result['what']}, {command.dtype}: {result['ids_share']:.2%} of the ids agree; "
            f"all of them on {result['same']} of {result['n']} problems"
        )
        for parting in result["divergences"]:
            print(f"  {parting['problem']} parts at token {parting['position']}, gap {parting['gap']:.2e} nats")
    write_figures(command.json, figures)
    return 0 if figures["holds"] else 1


def _compare(command: EngineParity, steered: bool) -> dict[str, Any]:
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    outputs = {}
    requests = _requests(command)
    engines = {}
    for name in ("vllm", "hf"):
        engine = engines[name] = open_engine(EngineConfig(model=command.model, engine=name, dtype=command.dtype))
        with _method(command, steered).attach(engine):
            outputs[name] = {t.problem_id: t.token_ids for t in engine.generate(requests)}
        if name == "vllm":
            engine.close()
    differing = [r for r in requests if outputs["vllm"][r.problem_id] != outputs["hf"][r.problem_id]]
    with _method(command, steered).attach(engines["hf"]):
        found = [
            _divergence(engines["hf"], r, outputs["hf"][r.problem_id], outputs["vllm"][r.problem_id]) for r in differing
        ]
    engines["hf"].close()
    ids = [_agreement(outputs["hf"][r.problem_id], outputs["vllm"][r.problem_id]) for r in requests]
    same = len(requests) - len(differing)
    agreed = sum(a for a, _ in ids) / sum(b for _, b in ids)
    return {"what": "steered" if steered else "unsteered", "same": same, "n": len(requests), "ids_share": agreed,
            "divergences": [asdict(d) for d in found]}  # fmt: skip


def _requests(command: EngineParity) -> list[Request]:
    from cot.benchmarks import load
    from eval_math.prompts import prompt
    from eval_math.records import Request, Sampling

    problems = load("embedded", split="test", limit=command.problems)
    return [Request(p.id, messages=prompt(p), sampling=Sampling(max_tokens=command.max_tokens)) for p in problems]


def _method(command: EngineParity, steered: bool) -> Method:
    from cot.method import Method
    from steering.asc import Asc

    if not steered:
        return Method()
    return Asc(vector=command.vector or "", block=command.block, strength=command.strength)


def _agreement(left: Sequence[int], right: Sequence[int]) -> tuple[int, int]:
    """Ids before the first difference, and the length of the longer output."""
    longest = max(len(left), len(right))
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right))), longest


def _divergence(engine: Engine, request: Request, left: Sequence[int], right: Sequence[int]) -> Divergence:
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    if at >= len(left) or at >= len(right):
        return Divergence(request.problem_id, at, float("inf"))
    prompt = engine.prompt_ids(request)
    a = engine.score([(prompt, [*left[:at], left[at]])])[0][-1]
    b = engine.score([(prompt, [*left[:at], right[at]])])[0][-1]
    return Divergence(request.problem_id, at, abs(a - b))


if __name__ == "__main__":
    sys.exit(run(tyro.cli(EngineParity)))
