"""The proxy's side towards the server behind it: one pool of connections, bytes handed on as they come."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from starlette.types import Send

from eval_math.errors import EngineError

from .proxy_errors import Refusal
from .proxy_metrics import Metrics

Headers = list[tuple[bytes, bytes]]
KEPT_SECONDS = 4.0
"""How long an idle connection is kept: less than the 5 s after which uvicorn, and so vLLM, closes it."""
TAIL_BYTES = 4096
HOP_HEADERS = frozenset(
    (b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"proxy-authenticate",
     b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
"""Of one connection alone, or written anew."""
USAGE = re.compile(rb'(?<!\\)"(prompt|completion)_tokens"\s*:\s*(\d+)')


@dataclass(frozen=True)
class Call:
    """One request to the upstream."""

    method: str
    target: bytes
    """Path and query as the caller wrote them."""
    headers: Headers
    body: bytes
    route: str = ""
    """For the count of tokens; "" where the request was not routed."""


class Upstream:
    """Calls one server. httpx's transport is used without its client: no cookies, redirects or environment, which a
    proxy must not have, and a third of the time per request less."""

    def __init__(self, base: str, connect_seconds: float, read_seconds: float, metrics: Metrics) -> None:
        self._base = httpx.URL(base)
        self._timeouts = {"connect": connect_seconds, "read": read_seconds, "write": read_seconds, "pool": None}
        self._metrics = metrics
        self._transport: httpx.AsyncHTTPTransport | None = None

    def open(self) -> None:
        """Get ready; no connection is made yet."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=KEPT_SECONDS)
        self._transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)

    async def close(self) -> None:
        """Close every connection."""
        if self._transport is not None:
            await self._transport.aclose()

    async def send(self, call: Call, read_seconds: float | None = None) -> httpx.Response:
        """The answer's status and headers; its body is still to be read, and the answer to be closed.

        Raises:
            Refusal: 502 or 504, the upstream does not answer; 400, it cannot be asked so.
        """
        if self._transport is None:
            raise EngineError("the proxy has not started")
        timeouts = self._timeouts if read_seconds is None else {**self._timeouts, "read": read_seconds}
        try:
            url = self._base.copy_with(raw_path=call.target)
            built = httpx.Request(
                call.method, url, headers=call.headers, content=call.body or None, extensions={"timeout": timeouts}
            )
            return await self._transport.handle_async_request(built)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError) as error:
            raise Refusal(
                400, f"this cannot be asked of the upstream ({type(error).__name__})", "bad_request"
            ) from error
        except httpx.HTTPError as error:
            kind = type(error).__name__
            self._metrics.upstream_errors[kind] += 1
            late = isinstance(error, httpx.TimeoutException)
            raise Refusal(504 if late else 502, f"the upstream did not answer ({kind})", "upstream") from error

    async def fetch(self, call: Call, read_seconds: float | None = None) -> httpx.Response:
        """The whole answer, read.

        Raises:
            Refusal: as `send`, and where the answer breaks off.
        """
        found = await self.send(call, read_seconds)
        try:
            await found.aread()
            return found
        except httpx.HTTPError as error:
            raise Refusal(502, f"the upstream's answer broke off ({type(error).__name__})", "upstream") from error
        finally:
            await found.aclose()

    async def relay(self, call: Call, send: Send, extra: Headers, keep: Keep | None = None) -> None:
        """Hand the answer on: each part at once, none changed. ``keep`` is shown the whole of it at the end.

        Where the upstream breaks off, so does the answer, without its end: a part must not be taken for the whole.

        Raises:
            Refusal: as `send`; nothing was sent then.
        """
        started = time.perf_counter()
        found = await self.send(call)
        self._metrics.first_byte_seconds.observe(time.perf_counter() - started)
        self._metrics.answers[found.status_code] += 1
        answer = Answer(found.status_code, forwarded(found.headers.raw, length=True), keep is not None)
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers + extra})
            async for part in found.aiter_raw():
                answer.add(part)
                if not answer.complete:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except httpx.HTTPError as error:
            self._metrics.upstream_errors[type(error).__name__] += 1
            return
        finally:
            await found.aclose()
            self._count(call, answer)
        self._metrics.upstream_seconds.observe(time.perf_counter() - started)
        if keep is not None:
            keep(answer.status, answer.headers, b"".join(answer.parts))
        # The end comes last: a caller who has all of an answer may hang up, and that ends what is still to do here.
        await send({"type": "http.response.body", "body": answer.last, "more_body": False})

    def _count(self, call: Call, answer: Answer) -> None:
        """Tokens, where the answer's end tells them; also where the caller did not read to its last byte."""
        for kind, count in dict(USAGE.findall(answer.tail)).items():
            self._metrics.tokens[call.route or "none", kind.decode()] += int(count)


@dataclass
class Answer:
    """What has come of an answer."""

    status: int
    headers: Headers
    keeps: bool
    size: int = 0
    tail: bytes = b""
    last: bytes = b""
    """The part that completes the promised length: sent with the end, as one."""
    parts: list[bytes] = field(default_factory=list)

    def add(self, part: bytes) -> None:
        """One more part."""
        self.size += len(part)
        self.tail = (self.tail + part)[-TAIL_BYTES:]
        self.last = part if self.complete else b""
        if self.keeps:
            self.parts.append(part)

    @property
    def complete(self) -> bool:
        """Whether the promised length is reached."""
        return str(self.size).encode() == next((v for k, v in self.headers if k == b"content-length"), None)


Keep = Callable[[int, Headers, bytes], None]


def forwarded(headers: Headers, *, length: bool = False) -> Headers:
    """Headers for the other side: without those of one connection alone and those for this proxy."""
    named = b",".join(value for name, value in headers if name.lower() == b"connection").lower()
    dropped = HOP_HEADERS | {name.strip() for name in named.split(b",")}
    dropped -= {b"content-length"} if length else set()
    lower = [(name.lower(), value) for name, value in headers]
    return [(name, value) for name, value in lower if name not in dropped and not name.startswith(b"x-router-")]
