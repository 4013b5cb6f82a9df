"""An OpenAI-compatible proxy in front of any server: requests for model `auto` go down the route that pays.

Bytes of an answer are passed on as they come, streams included; a caller who hangs up ends the upstream's work. Callers
who say how much to think, or name a model, are passed through. Prompts are never logged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from eval_math.errors import BadInput
from eval_math.records import Json

from .decision import Decides, Decision
from .proxy_decide import Desk
from .proxy_errors import Refusal
from .proxy_families import Change
from .proxy_metrics import Metrics
from .proxy_request import changed, clean, encode, parse, read_chat
from .proxy_upstream import Call, Headers, Upstream, forwarded
from .proxy_wire import HungUp, check_key, encoded, header, read_body, refuse, target, while_connected
from .semantic_cache import AnswerCache, CacheConfig, Keys

logger = logging.getLogger(__name__)
AUTO = "auto"
CHAT = "/v1/chat/completions"
READY_SECONDS = 5.0
NO_ROUTE = Decision("", {}, {})


@dataclass(frozen=True)
class ProxyConfig:
    """Where requests go, and how many."""

    upstream: str
    """Address of the server, with or without /v1."""
    model: str
    """What the upstream calls the model that `auto` stands for."""
    changes: Mapping[str, Change] = field(default_factory=dict)
    """What each route writes into a request."""
    api_keys: tuple[str, ...] = ()
    """Keys that callers must have one of; without any, the caller's own key is passed on."""
    upstream_key: str | None = None
    """Key for the upstream, in place of the caller's."""
    most_body_bytes: int = 1_000_000
    most_requests: int = 256
    """Requests under way at once; more are answered with 503."""
    router_seconds: float = 0.2
    """Longest time to decide; then the fallback route is taken."""
    connect_seconds: float = 5.0
    read_seconds: float = 600.0
    """Longest silence of the upstream."""
    body_seconds: float = 60.0
    """Longest time for a caller's body to arrive."""
    cache: CacheConfig = field(default_factory=CacheConfig)

    @property
    def base(self) -> str:
        """The upstream without a path."""
        return self.upstream.rstrip("/").removesuffix("/v1")


@dataclass(frozen=True)
class Judged:
    """Where a request goes and why; ``bypass`` says why an `auto` was not judged."""

    decision: Decision
    reason: str
    seconds: float = 0.0
    bypass: str = ""

    def headers(self) -> Headers:
        """For the answer."""
        found = [("x-router-reason", self.reason)]
        found += [("x-router-bypass", self.bypass)] if self.bypass else []
        if self.decision.route:
            found += [("x-router-route", self.decision.route), ("x-router-ms", f"{1000 * self.seconds:.2f}")]
            found += [("x-router-fallback", self.decision.fallback)] if self.decision.fallback else []
            found += [(f"x-router-p-{name}", f"{p:.4f}") for name, p in self.decision.success.items()]
            found += [(f"x-router-tokens-{name}", f"{n:.0f}") for name, n in self.decision.tokens.items()]
        return encoded(found)


@dataclass(frozen=True)
class Outgoing:
    """A request as it goes upstream."""

    raw: bytes
    judged: Judged
    body: Mapping[str, Json] | None = None
    """The chat request that ``raw`` encodes; None where it isn't one for `auto`."""


