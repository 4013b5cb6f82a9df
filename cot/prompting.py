"""Methods that change only what is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from eval_math.errors import BadInput
from eval_math.records import Message, Problem, Request

from .engine import Engine
from .method import Method


@dataclass(frozen=True)
class Concise(Method):
    """A brevity prompt: ``text`` is added to the end of the question."""

    name: ClassVar[str] = "concise"
    summary: ClassVar[str] = "brevity prompt"

    text: str = "Be concise."

    def messages(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The last user turn with ``text`` added."""
        last = max((at for at, message in enumerate(messages) if message.role == "user"), default=None)
        if last is None:
            raise BadInput(f"problem {problem.id!r}: method concise needs a user turn to add its text to")
        asked = replace(messages[last], content=f"{messages[last].content} {self.text}")
        return (*messages[:last], asked, *messages[last + 1 :])


@dataclass(frozen=True)
class NoThink(Method):
    """No thinking: the chat template is rendered with ``enable_thinking=False``, as Qwen3's closes the think block.

    Templates that do not know the argument would ignore it without a word; they are refused.
    """

    name: ClassVar[str] = "nothink"
    summary: ClassVar[str] = "chat template with thinking switched off"

    def request(self, request: Request) -> Request:
        """The request with the template argument."""
        return replace(request, template={**request.template, "enable_thinking": False})

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Check that the template obeys.

        Raises:
            BadInput: the rendered prompt is the same with and without the argument.
        """
        return self._checked(engine)

    @contextmanager
    def _checked(self, engine: Engine) -> Iterator[None]:
        plain = Request("probe", messages=(Message("user", "1 + 1?"),))
        if engine.prompt_ids(plain) == engine.prompt_ids(self.request(plain)):
            raise BadInput(
                f"method nothink: the chat template of {engine.identity.model} ignores enable_thinking, so nothing "
                "would change; use a model whose template knows it"
            )
        yield
