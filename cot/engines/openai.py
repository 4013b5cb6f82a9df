"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp, hosted ones.

Options: ``base_url`` (default ``http://127.0.0.1:8000/v1``), ``api_key`` (or environment ``OPENAI_API_KEY``),
``tokenizer`` (model folder; needed for prefill and prompt ids; a local ``model`` serves as one), ``timeout_seconds``,
``retries``, ``first_wait_seconds``.

Tokens are counted from the ids that vLLM servers return (provenance ``counted: ids``), else with the tokenizer
(``tokenizer``), else from the server's own usage (``usage``; thinking is then split off by its share of the text
unless the server counts reasoning tokens).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from eval_math.errors import BadInput, EngineError
from eval_math.records import Request, Trace, digest

from ..chat import open_chat, resolve_model, template_hash
from ..engine import EngineConfig, EngineIdentity
from . import ENGINES
from .openai_answer import Reader
from .openai_client import Call, Client, Posts, Refused, Server
from .openai_wire import Wire, read_answer, read_scores
from .work import Desk, Work, check_items, check_open, check_options, deliver

OPTIONS = ("base_url", "api_key", "tokenizer", "timeout_seconds", "retries", "first_wait_seconds")
DEFAULT_URL = "http://127.0.0.1:8000/v1"
NO_LIMIT_TOKENS = 2**31


