"""`laconic route serve`: an OpenAI-compatible proxy that sends each question to thinking or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cot.router.proxy_request import RouteChange


@dataclass(frozen=True)
class RouteServe:
    """Answer requests for model `auto` by the route that pays; all else is passed through."""

    upstream: str = "http://127.0.0.1:8000/v1"
    """Address of the server behind."""
    model: str = "embedded"
    """What that server calls its model."""
    router: Path = Path("router")
    """Folder of `laconic route fit`."""
    family: Literal["template", "effort"] = "template"
    """How routes think and nothink are told: enable_thinking of the chat template, or reasoning_effort."""
    change: Mapping[str, str] = field(default_factory=dict)
    """Request fields by route as JSON, for other routes: --change brief '{"reasoning_effort": "low"}'."""
    host: str = "127.0.0.1"
    port: int = 8100
    api_key: tuple[str, ...] = ()
    """Keys that callers must have one of; default: LACONIC_PROXY_KEYS, separated by commas."""
    upstream_key: str | None = None
    """Key for the upstream in place of the caller's; default: LACONIC_UPSTREAM_KEY."""
    most_body_bytes: int = 1_000_000
    """Larger requests are answered with 413."""
    most_requests: int = 256
    """Requests under way at once; more are answered with 503."""
    router_seconds: float = 0.2
    """Longest time to decide."""


def run(command: RouteServe) -> int:
    """Serve until interrupted."""
    import os

    from cot.router.artefact import load_router
    from eval_math.errors import MissingPart

    try:
        import uvicorn

        from cot.router.proxy import Proxy, ProxyConfig
    except ImportError as error:
        raise MissingPart(f"the proxy needs {error.name}: pip install 'laconic[proxy]'") from error
    keys = command.api_key or tuple(filter(None, os.environ.get("LACONIC_PROXY_KEYS", "").split(",")))
    config = ProxyConfig(
        command.upstream,
        command.model,
        changes(command),
        keys,
        command.upstream_key or os.environ.get("LACONIC_UPSTREAM_KEY"),
        command.most_body_bytes,
        command.most_requests,
        command.router_seconds,
    )
    proxy = Proxy(load_router(command.router), config)
    uvicorn.run(proxy.app(), host=command.host, port=command.port, log_level="warning", access_log=False)
    return 0


def changes(command: RouteServe) -> Mapping[str, RouteChange]:
    """Request fields by route."""
    from cot.router.proxy_request import FAMILIES, RouteChange

    own = {name: RouteChange.parse(name, text) for name, text in command.change.items()}
    return {**FAMILIES[command.family], **own}
