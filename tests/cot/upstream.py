"""A server behind the proxy with known behaviour, and both on real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cot.router.decision import Decision
from cot.router.proxy import Proxy, ProxyConfig
from cot.router.proxy_request import FAMILIES


@dataclass
class Upstream:
    """Echoes what it got; the first word of the question says how: `slow`, `fail`, `break`."""

    seen: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    cancelled: int = 0

    def app(self) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/completions", self.plain, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def plain(self, request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    async def chat(self, request: Request) -> Response:
        raw = await request.body()
        body = json.loads(raw)
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        content = body["messages"][-1]["content"] if body.get("messages") else ""
        text = content if isinstance(content, str) else json.dumps(content)
        if body.get("model") != "m":
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        if text.startswith("fail"):
            return JSONResponse({"error": {"message": "on fire"}}, 500, headers={"x-own": "yes"})
        if body.get("stream"):
            return StreamingResponse(self.parts(text), media_type="text/event-stream")
        if text.startswith("slow"):
            await asyncio.sleep(1.0)
        answer = {"role": "assistant", "content": text}
        return JSONResponse({"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                             "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}]})  # fmt: skip

    async def parts(self, text: str) -> AsyncIterator[bytes]:
        try:
            for at, word in enumerate(text.split(" ")):
                choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
                chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
                yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
                if text.startswith("break") and at == 1:
                    raise RuntimeError("broken on purpose")
                await asyncio.sleep(0.3 if text.startswith("slow") else 0)
            yield b"data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


@dataclass
class ByLength:
    """Long questions are worth thinking about."""

    delay: float = 0.0
    routes: tuple[str, ...] = ("nothink", "think")
    fallback: str = "think"

    def decide(self, question: str, category: str | None = None) -> Decision:
        time.sleep(self.delay)
        if question == "crash":
            raise ZeroDivisionError
        if not question.strip():
            return Decision("think", {}, {}, "empty")
        route = "think" if len(question) > 40 else "nothink"
        return Decision(route, {"nothink": 0.4, "think": 0.9}, {"nothink": 10.0, "think": 100.0})


@contextmanager
def serving(app, port: int = 0):
    """The app on a socket of its own in a thread; gives its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def proxied(upstream_port: int, router: ByLength | None = None, **changes):
    """A proxy in front of a port; gives its address and itself."""
    config = ProxyConfig(f"http://127.0.0.1:{upstream_port}/v1", "m", FAMILIES["template"], **changes)
    proxy = Proxy(router or ByLength(), config)
    with serving(proxy.app()) as port:
        yield f"http://127.0.0.1:{port}", proxy
