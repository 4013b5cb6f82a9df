"""The engine protocol: what turns requests into traces, and what every engine shares.

Engines: `hf` (transformers, the reference), `vllm` (in-process), `openai` (any compatible server).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from eval_math.records import Json, Request, Trace, digest

CAPABILITIES: Mapping[str, str] = {
    "generate": "decode requests",
    "score": "log-probabilities of given tokens",
    "steer": "add a vector to the residual stream",
    "steer_per_request": "another vector or strength for each request of a batch",
    "capture": "read hidden states",
    "latent": "feed embeddings instead of tokens",
    "sparse_kv": "drop or shrink parts of the KV cache",
    "prompt_embeds": "prompts given as embeddings",
    "prefill": "continue a started output",
    "ban": "never generate given tokens",
}


@dataclass(frozen=True)
class EngineIdentity:
    """What an engine runs: part of every unit key, so that results of two models or templates never mix."""

    engine: str
    model: str
    model_hash: str
    template_hash: str
    dtype: str
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineConfig:
    """How to start an engine. ``options`` are passed on by name (vLLM: any EngineArgs field; openai: see there)."""

    model: str = "embedded"
    """Model folder, hub id, or `embedded` for the reasoner that ships with laconic."""
    engine: str = "auto"
    """hf, vllm, openai, or auto: vllm where it is installed, else hf."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... (hf engine)."""
    batch_size: int = 32
    """Requests decoded at once (hf: rows per batch; vllm: max_num_seqs; openai: open connections)."""
    max_model_len: int | None = None
    """Longest prompt plus output in tokens; None = what the model was made for."""
    options: Mapping[str, Json] = field(default_factory=dict)
    """Engine options by name, e.g. gpu_memory_utilization=0.8 or base_url=http://127.0.0.1:8000/v1."""


@runtime_checkable
class Engine(Protocol):
    """One way of running a model.

    `generate` yields traces as requests finish, in any order, and never loses a finished one to a later error: a
    request that cannot run gives a trace with ``finish="error"``. Traces come back with ``method=""``.
    """

    @property
    def capabilities(self) -> frozenset[str]:
        """Which of `CAPABILITIES` this engine has."""
        ...

    @property
    def identity(self) -> EngineIdentity:
        """What is running."""
        ...

    def generate(
        self, requests: Iterable[Request], *, on_trace: Callable[[Trace], None] | None = None
    ) -> Iterator[Trace]:
        """Decode; ``on_trace`` is called with each trace before it is yielded."""
        ...

    def score(self, items: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probability (nats) of each completion token given (prompt ids, completion ids)."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of bare text, no special tokens added."""
        ...

    def prompt_ids(self, request: Request) -> list[int]:
        """Ids that the model is shown for ``request``, prefill included."""
        ...

    def close(self) -> None:
        """Free the model; the engine cannot be used afterwards."""
        ...


class Row(NamedTuple):
    """One request's share of the forward pass that is running.

    Its tokens stand at sequence positions ``first_position ... first_position + length - 1`` and in the hidden states
    at ``[batch_row, offset:offset + length]`` of a (batch, time, hidden) tensor or, with ``batch_row`` None, at
    ``[offset:offset + length]`` of a flat (tokens, hidden) one. ``n_prompt`` counts prompt tokens without prefill.
    ``think_end`` is the position of the end-of-think token once it has been fed, else None; for a prompt that closes
    thinking, from its first pass on until the output opens thinking anew. ``ids`` are the sequence's newest tokens, the
    last one fed at the end: those of this pass at least; in the first pass of a request all those before it too.
    """

    request: Request
    batch_row: int | None
    offset: int
    length: int
    first_position: int
    n_prompt: int
    think_end: int | None = None
    ids: Sequence[int] = ()


T = TypeVar("T")


@runtime_checkable
class ModelAccess(Protocol):
    """Engines with the capability ``steer`` or ``capture``: the model's modules live in this process."""

    @property
    def eager(self) -> bool:
        """False if the forward pass was compiled or captured, so that hooks added later never run."""
        ...

    def apply_model(self, change: Callable[[Any], T]) -> T:
        """Call ``change(model)`` on the torch module and return its result."""
        ...

    def current_rows(self) -> list[Row]:
        """Which requests the forward pass now running serves; empty outside one."""
        ...

    def check_requests(self, check: Callable[[Request], object]) -> Callable[[], None]:
        """Call ``check`` with each request on its way in, until what is returned is called.

        A request for which it raises BadInput gives a trace with ``finish="error"``; the others go on.
        """
        ...

    def forget_prefixes(self) -> None:
        """Drop cached prefixes: their keys and values belong to another state of the model."""
        ...


class Step(NamedTuple):
    """What a row is fed next: the embedding ``feed`` (d,), or if None that of ``token``.

    ``token`` is None for a step that leaves nothing to be read; one without ``feed`` ends the row's latent thinking.
    """

    token: int | None
    feed: Any | None = None


class Thinker(Protocol):
    """Takes the steps of thinking that are no tokens."""

    def open(self, request: Request, prompt_ids: Sequence[int]) -> Any | None:
        """The state of a request that starts with latent thinking, None for one that does not."""
        ...

    def steps(self, hidden: Any, logits: Any, states: Sequence[Any]) -> Sequence[Step]:
        """The next step of each row.

        Args:
            hidden: (rows, d), last hidden states after the final norm.
            logits: (rows, vocabulary).
            states: of the rows, from `open`; the thinker changes them.
        """
        ...


@runtime_checkable
class LatentAccess(Protocol):
    """Engines with the capability ``latent`` whose model is fed embeddings from this process."""

    def think_with(self, thinker: Thinker) -> Callable[[], None]:
        """Let ``thinker`` open all requests from now on; returns what ends that."""
        ...


@runtime_checkable
class CacheAccess(Protocol):
    """Engines with the capability ``sparse_kv``: what their KV cache keeps is decided in this process."""

    def cache_with(self, make: Callable[[Any], Any]) -> Callable[[], None]:
        """Let ``make`` give an empty cache for the model from now on; returns what ends that.

        Traces then say in ``provenance["kv_bytes"]`` what the cache held per row when they ended.
        """
        ...


def unit_key(request: Request, identity: EngineIdentity, method: Mapping[str, Json]) -> str:
    """Key of a unit of work: hash of all that decides its output (rendered request, model, sampling, method)."""
    return digest(
        {
            "request": {
                "problem": request.problem_id,
                "sample": request.sample,
                "messages": [[m.role, m.content] for m in request.messages],
                "prompt_ids": list(request.prompt_ids) if request.prompt_ids is not None else None,
                "prefill_ids": list(request.prefill_ids),
                # Left out where empty: keys of runs made before the field existed stay what they were.
                "sampling": {k: v for k, v in request.sampling.__dict__.items() if k != "banned_ids" or v},
                "template": dict(request.template),
                "extras": dict(request.extras),
            },
            "model": [identity.model_hash, identity.template_hash, identity.dtype],
            "method": dict(method),
        }
    )