class OpenaiEngine:
    """See `Engine`. HTTP runs in threads, rendering and counting in the caller's."""

    def __init__(self, server: Server, wire: Wire, identity: EngineIdentity, max_model_len: int) -> None:
        self._server = server
        self._wire = wire
        self._max_model_len = max_model_len
        self._reader = Reader(wire.desk, {"engine": "openai", "model": identity.model})
        self._closed = False
        self.identity = identity
        self.capabilities: frozenset[str] = _capabilities(wire)

    def generate(
        self, requests: Iterable[Request], *, on_trace: Callable[[Trace], None] | None = None
    ) -> Iterator[Trace]:
        """Decode; see `Engine.generate`.

        Raises:
            EngineError: the server went away; traces finished before were delivered.
        """
        check_open(self._closed, "openai")
        return deliver(self._generate(iter(requests)), on_trace)

    def score(self, items: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probabilities in nats; see `Engine.score`.

        Raises:
            BadInput: the server is not vLLM, or an item cannot be scored.
            EngineError: the server failed.
        """
        check_open(self._closed, "openai")
        if "score" not in self.capabilities:
            raise BadInput("score: only vLLM servers return log-probabilities of given tokens; use engine vllm or hf")
        check_items(items, self._max_model_len - 1)
        scores: list[list[float]] = [[] for _ in items]
        posts = Posts(Client(self._server))
        try:
            for at, (prompt, completion) in enumerate(items):
                if completion:
                    posts.send(at, self._wire.score_call([*prompt, *completion]))
            while posts.under_way:
                at, answer = posts.next()
                scores[at] = read_scores(_raised(answer), list(items[at][1]))
        except Refused as error:
            raise EngineError(f"score: {error}") from error
        finally:
            posts.close()
        return scores

    def encode(self, text: str) -> list[int]:
        """Ids of bare text; needs a tokenizer."""
        return self._desk().chat.encode(text)

    def prompt_ids(self, request: Request) -> list[int]:
        """Rendered prompt and prefill; needs a tokenizer unless the request holds ids."""
        if request.prompt_ids is not None:
            return [*request.prompt_ids, *request.prefill_ids]
        return self._desk().chat.render(request)

    def close(self) -> None:
        """Nothing stays open between calls."""
        self._closed = True

    def _desk(self) -> Desk:
        if self._wire.desk is None:
            raise BadInput("the openai engine has no tokenizer; set option tokenizer=FOLDER of the model")
        return self._wire.desk

    def _generate(self, source: Iterator[Request]) -> Iterator[Trace]:
        posts, numbers = Posts(Client(self._server)), count()
        sent: dict[int, Sent] = {}
        try:
            while True:
                while len(sent) < self._server.connections and (request := next(source, None)) is not None:
                    prepared = self._prepare(request)
                    if isinstance(prepared, Trace):
                        yield prepared
                        continue
                    number = next(numbers)
                    sent[number] = prepared
                    posts.send(number, prepared.call)
                if not sent:
                    return
                number, answer = posts.next()
                if _fatal(answer):
                    yield from self._last(posts, sent)
                yield self._finished(sent.pop(number), answer)
        finally:
            posts.close()

    def _last(self, posts: Posts, sent: dict[int, Sent]) -> Iterator[Trace]:
        """What has come in behind a fatal error, so that no finished answer is lost to it."""
        for number, answer in posts.arrived():
            if not _fatal(answer):
                yield self._finished(sent.pop(number), answer)

    def _prepare(self, request: Request) -> Sent | Trace:
        """What to send, or the trace of a request that cannot run."""
        work = self._wire.desk.admit(request) if self._wire.desk is not None else None
        if isinstance(work, Trace):
            return work
        try:
            return Sent(request, work, self._wire.call(request, work), time.perf_counter())
        except Refused as error:
            return self._reader.failed(request, f"request {request.problem_id!r}: {error}")

    def _finished(self, sent: Sent, value: dict[str, Any] | Exception) -> Trace:
        try:
            answer = read_answer(_raised(value))
        except Refused as error:
            return self._reader.failed(sent.request, f"request {sent.request.problem_id!r}: {error}")
        trace = self._reader.trace(sent.request, sent.work, answer)
        return replace(trace, seconds=time.perf_counter() - sent.started)


@dataclass(frozen=True)
class Sent:
    """A request under way."""

    request: Request
    work: Work | None
    call: Call
    started: float


def open_engine(config: EngineConfig) -> OpenaiEngine:
    """Connect to the server.

    Raises:
        BadInput: unknown option, wrong key, or a model that the server does not serve (it lists those it does).
        EngineError: no server answers.
    """
    check_options(config.options, OPTIONS, "openai")
    server = _server(config)
    folder = _tokenizer_folder(config)
    served = _served(replace(server, retries=min(server.retries, 2)), config.model, folder)
    length = config.max_model_len or int(served.get("max_model_len") or NO_LIMIT_TOKENS)
    provenance = {"engine": "openai", "model": config.model}
    desk = Desk(open_chat(folder), length, provenance) if folder is not None else None
    wire = Wire(
        model=served["id"],
        dialect="vllm" if served.get("owned_by") == "vllm" else "plain",
        desk=desk,
        limit_name="max_completion_tokens" if "api.openai.com" in server.base_url else "max_tokens",
    )
    identity = EngineIdentity(
        engine="openai",
        model=config.model,
        model_hash=digest(["openai", served["id"]]),
        template_hash=template_hash(desk.chat.tokenizer) if desk is not None else "server",
        dtype="server",
        settings={"base_url": server.base_url, "batch_size": config.batch_size, "dialect": wire.dialect},
    )
    return OpenaiEngine(server, wire, identity, length)


def _server(config: EngineConfig) -> Server:
    options = config.options
    numbers: dict[str, Any] = {}
    for name, kind in (("timeout_seconds", float), ("retries", int), ("first_wait_seconds", float)):
        try:
            numbers |= {name: kind(options[name])} if name in options else {}  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError) as error:
            raise BadInput(f"engine openai: {name}={options[name]!r} is not a number") from error
    url = str(options.get("base_url") or DEFAULT_URL)
    if not url.startswith(("http://", "https://")):
        raise BadInput(f"engine openai: base_url={url!r}; expected http://HOST:PORT/v1")
    key = options.get("api_key") or os.environ.get("OPENAI_API_KEY")
    return Server(url, str(key) if key else None, config.batch_size, **numbers)


def _tokenizer_folder(config: EngineConfig) -> Path | None:
    named = config.options.get("tokenizer")
    if named is not None:
        folder = Path(str(named)).expanduser()
        if not folder.is_dir():
            raise BadInput(f"engine openai: tokenizer={str(named)!r}; expected a folder with tokenizer files")
        return folder
    local = config.model == "embedded" or Path(config.model).expanduser().is_dir()
    return resolve_model(config.model) if local else None


def _served(server: Server, model: str, folder: Path | None) -> Mapping[str, Any]:
    """The server's entry for ``model``, by name or by the folder it was started with."""
    client = Client(server)
    try:
        listed = client.get("/models").get("data")
    except Refused as error:
        raise EngineError(f"{error}; is this an OpenAI-compatible server?") from error
    finally:
        client.close()
    entries = [entry for entry in listed or [] if isinstance(entry, dict) and "id" in entry]
    names = {model} | ({str(folder)} if folder is not None else set())
    for entry in entries:
        if entry["id"] in names or (folder is not None and entry.get("root") == str(folder)):
            return entry
    served = ", ".join(str(entry["id"]) for entry in entries) or "nothing"
    raise BadInput(f"the server at {server.base_url} does not serve {model!r}; it serves {served}")


def _capabilities(wire: Wire) -> frozenset[str]:
    missing = set() if wire.desk is not None else {"prefill"}
    missing |= set() if wire.dialect == "vllm" else {"score", "ban"}
    return ENGINES["openai"].capabilities - missing


def _fatal(answer: dict[str, Any] | Exception) -> bool:
    """Whether no further request can be served, rather than this one."""
    return isinstance(answer, Exception) and not isinstance(answer, Refused)


def _raised(value: dict[str, Any] | Exception) -> dict[str, Any]:
    if isinstance(value, Exception):
        raise value
    return value
