"""An OpenAI-compatible proxy in front of any server: requests for model `auto` go down the route that pays.

Bytes of an answer are passed on as they come, streams included; a client that leaves ends the upstream request. A
caller who says how much to think, or names a model, is passed through. Prompts are never logged.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from eval_math.errors import BadInput

from .decision import Decides, Decision
from .proxy_metrics import Metrics
from .proxy_request import RouteChange, decides_itself, error_body, question_of, read_body, rewritten

logger = logging.getLogger(__name__)
AUTO = "auto"
CHAT = "v1/chat/completions"
HOP_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Of one connection alone, or written anew."""
BYPASS = Decision("", {}, {}, "")


@dataclass(frozen=True)
class ProxyConfig:
    """Where requests go, and how many."""

    upstream: str
    """Address of the server, with or without /v1."""
    model: str
    """What the upstream calls the model that `auto` stands for."""
    changes: Mapping[str, RouteChange] = field(default_factory=dict)
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

    @property
    def base(self) -> str:
        """The upstream without a path."""
        return self.upstream.rstrip("/").removesuffix("/v1")


@dataclass(frozen=True)
class Judged:
    """A decision, why it was taken, and how long that took."""

    decision: Decision
    reason: str
    seconds: float

    def headers(self) -> dict[str, str]:
        """For the answer."""
        found = {"x-router-reason": self.reason}
        if self.decision.route:
            found |= {"x-router-route": self.decision.route, "x-router-ms": f"{1000 * self.seconds:.2f}"}
            found |= {f"x-router-p-{name}": f"{p:.4f}" for name, p in self.decision.success.items()}
            found |= {f"x-router-tokens-{name}": f"{n:.0f}" for name, n in self.decision.tokens.items()}
        return found


