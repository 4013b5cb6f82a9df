"""`laconic steer serve`: vLLM's OpenAI server, steered per request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro


@dataclass(frozen=True)
class SteerServe:
    """Serve a model over HTTP; requests choose by extra_body={"vllm_xargs": {"steer_scale": 0.5, "steer_vector": "v"}}.

    GET /steering tells the vectors and how many positions were steered.
    """

    flags: tyro.conf.Positional[tuple[str, ...]] = ()
    """After --: flags of `vllm serve`, e.g. -- --max-num-seqs 64 --api-key KEY."""
    vector: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Vector file, or name=file; repeat the flag for more. The first is the default. Default: vector.safetensors."""
    model: str = "embedded"
    """Model folder, hub id, or `embedded` for the reasoner that ships with laconic."""
    default_scale: float = 1.0
    """Scale of requests that ask for nothing; 0: steer only those that ask."""
    prompt: Literal["last", "all", "none"] = "last"
    """Prompt tokens to steer: last (it predicts the first output token), all, none."""
    until: Literal["end_of_think", "eos"] = "end_of_think"
    """Where steering stops."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = 8000
    """Port to listen on."""


def run(command: SteerServe) -> int:
    """Serve until interrupted."""
    import logging

    from eval_math.errors import BadInput
    from steering.serving import Served, serve

    if command.flags and not command.flags[0].startswith("-"):
        raise BadInput(
            f"{command.flags[0]!r} is no flag; flags of `vllm serve` stand after --, vectors after --vector each"
        )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("steering").setLevel(logging.INFO)
    serve(
        Served(
            vectors=command.vector or ("vector.safetensors",),
            model=command.model,
            default_scale=command.default_scale,
            prompt=command.prompt,
            until=command.until,
            host=command.host,
            port=command.port,
            flags=command.flags,
        )
    )
    return 0
