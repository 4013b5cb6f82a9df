"""The method protocol: a frozen dataclass per paper that changes what is asked, what the engine does, or both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from eval_math.errors import BadInput
from eval_math.records import Json, Message, Problem, Request, Trace

from .engine import CAPABILITIES, Engine


@dataclass(frozen=True)
class Method:
    """Does nothing: plain generation. Subclasses are frozen dataclasses whose fields are the hyper-parameters.

    A method overrides at most two of `messages`, `request`, `attach` and `drive`.
    """

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "plain generation"
    needs: ClassVar[frozenset[str]] = frozenset({"generate"})

    def messages(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation shown to the model; ``messages`` is the benchmark's own."""
        return messages

    def request(self, request: Request) -> Request:
        """The unit of work after `messages`: template arguments, prefill, extras, sampling."""
        return request

    def check(self, engine: Engine) -> None:
        """Refuse, before anything is written, what `attach` could not do with this engine or model."""

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Change the engine for the length of a ``with`` block; always undone, also on error."""
        return nullcontext()

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """Run the requests; override for several phases per request (budgets, early exit, routing)."""
        return engine.generate(requests)

    def fingerprint(self) -> dict[str, Json]:
        """Name and hyper-parameters, files replaced by their content's hash: part of each unit key."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def label(self) -> str:
        """Short text for tables: name and the parameters that differ from their defaults."""
        changed = [
            f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self) if getattr(self, f.name) != f.default
        ]
        return self.name + (":" + ",".join(changed) if changed else "")


@dataclass(frozen=True)
class Composed(Method):
    """Several methods at once, applied left to right; only one of them may override `drive`."""

    name: ClassVar[str] = "composed"
    parts: tuple[Method, ...] = field(default=())

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # pyright: ignore
        """Union of what the parts need."""
        return frozenset().union(*(part.needs for part in self.parts))

    def messages(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Each part in turn."""
        for part in self.parts:
            messages = part.messages(problem, messages)
        return messages

    def request(self, request: Request) -> Request:
        """Each part in turn."""
        for part in self.parts:
            request = part.request(request)
        return request

    def check(self, engine: Engine) -> None:
        """Each part in turn."""
        for part in self.parts:
            part.check(engine)

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """All parts, undone in reverse order."""
        return _nested([part.attach(engine) for part in self.parts])

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """The one part that drives, else plain generation."""
        driver = next((p for p in self.parts if overrides(p, "drive")), None)
        return driver.drive(engine, requests) if driver else engine.generate(requests)

    def fingerprint(self) -> dict[str, Json]:
        """Fingerprints of the parts."""
        return {"name": self.name, "parts": [part.fingerprint() for part in self.parts]}

    def label(self) -> str:
        """Labels joined by +."""
        return "+".join(part.label() for part in self.parts)


def overrides(method: Method, hook: str) -> bool:
    """True if the method's class replaces ``hook`` of the base class."""
    return getattr(type(method), hook) is not getattr(Method, hook)


def compose(parts: list[Method]) -> Method:
    """One method out of several.

    Raises:
        BadInput: two parts rewrite the messages or drive the decoding.
    """
    if len(parts) == 1:
        return parts[0]
    for hook in ("messages", "drive"):
        users = [p.name for p in parts if overrides(p, hook)]
        if len(users) > 1:
            raise BadInput(f"methods {' and '.join(users)} both change {hook!r} and cannot be combined; drop one")
    return Composed(parts=tuple(parts))


def require(method: Method, engine: Engine) -> None:
    """Refuse at start a method that needs what the engine lacks.

    Raises:
        BadInput: names the missing capability.
    """
    from .engines import engines_with

    for need in sorted(method.needs - engine.capabilities):
        able = ", ".join(engines_with(need)) or "none"
        raise BadInput(
            f"method {method.label()} needs {need!r} ({CAPABILITIES.get(need, '?')}), which engine "
            f"{engine.identity.engine!r} does not have; engines that do: {able}"
        )


def named(trace: Trace, method: Method) -> Trace:
    """The trace with the method's label."""
    return replace(trace, method=method.label())


def _nested(contexts: list[AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
    from contextlib import ExitStack, contextmanager

    @contextmanager
    def nested() -> Iterator[None]:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            yield

    return nested()