class Proxy:
    """The application, see `app`; one per process.

    Raises:
        BadInput: a route of the router that nothing is known to write for.
    """

    def __init__(self, router: Decides, config: ProxyConfig) -> None:
        missing = [name for name in router.routes if name not in config.changes]
        if missing:
            raise BadInput(
                f"route {missing[0]!r} has no request fields; known: {', '.join(config.changes) or 'none'}; give them, "
                'e.g. --change think \'{"chat_template_kwargs": {"enable_thinking": true}}\''
            )
        self.router, self.config, self.metrics = router, config, Metrics()
        self._client: httpx.AsyncClient | None = None

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/router", self._about),
            Route("/route", self._decide, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/{path:path}", self._pass, methods=["GET", "POST", "DELETE"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        timeout = httpx.Timeout(self.config.read_seconds, connect=self.config.connect_seconds, pool=None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.config.most_requests)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
            self._client = client
            yield

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        try:
            found = await self._upstream().get(f"{self.config.base}/v1/models", headers=self._key(request), timeout=5.0)
        except httpx.HTTPError as error:
            return _json({"status": "upstream unreachable", "error": type(error).__name__}, 503)
        good = found.status_code < 500
        return _json({"status": "ok" if good else "upstream failing", "code": found.status_code}, 200 if good else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _about(self, request: Request) -> Response:
        return _json({"routes": list(self.router.routes), "fallback": self.router.fallback, "model": self.config.model})

    async def _decide(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        try:
            body = read_body(await self._body(request))
        except _TooLarge:
            return self._too_large()
        except BadInput as error:
            return self._error(str(error), "invalid_request_error", 400)
        judged = await self._judged(question_of(body) or str(body.get("question") or ""))
        found = judged.decision
        return _json({"route": found.route, "success": dict(found.success), "tokens": dict(found.tokens),
                      "fallback": found.fallback, "milliseconds": 1000 * judged.seconds})  # fmt: skip

    async def _models(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        try:
            found = await self._upstream().get(f"{self.config.base}/v1/models", headers=self._key(request))
        except httpx.HTTPError as error:
            return self._unreachable(error)
        try:
            listed = found.json()
            listed["data"] = [{"id": AUTO, "object": "model", "owned_by": "laconic"}, *listed["data"]]
        except (ValueError, KeyError, TypeError):
            return Response(found.content, found.status_code, media_type=found.headers.get("content-type"))
        return _json(listed, found.status_code)

    async def _pass(self, request: Request) -> Response:
        """Any other request under /v1."""
        refused = self._refused(request)
        if refused is not None:
            return refused
        if self.metrics.inflight >= self.config.most_requests:
            answer = self._error("too many requests under way; try again", "overloaded_error", 503)
            answer.headers["retry-after"] = "1"
            return answer
        self.metrics.inflight += 1
        handed_on = False
        try:
            raw, judged = await self._routed(request)
            answer = await self._forward(request, raw, judged)
            handed_on = isinstance(answer, StreamingResponse)
            return answer
        except _TooLarge:
            return self._too_large()
        except BadInput as error:
            return self._error(str(error), "invalid_request_error", 400)
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            if not handed_on:
                self.metrics.inflight -= 1

    async def _routed(self, request: Request) -> tuple[bytes, Judged]:
        """The body for the upstream, and why it is so.

        Raises:
            BadInput: a chat request that is no JSON object, or a route that there is not.
        """
        raw = await self._body(request)
        if request.method != "POST" or request.path_params["path"] != CHAT.removeprefix("v1/"):
            return raw, Judged(BYPASS, "passed through", 0.0)
        body = read_body(raw)
        if body.get("model") != AUTO:
            return raw, Judged(BYPASS, "model named", 0.0)
        asked = request.headers.get("x-router-route")
        if asked is not None and asked not in self.config.changes:
            raise BadInput(f"x-router-route: {asked!r} is no route; known: {', '.join(self.router.routes)}")
        if asked is not None:
            judged = Judged(Decision(asked, {}, {}), "caller", 0.0)
        elif decides_itself(body):
            judged = Judged(BYPASS, "caller", 0.0)
        else:
            judged = await self._judged(question_of(body))
        route = judged.decision.route
        self.metrics.decisions[route or "none", judged.reason] += 1
        change = self.config.changes[route] if route else RouteChange({}, {})
        return rewritten(body, self.config.model, change), judged

    async def _judged(self, question: str) -> Judged:
        """The router's decision, off the event loop; the fallback where it fails or takes too long."""
        started = time.perf_counter()
        try:
            decision = await asyncio.wait_for(
                asyncio.to_thread(self.router.decide, question), self.config.router_seconds
            )
        except TimeoutError:
            decision = Decision(self.router.fallback, {}, {}, "too slow")
        except Exception as error:  # noqa: BLE001  whatever a router does, the request must be answered
            logger.warning("the router failed: %s", type(error).__name__)
            decision = Decision(self.router.fallback, {}, {}, "failed")
        seconds = time.perf_counter() - started
        self.metrics.router_seconds.observe(seconds)
        return Judged(decision, decision.fallback or "judged", seconds)

    async def _forward(self, request: Request, raw: bytes, judged: Judged) -> Response:
        """Send upstream and hand the answer's bytes on."""
        url = f"{self.config.base}/v1/{request.path_params['path']}"
        headers = {k: v for k, v in request.headers.items() if k not in HOP_HEADERS and not k.startswith("x-router-")}
        headers |= {"accept-encoding": "identity", **self._key(request)}
        address = f"{url}?{request.url.query}" if request.url.query else url
        built = self._upstream().build_request(request.method, address, headers=headers, content=raw)
        started = time.perf_counter()
        try:
            found = await self._upstream().send(built, stream=True)
        except httpx.HTTPError as error:
            return self._unreachable(error)
        self.metrics.first_byte_seconds.observe(time.perf_counter() - started)
        self.metrics.answers[found.status_code] += 1
        kept = {k: v for k, v in found.headers.items() if k not in HOP_HEADERS}
        return StreamingResponse(self._bytes(found), found.status_code, {**kept, **judged.headers()})

    async def _bytes(self, found: httpx.Response) -> AsyncIterator[bytes]:
        """The answer's bytes; left early or broken off, the upstream's connection is closed."""
        try:
            async for part in found.aiter_raw():
                yield part
        except httpx.HTTPError as error:
            # The status is sent; the connection breaks off, so that the client does not take a part for the whole.
            self.metrics.upstream_errors[type(error).__name__] += 1
            raise
        finally:
            self.metrics.inflight -= 1
            await asyncio.shield(found.aclose())

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.config.most_body_bytes:
                raise _TooLarge
            parts.append(part)
        return b"".join(parts)

    def _refused(self, request: Request) -> Response | None:
        """401 for callers without a key that is known."""
        if not self.config.api_keys:
            return None
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if any(hmac.compare_digest(given, key.encode()) for key in self.config.api_keys):
            return None
        return self._error("no valid API key", "authentication_error", 401)

    def _key(self, request: Request) -> dict[str, str]:
        """What the upstream is shown: its own key, else the caller's, which is not shown if it was ours."""
        if self.config.upstream_key is not None:
            return {"authorization": f"Bearer {self.config.upstream_key}"}
        given = request.headers.get("authorization")
        return {"authorization": given} if given and not self.config.api_keys else {"authorization": ""}

    def _upstream(self) -> httpx.AsyncClient:
        if self._client is None:
            raise RuntimeError("the proxy has not started")
        return self._client

    def _unreachable(self, error: httpx.HTTPError) -> Response:
        kind = type(error).__name__
        self.metrics.upstream_errors[kind] += 1
        code = 504 if isinstance(error, httpx.TimeoutException) else 502
        return self._error(f"the upstream did not answer ({kind})", "upstream_error", code)

    def _too_large(self) -> Response:
        most = self.config.most_body_bytes
        return self._error(f"the body is over {most:,} bytes", "invalid_request_error", 413)

    def _error(self, message: str, kind: str, code: int) -> Response:
        self.metrics.answers[code] += 1
        return Response(error_body(message, kind, code), code, media_type="application/json")


class _TooLarge(Exception):
    """A body over the limit."""


def _json(value: object, code: int = 200) -> Response:
    return Response(json.dumps(value).encode(), code, media_type="application/json")
