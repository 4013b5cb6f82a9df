"""The proxy's side towards its callers: bodies within bounds, keys, answers, and who has hung up."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Coroutine, Iterable, Sequence
from urllib.parse import unquote_to_bytes

from starlette.types import Receive, Scope, Send

from .proxy_errors import Refusal
from .proxy_metrics import Metrics

DRAINED = 16
"""How many times the limit a body is read, and thrown away, so that its sender gets to hear why it is refused."""


class HungUp(Exception):
    """The caller has gone."""


def header(scope: Scope, name: bytes) -> str | None:
    """A request's header, or None; its bytes as UTF-8 where they are."""
    found = next((value for key, value in scope["headers"] if key == name), None)
    return None if found is None else found.decode("utf-8", "replace")


async def read_body(receive: Receive, most_bytes: int, seconds: float) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413, too large; 408, too slow.
        HungUp: the caller left before its end.
    """
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HungUp
                part = message.get("body", b"")
                size += len(part)
                if size <= most_bytes:
                    parts.append(part)
                else:
                    parts.clear()
                if not message.get("more_body", False) or size > DRAINED * most_bytes:
                    break
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {seconds:g} s", "too_slow") from None
    if size > most_bytes:
        raise Refusal(413, f"the body is over {most_bytes:,} bytes (flag --most-body-bytes)", "too_large")
    return b"".join(parts)


async def while_connected(receive: Receive, work: Coroutine[None, None, None]) -> bool:
    """Do ``work`` unless the caller hangs up, which cancels it; returns whether it was done.

    The body must have been read: all that ``receive`` has left to tell is that the caller has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def refuse(send: Send, refusal: Refusal, metrics: Metrics) -> None:
    """Answer with an error object."""
    metrics.answers[refusal.status] += 1
    body = refusal.body()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def check_key(scope: Scope, keys: Sequence[str]) -> None:
    """Refuse callers who do not have one of ``keys``; without any, all are let in.

    Raises:
        Refusal: 401.
    """
    if not keys:
        return
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    bare = given[7:] if given[:7].lower() == b"bearer " else given
    if not any([hmac.compare_digest(bare, key.encode()) for key in keys]):
        raise Refusal(401, "no valid API key", "invalid_api_key")


def target(scope: Scope) -> bytes:
    """Path and query as the caller wrote them.

    Raises:
        Refusal: 404, a path that climbs: what lies outside /v1 of the upstream is not for callers.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if any(part in (b".", b"..") for part in _decoded(raw).replace(b"\\", b"/").split(b"/")):
        raise Refusal(404, "there is no such path here", "not_found")
    query: bytes = scope.get("query_string", b"")
    return raw + b"?" + query if query else raw


def _decoded(raw: bytes) -> bytes:
    """Decoded until nothing changes, as a server may decode twice."""
    while (found := unquote_to_bytes(raw)) != raw:
        raw = found
    return raw


def encoded(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header pairs as bytes; what a header cannot hold is replaced: the @ of a route's name, a line break."""
    return [
        (re.sub(r"[^a-z0-9._-]", "-", name.lower()).encode(), re.sub(r"[^ -~]", "?", value).encode())
        for name, value in pairs
    ]
