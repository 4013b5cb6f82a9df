"""What the routing proxy costs over calling the server itself: latency of one, throughput of 32 streams at once.

    python -m benchmarks.router_proxy [--router FOLDER] [--requests 200] [--pairs 7] [--json FILE]

An echo server, the proxy and the clients are processes of one machine, calls interleaved. Goals: 5 ms in the median,
10% of the throughput.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

WORDS = 40
"""Parts of a streamed answer."""
PAUSE_SECONDS = 0.01
"""Between two parts: 100 tokens per second and stream."""


@dataclass(frozen=True)
class RouterProxy:
    """Overhead of the proxy."""

    router: Path | None = None
    """A fitted router; without one a rule by length decides."""
    requests: int = 200
    """Of each pair, one after another."""
    streams: int = 32
    """At once."""
    pairs: int = 7
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


@dataclass(frozen=True)
class ByLength:
    """A rule that costs nothing."""

    routes: tuple[str, ...] = ("nothink", "think")
    fallback: str = "think"

    def decide(self, question: str, category: str | None = None) -> Any:
        """Long questions are thought about."""
        from cot.router.decision import Decision

        return Decision("think" if len(question) > 100 else "nothink", {}, {})


def run(command: RouterProxy) -> int:
    """Measure and print; exit code 1 where a goal is missed."""
    from cot.environment import hardware
    from scripts.command import write_figures

    context = multiprocessing.get_context("spawn")
    ports = (18_411, 18_412)
    servers = [
        context.Process(target=serve_echo, args=(ports[0],), daemon=True),
        context.Process(target=serve_proxy, args=(ports[1], ports[0], command.router), daemon=True),
    ]
    for server in servers:
        server.start()
    try:
        found = asyncio.run(_measured(command, ports))
    finally:
        for server in servers:
            server.terminate()
    added, share = found["added_ms"], found["throughput"]
    print(f"median added: {added:.2f} ms of {found['direct_ms']:.2f}, goal 5; p95 {found['added_p95_ms']:.2f} ms")
    print(f"throughput at {command.streams} streams: {100 * share:.1f}% of direct, goal 90")
    write_figures(command.json, {**found, "hardware": hardware()})
    return int(added > 5 or share < 0.9)


def serve_echo(port: int) -> None:
    """A server that answers at once, or streams words at a steady pace."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def parts() -> AsyncIterator[bytes]:
        for at in range(WORDS):
            yield f"data: {at}\n\n".encode()
            await asyncio.sleep(PAUSE_SECONDS)

    async def chat(request: Request) -> Response:
        body = await request.json()
        if body.get("stream"):
            return StreamingResponse(parts(), media_type="text/event-stream")
        return JSONResponse({"said": body["messages"][-1]["content"]})

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="critical")


def serve_proxy(port: int, upstream: int, router: Path | None) -> None:
    """The proxy in front of it."""
    import uvicorn

    from cot.router.artefact import load_router
    from cot.router.proxy import Proxy, ProxyConfig
    from cot.router.proxy_request import FAMILIES, RouteChange

    decides = load_router(router) if router else ByLength()
    changes = {name: FAMILIES["template"].get(name, RouteChange({}, {})) for name in decides.routes}
    config = ProxyConfig(f"http://127.0.0.1:{upstream}", "m", changes)
    uvicorn.run(Proxy(decides, config).app(), port=port, log_level="critical", access_log=False)


async def _measured(command: RouterProxy, ports: tuple[int, int]) -> dict[str, float]:
    import httpx

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        for port in ports:
            await _wait(client, port)
        added, direct, shares = list[float](), list[float](), list[float]()
        for _ in range(command.pairs):
            for _ in range(command.requests):
                a, b = [await _one(client, port) for port in ports]
                direct.append(a)
                added.append(b - a)
            speeds = [await _streams(client, port, command.streams) for port in ports]
            shares.append(speeds[1] / speeds[0])
            print(f"  throughput {speeds[1]:,.0f} against {speeds[0]:,.0f} parts/s", file=sys.stderr)
    ordered = sorted(added)
    return {
        "added_ms": 1000 * statistics.median(added),
        "added_p95_ms": 1000 * ordered[int(0.95 * len(ordered))],
        "direct_ms": 1000 * statistics.median(direct),
        "throughput": statistics.median(shares),
        "throughput_low": min(shares),
        "throughput_high": max(shares),
        "n": len(added),
    }


async def _one(client: Any, port: int) -> float:
    started = time.perf_counter()
    answer = await client.post(_address(port), content=_body(stream=False))
    answer.raise_for_status()
    return time.perf_counter() - started


async def _streams(client: Any, port: int, count: int) -> float:
    """Parts per second over streams that run at once."""

    async def one() -> None:
        async with client.stream("POST", _address(port), content=_body(stream=True)) as answer:
            async for _ in answer.aiter_raw():
                pass

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return count * WORDS / (time.perf_counter() - started)


async def _wait(client: Any, port: int) -> None:
    import httpx

    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            await client.post(_address(port), content=_body(stream=False))
        except httpx.HTTPError:
            await asyncio.sleep(0.1)
        else:
            return
    raise TimeoutError(f"nothing answers on port {port}")


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1/chat/completions"


def _body(*, stream: bool) -> bytes:
    question = (
        "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"
    )
    return json.dumps({"model": "auto", "stream": stream, "messages": [{"role": "user", "content": question}]}).encode()


if __name__ == "__main__":
    sys.exit(run(tyro.cli(RouterProxy, description=__doc__)))
