"""The records that every stage exchanges: frozen dataclasses, one JSON object per line on disk.

A `Problem` becomes a `Request`, an engine answers with a `Trace`, the grader adds a `Grade`. A file of records
starts with no header; each object carries ``"schema"`` so that a reader can refuse what it does not know.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from .errors import BadInput

SCHEMA = 1

Status = Literal["correct", "incorrect", "unparsable", "timeout", "gold_unparsable"]
Finish = Literal["stop", "length", "error"]
Role = Literal["system", "user", "assistant"]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Problem:
    """A question with its reference answer. ``id`` is stable across runs and unique within ``benchmark``."""

    id: str
    benchmark: str
    question: str
    answer: str
    solution: str | None = None
    level: int | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How an engine decodes. ``temperature == 0`` is greedy; ``max_tokens`` counts every generated token."""

    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_at_think_end: bool = False
    banned_ids: tuple[int, ...] = ()
    """Tokens that are never generated."""

    def __post_init__(self) -> None:
        checks = {
            "max_tokens": self.max_tokens >= 1,
            "temperature": 0 <= self.temperature <= 5,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
        }
        for name, good in checks.items():
            if not good:
                raise BadInput(f"sampling: {name}={getattr(self, name)!r} is out of range")


@dataclass(frozen=True)
class Request:
    """One unit of work for an engine: sample number ``sample`` of problem ``problem_id``.

    The prompt is ``prompt_ids`` if given, else ``messages`` rendered with the model's chat template (generation
    prompt on, ``template`` passed as keyword arguments). ``prefill_ids`` are appended to the rendered prompt as the
    start of the model's own output. ``extras`` carries what a method needs per request (strength, budget, route).
    """

    problem_id: str
    sample: int = 0
    messages: tuple[Message, ...] = ()
    prompt_ids: tuple[int, ...] | None = None
    prefill_ids: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    template: Mapping[str, Json] = field(default_factory=dict)
    extras: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.messages and self.prompt_ids is None:
            raise BadInput(f"request {self.problem_id!r}: neither messages nor prompt ids given")


@dataclass(frozen=True)
class Trace:
    """What a model said to one request.

    Tokens are counted from ids: ``n_thinking_tokens`` up to and including the end-of-think token,
    ``n_answer_tokens`` the rest; both count prefilled output too. ``n_probe_tokens`` are decoded and thrown away by
    the method; ``n_latent_steps`` are steps without a visible token; ``n_forward`` counts forward passes of decoding.
    """

    problem_id: str
    sample: int
    method: str
    text: str
    thinking: str | None
    answer_text: str
    n_prompt_tokens: int
    n_thinking_tokens: int
    n_answer_tokens: int
    finish: Finish
    key: str = ""
    n_probe_tokens: int = 0
    n_latent_steps: int = 0
    n_forward: int = 0
    seconds: float = 0.0
    token_ids: tuple[int, ...] | None = None
    error: str | None = None
    provenance: Mapping[str, Json] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Visible generated tokens, probes left out."""
        return self.n_thinking_tokens + self.n_answer_tokens


@dataclass(frozen=True)
class Grade:
    """The verdict on one trace; it can be made again over stored traces without generating."""

    problem_id: str
    sample: int
    status: Status
    truncated: bool = False
    extracted: str | None = None
    rule: str | None = None
    tier: str | None = None
    reason: str | None = None

    @property
    def correct(self) -> bool:
        """True only for the status ``correct``."""
        return self.status == "correct"


@dataclass(frozen=True)
class Pair:
    """A long and a short chain of thought for one problem, both graded correct and neither cut off."""

    problem_id: str
    question: str
    long: str
    short: str
    source: str
    n_long_tokens: int = 0
    n_short_tokens: int = 0


R = TypeVar("R", Message, Problem, Sampling, Request, Trace, Grade, Pair)


def to_json(record: Message | Problem | Sampling | Request | Trace | Grade | Pair) -> dict[str, Any]:
    """The record as a JSON object; empty fields that have a default are left out, ``schema`` is added."""
    required = {f.name for f in dataclasses.fields(record) if f.default is f.default_factory is dataclasses.MISSING}
    shown = {k: v for k, v in dataclasses.asdict(record).items() if k in required or v not in (None, (), {})}
    return {"schema": SCHEMA, **shown}


def to_line(record: Problem | Request | Trace | Grade | Pair) -> str:
    """One JSON line, newline included."""
    return json.dumps(to_json(record), ensure_ascii=False, separators=(",", ":")) + "\n"


def from_json(kind: type[R], row: Mapping[str, Any]) -> R:
    """The record of class ``kind`` in ``row``.

    Raises:
        BadInput: unknown schema, missing field or unknown field.
    """
    schema = row.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise BadInput(f"{kind.__name__}: schema {schema!r} found, {SCHEMA} expected; written by another version?")
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = set(row) - set(known) - {"schema"}
    if unknown:
        raise BadInput(f"{kind.__name__}: unknown field(s) {', '.join(sorted(unknown))}")
    values = {name: _restore(name, value) for name, value in row.items() if name in known}
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInput(f"{kind.__name__}: {error}") from error


def _restore(name: str, value: Any) -> Any:
    if name == "messages":
        return tuple(Message(**m) if isinstance(m, Mapping) else m for m in value)
    if name == "sampling" and isinstance(value, Mapping):
        return from_json(Sampling, value)
    return tuple(value) if isinstance(value, list) else value


def digest(value: Json | Mapping[str, Any] | list[Any], length: int = 32) -> str:
    """sha256 of the canonical JSON of ``value`` (sorted keys, no spaces), first ``length`` hex digits."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def unit_seed(run_seed: int, problem_id: str, sample: int) -> int:
    """Seed of one unit of work (31 bits): independent of order, batch size and resume point."""
    return int(digest([run_seed, problem_id, sample], 8), 16) & 0x7FFFFFFF


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
