"""`laconic route serve`: an OpenAI-compatible proxy that sends each question to thinking or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cot.router.decision import Decides
    from cot.router.proxy import Proxy, ProxyConfig


@dataclass(frozen=True)
class RouteServe:
    """Answer requests for model `auto` by the route that pays; all else is passed through.

    SIGHUP reads the router's folder anew; a damaged one leaves the router before in place.
    """

    upstream: str = "http://127.0.0.1:8000/v1"
    """Address of the server behind."""
    model: str | None = None
    """What that server calls its model; default: the first that it lists."""
    router: Path = Path("router")
    """Folder of `laconic route fit`."""
    family: Literal["auto", "qwen3", "deepseek-v3.1", "r1", "gpt-oss", "openai", "deepseek-api", "none"] = "auto"
    """How the model is told to think or not; auto: by its name."""
    change: Mapping[str, str] = field(default_factory=dict)
    """Request fields by route as JSON, for other routes: --change brief '{"reasoning_effort": "low"}'."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = 8100
    """Port to listen on."""
    api_key: tuple[str, ...] = ()
    """Keys that callers must have one of; default: LACONIC_PROXY_KEYS, separated by commas."""
    upstream_key: str | None = None
    """Key for the upstream in place of the caller's; default: LACONIC_UPSTREAM_KEY."""
    most_body_bytes: int = 1_000_000
    """Larger requests are answered with 413; raise it for images."""
    most_requests: int = 256
    """Requests under way at once; more are answered with 503."""
    router_seconds: float = 0.2
    """Longest time to decide; then the fallback is taken."""
    read_seconds: float = 600.0
    """Longest silence of the upstream; then 504."""
    check: bool = True
    """Send a short request down every route before the proxy opens."""
    cache: Literal["off", "exact", "near"] = "off"
    """Give greedy answers again: to the same request, or also where the question differs in nothing that matters."""


def run(command: RouteServe) -> int:
    """Serve until interrupted."""
    import logging

    from cot.router.artefact import load_router
    from eval_math.errors import MissingPart

    try:
        import uvicorn

        from cot.router.proxy import Proxy
    except ImportError as error:
        raise MissingPart(f"the proxy needs {error.name}: pip install 'laconic[proxy]'") from error
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    router = load_router(command.router)
    proxy = Proxy(router, configured(command, router))
    _reload_on_hangup(proxy, command.router)
    uvicorn.run(
        proxy.app(),
        host=command.host,
        port=command.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    return 0


def configured(command: RouteServe, router: Decides) -> ProxyConfig:
    """The proxy's settings, checked against the router's routes and the server behind.

    Raises:
        BadInput: a route that the model cannot take, or a server that does not answer where it must be asked.
    """
    import os

    from cot.router.proxy import ProxyConfig
    from cot.router.proxy_families import find_family, plan_changes, read_change
    from cot.router.proxy_check import check_routes, first_model, refuse_unsteered
    from cot.router.semantic_cache import CacheConfig

    upstream_key = command.upstream_key or os.environ.get("LACONIC_UPSTREAM_KEY") or None
    base = ProxyConfig(command.upstream, "").base
    model = command.model or first_model(base, upstream_key)
    family = find_family(model) if command.family == "auto" else command.family
    given = {name: read_change(name, text) for name, text in command.change.items()}
    changes = plan_changes([*router.routes, *(name for name in given if name not in router.routes)], family, given)
    refuse_unsteered(base, upstream_key, changes)
    if command.check:
        check_routes(base, upstream_key, model, changes)
    return ProxyConfig(
        command.upstream,
        model,
        changes,
        command.api_key or tuple(filter(None, os.environ.get("LACONIC_PROXY_KEYS", "").split(","))),
        upstream_key,
        command.most_body_bytes,
        command.most_requests,
        command.router_seconds,
        read_seconds=command.read_seconds,
        cache=CacheConfig(command.cache),
    )


def _reload_on_hangup(proxy: Proxy, folder: Path) -> None:
    """Read the router anew on SIGHUP, beside the requests under way."""
    import logging
    import signal
    import threading

    from cot.router.artefact import load_router
    from eval_math.errors import LaconicError

    def reload() -> None:
        try:
            proxy.replace(load_router(folder))
            logging.getLogger(__name__).warning("the router was read anew from %s", folder)
        except (LaconicError, OSError) as error:
            logging.getLogger(__name__).error("the router before stays: %s", error)

    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=reload, daemon=True).start())
