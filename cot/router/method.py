"""The router as a method: every question goes down the route that pays, each route a method of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from eval_math.errors import BadInput
from eval_math.records import Json, Request, Trace, digest

from ..engine import Engine
from ..method import Method, overrides, require


@dataclass(frozen=True)
class Router(Method):
    """Reason only when it pays."""

    name: ClassVar[str] = "router"
    summary: ClassVar[str] = "each question goes to thinking or not, by a fitted router"

    path: str
    """Folder of `laconic route fit`."""

    def check(self, engine: Engine) -> None:
        """Refuse routes that the engine cannot take.

        Raises:
            BadInput: names the route.
        """
        for method in self.methods().values():
            require(method, engine)
            method.check(engine)

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """Sort the requests by route, then run route after route; traces say which and why."""
        from .artefact import load_router

        live, waiting = load_router(Path(self.path)), dict[str, list[Request]]()
        decided: dict[tuple[str, int], Mapping[str, Json]] = {}
        for request in requests:
            found = live.decide(_question(request))
            waiting.setdefault(found.route, []).append(request)
            decided[request.problem_id, request.sample] = {
                "route": found.route,
                "fallback": found.fallback,
                "success": dict(found.success),
            }
        methods = self.methods()
        for route, chosen in waiting.items():
            method = methods[route]
            with method.attach(engine):
                for trace in method.drive(engine, [method.request(request) for request in chosen]):
                    about = decided[trace.problem_id, trace.sample]
                    yield replace(trace, provenance={**trace.provenance, "router": dict(about)})

    def fingerprint(self) -> dict[str, Json]:
        """The router by its files."""
        from .artefact import FILE, WEIGHTS

        found = {name: digest([(Path(self.path) / name).read_bytes().hex()]) for name in (FILE, WEIGHTS)}
        return {"name": self.name, **found}

    def methods(self) -> dict[str, Method]:
        """The method of each route.

        Raises:
            BadInput: a route without a method, or whose method changes the question's words.
        """
        from ..methods import parse_method
        from .artefact import FILE, read_router

        fitted = read_router(Path(self.path))
        found = {}
        for route in fitted.routes:
            spec = fitted.methods.get(route)
            if spec is None:
                raise BadInput(
                    f"{self.path}: route {route!r} has no method ({json.dumps(dict(fitted.methods))} in {FILE}); fit "
                    "it from runs, or with --method ROUTE SPEC"
                )
            found[route] = parse_method(spec)
            if overrides(found[route], "messages"):
                raise BadInput(f"{self.path}: route {route!r} ({spec}) rewrites the question, which a route cannot")
        return found


def _question(request: Request) -> str:
    return next((turn.content for turn in reversed(request.messages) if turn.role == "user"), "")
