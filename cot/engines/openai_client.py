"""HTTP to an OpenAI-compatible server: retries with back-off, and errors that say what to do."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from random import Random
from typing import Any

import httpx

from eval_math.errors import BadInput, EngineError

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT_SECONDS = 30.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """One HTTP call: where to and what."""

    path: str
    body: dict[str, Any]


class Refused(Exception):
    """The server turned one request down; other requests may run."""


@dataclass(frozen=True)
class Server:
    """Where the server is and how patient to be. ``retries`` counts further tries after the first."""

    base_url: str
    api_key: str | None
    connections: int
    timeout_seconds: float = 600.0
    retries: int = 6
    first_wait_seconds: float = 0.5


@dataclass
class Client:
    """A connection pool. `close` also ends the waits of requests that are being retried."""

    server: Server
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.server.api_key}"} if self.server.api_key else {}
        limits = httpx.Limits(max_connections=self.server.connections)
        self._http = httpx.Client(
            headers=headers, timeout=httpx.Timeout(self.server.timeout_seconds, connect=10.0), limits=limits
        )
        self._jitter = Random()

    def get(self, path: str) -> dict[str, Any]:
        """JSON of ``path``; see `post`."""
        return self._send("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """JSON answer to ``body``.

        Raises:
            Refused: this request cannot be served (bad request, or it failed again and again).
            BadInput: wrong key, wrong path or wrong model.
            EngineError: the server is not there, or asks to slow down without end.
        """
        return self._send("POST", path, body)

    def close(self) -> None:
        """Close all connections."""
        self.closed.set()
        self._http.close()

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        url = self.server.base_url.rstrip("/") + path
        failure: Exception = EngineError(f"{url}: the engine was closed")
        for attempt in range(self.server.retries + 1):
            if self.closed.is_set():
                break
            wait = None
            try:
                answer = self._http.request(method, url, json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise BadInput(f"base_url {self.server.base_url!r} is not a URL ({error})") from error
            except httpx.TimeoutException as error:
                failure = Refused(f"{url}: no answer within {self.server.timeout_seconds:g} s ({type(error).__name__})")
            except httpx.TransportError as error:
                failure = EngineError(f"{url}: no server answers ({error}); start it, or check base_url")
            else:
                if answer.status_code < 400:
                    return _json(answer, url)
                failure = _failure(answer, url)
                if answer.status_code not in RETRIED:
                    break
                wait = _retry_after(answer)
            if attempt < self.server.retries:
                self._wait(attempt, wait, failure)
        raise failure

    def _wait(self, attempt: int, asked_seconds: float | None, failure: Exception) -> None:
        seconds = self.server.first_wait_seconds * 2**attempt * (0.5 + self._jitter.random())
        seconds = min(LONGEST_WAIT_SECONDS, asked_seconds if asked_seconds is not None else seconds)
        logger.info("%s; trying again in %.1f s", failure, seconds)
        self.closed.wait(seconds)


@dataclass
class Posts:
    """Calls under way in daemon threads, so that an interrupted program need not wait for slow answers."""

    client: Client
    under_way: int = 0

    def __post_init__(self) -> None:
        self._calls: SimpleQueue[tuple[int, Call] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[int, dict[str, Any] | Exception]] = SimpleQueue()
        self._threads = 0

    def send(self, number: int, call: Call) -> None:
        """Start a call; its outcome comes back under ``number``."""
        self.under_way += 1
        if self._threads < min(self.under_way, self.client.server.connections):
            self._threads += 1
            threading.Thread(target=self._work, daemon=True).start()
        self._calls.put((number, call))

    def next(self) -> tuple[int, dict[str, Any] | Exception]:
        """Wait for an outcome: the JSON answer, or the error that `Client.post` raised."""
        outcome = self._answers.get()
        self.under_way -= 1
        return outcome

    def arrived(self) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
        """The outcomes that are there already, without waiting for further ones."""
        while True:
            try:
                outcome = self._answers.get_nowait()
            except Empty:
                return
            self.under_way -= 1
            yield outcome

    def close(self) -> None:
        """End the threads; calls under way are dropped."""
        self.client.close()
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (job := self._calls.get()) is not None:
            number, call = job
            try:
                self._answers.put((number, self.client.post(call.path, call.body)))
            except Exception as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
                self._answers.put((number, error))


def _failure(answer: httpx.Response, url: str) -> Exception:
    status, said = answer.status_code, _message(answer)
    if status in (401, 403):
        return BadInput(f"{url}: the server refuses the key ({status}: {said}); set option api_key or OPENAI_API_KEY")
    if status == 404:
        return BadInput(f"{url}: not found ({said}); check base_url (it usually ends in /v1) and the model's name")
    if status == 429:
        return EngineError(f"{url}: too many requests ({said}); lower batch_size or come back later")
    return Refused(f"{url}: {status}: {said}")


def _message(answer: httpx.Response) -> str:
    try:
        error = answer.json().get("error", {})
        text = error.get("message", "") if isinstance(error, dict) else str(error)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        text = answer.text
    return " ".join((text or answer.reason_phrase).split())[:300]


def _json(answer: httpx.Response, url: str) -> dict[str, Any]:
    try:
        value = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{url}: the answer is not JSON ({answer.text[:80]!r})") from error
    if not isinstance(value, dict):
        raise Refused(f"{url}: a JSON object is expected, found {type(value).__name__}")
    return value


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