class Proxy:
    """The application, see `app`; one per process.

    Raises:
        BadInput: a route of the router that nothing is known to write for.
    """

    def __init__(self, router: Decides, config: ProxyConfig) -> None:
        self.config, self.metrics = config, Metrics()
        self._check(router)
        self.desk = Desk(router, config.router_seconds)
        self.upstream = Upstream(config.base, config.connect_seconds, config.read_seconds, self.metrics)
        self.cache = AnswerCache(config.cache)

    def replace(self, router: Decides) -> None:
        """Ask another router from now on.

        Raises:
            BadInput: as at start; the one before stays.
        """
        self._check(router)
        self.desk.router = router

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/router", self._about),
            Route("/route", Door(self._decide, self.metrics), methods=["POST"]),
            Route("/v1/models", Door(self._models, self.metrics), methods=["GET"]),
            Route("/v1/{path:path}", Door(self._pass, self.metrics)),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: _http_error})

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.upstream.open()
        try:
            yield
        finally:
            self.desk.close()
            await self.upstream.close()

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        try:
            found = await self.upstream.fetch(self._listing(request.scope), READY_SECONDS)
        except Refusal as refusal:
            return _json({"status": "upstream unreachable", "error": refusal.message}, 503)
        good = found.status_code < 500
        return _json({"status": "ok" if good else "upstream failing", "code": found.status_code}, 200 if good else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _about(self, request: Request) -> Response:
        router = self.desk.router
        return _json({"routes": list(router.routes), "fallback": router.fallback, "model": self.config.model})

    async def _decide(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The decision alone, for a chat request or {"question": ..., "category": ...}."""
        check_key(scope, self.config.api_keys)
        body = parse(await self._body(receive))
        given, category = body.get("question"), body.get("category")
        question = clean(given) if isinstance(given, str) else read_chat(body).question
        judged = await self._judged(question, category if isinstance(category, str) else None)
        found = judged.decision
        about = {"route": found.route, "success": dict(found.success), "tokens": dict(found.tokens),
                 "fallback": found.fallback, "milliseconds": 1000 * judged.seconds}  # fmt: skip
        await _json(about)(scope, receive, send)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The upstream's list with `auto` before it."""
        check_key(scope, self.config.api_keys)
        found = await self.upstream.fetch(self._listing(scope))
        answer = Response(found.content, found.status_code, media_type=found.headers.get("content-type"))
        try:
            listed = found.json()
            listed["data"] = [{"id": AUTO, "object": "model", "owned_by": "laconic"}, *listed["data"]]
            answer = _json(listed, found.status_code)
        except (ValueError, LookupError, TypeError):
            logger.debug("the upstream's list of models is passed on as it is")
        await answer(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any other request under /v1."""
        check_key(scope, self.config.api_keys)
        where = target(scope)
        raw = await self._body(receive)
        if self.metrics.inflight >= self.config.most_requests:
            raise Refusal(503, "too many requests under way; try again", "overloaded", {"retry-after": "1"})
        self.metrics.inflight += 1
        try:
            if not await while_connected(receive, self._answer(scope, where, raw, send)):
                raise HungUp
        finally:
            self.metrics.inflight -= 1

    async def _answer(self, scope: Scope, where: bytes, raw: bytes, send: Send) -> None:
        outgoing = await self._routed(scope, raw)
        extra = outgoing.judged.headers()
        keys = self._keys(scope, outgoing)
        found = self.cache.find(keys) if keys is not None else None
        if found is not None:
            kept, how = found
            self.metrics.cache[how] += 1
            self.metrics.answers[kept.status] += 1
            length = (b"content-length", str(len(kept.body)).encode())
            told = [*kept.headers, length, *extra, *encoded([("x-router-cache", how)])]
            await send({"type": "http.response.start", "status": kept.status, "headers": told})
            await send({"type": "http.response.body", "body": kept.body})
            return
        call = Call(scope["method"], where, self._headers(scope), outgoing.raw, outgoing.judged.decision.route)
        if keys is None:
            await self.upstream.relay(call, send, extra)
            return
        self.metrics.cache["miss"] += 1
        await self.upstream.relay(
            call, send, [*extra, (b"x-router-cache", b"miss")], lambda *answer: self.cache.put(keys, *answer)
        )

    async def _routed(self, scope: Scope, raw: bytes) -> Outgoing:
        """The body for the upstream, and why it is so.

        Raises:
            Refusal: 400, a chat request that is no JSON object, or a route that there is not.
        """
        coded = header(scope, b"content-encoding")
        if scope["method"] != "POST" or coded not in (None, "identity"):
            return Outgoing(raw, Judged(NO_ROUTE, "passed through"))
        if scope["path"].rstrip("/") != CHAT:
            return self._renamed(raw)
        body = parse(raw)
        if body.get("model") != AUTO:
            return Outgoing(raw, Judged(NO_ROUTE, "model named"), body)
        judged = await self._chosen(scope, body)
        route = judged.decision.route
        self.metrics.decisions[route or "none", judged.reason] += 1
        sent = changed(body, self.config.changes[route] if route else Change(), self.config.model)
        return Outgoing(encode(sent), judged, sent)

    def _renamed(self, raw: bytes) -> Outgoing:
        """Bodies that are no chat: `auto` is named as the upstream names it; all else passes untouched."""
        passed = Outgoing(raw, Judged(NO_ROUTE, "passed through"))
        if b"auto" not in raw:
            return passed
        try:
            body = parse(raw)
            if body.get("model") != AUTO:
                return passed
            return Outgoing(encode({**body, "model": self.config.model}), Judged(NO_ROUTE, "no chat", bypass="no chat"))
        except Refusal:
            return passed

    async def _chosen(self, scope: Scope, body: Mapping[str, Json]) -> Judged:
        forced = header(scope, b"x-router-route")
        if forced is not None:
            if forced not in self.config.changes:
                known = ", ".join(self.desk.router.routes)
                raise Refusal(400, f"x-router-route: {forced!r} is no route; known: {known}", "unknown_route")
            return Judged(Decision(forced, {}, {}), "caller")
        asked = read_chat(body)
        if asked.bypass:
            return Judged(NO_ROUTE, asked.bypass, bypass=asked.bypass)
        return await self._judged(asked.question, header(scope, b"x-router-category"))

    async def _judged(self, question: str, category: str | None) -> Judged:
        choice = await self.desk.choose(question, category)
        self.metrics.router_seconds.observe(choice.seconds)
        return Judged(choice.decision, choice.decision.fallback or "judged", choice.seconds)

    def _keys(self, scope: Scope, outgoing: Outgoing) -> Keys | None:
        """Names of a request in the cache; None where it is off, unfit, or the caller wants none."""
        if outgoing.body is None or "no-" in (header(scope, b"cache-control") or ""):
            return None
        return self.cache.keys(outgoing.body, scope["path"], header(scope, b"authorization") or "")

    async def _body(self, receive: Receive) -> bytes:
        return await read_body(receive, self.config.most_body_bytes, self.config.body_seconds)

    def _headers(self, scope: Scope) -> Headers:
        """For the upstream: its own key, else the caller's, which is not shown if it was ours."""
        found = [(name, value) for name, value in forwarded(scope["headers"]) if name != b"authorization"]
        if self.config.upstream_key is not None:
            return [*found, (b"authorization", f"Bearer {self.config.upstream_key}".encode())]
        given = [] if self.config.api_keys else [pair for pair in scope["headers"] if pair[0] == b"authorization"]
        return found + given

    def _listing(self, scope: Scope) -> Call:
        """A call for the list of models; its answer must be one that can be read here."""
        kept = [(name, value) for name, value in self._headers(scope) if name == b"authorization"]
        return Call("GET", b"/v1/models", kept, b"")

    def _check(self, router: Decides) -> None:
        missing = [name for name in router.routes if name not in self.config.changes]
        if missing:
            raise BadInput(
                f"route {missing[0]!r} has no request fields; known: {', '.join(self.config.changes) or 'none'}; give "
                f'them, e.g. --change {missing[0]} \'{{"reasoning_effort": "low"}}\''
            )


@dataclass(frozen=True)
class Door:
    """An endpoint that speaks ASGI itself; a refusal becomes an error object."""

    act: Callable[[Scope, Receive, Send], Awaitable[None]]
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self.act(scope, receive, send)
        except Refusal as refusal:
            await refuse(send, refusal, self.metrics)
        except HungUp:
            self.metrics.hung_up += 1


async def _http_error(request: Request, error: Exception) -> Response:
    """Paths and methods that there are not."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    refusal = Refusal(status, f"{request.method} {request.url.path}: {getattr(error, 'detail', '')}", "not_here")
    return Response(refusal.body(), status, media_type="application/json")


def _json(value: object, code: int = 200) -> Response:
    return Response(json.dumps(value).encode(), code, media_type="application/json")
