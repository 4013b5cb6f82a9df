"""Methods that change only what is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from eval_math.errors import BadInput
from eval_math.records import Message, Problem, Request, Trace

from .engine import Engine
from .method import Method
from .phases import think_tags


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


@dataclass(frozen=True)
class NoThinking(Method):
    """NoThinking (arXiv 2504.09858): the output starts with a closed thinking block that holds one sentence.

    Works with every chat template: the block is the start of the model's own output, so its tokens are counted as
    thinking and taken from the request's limit. Where the prompt has opened the block, only the rest of it is written.

    Departure: the paper's cap with a forced "Final Answer:" is left to the request's limit.
    """

    name: ClassVar[str] = "nothinking"
    summary: ClassVar[str] = "output starts with a closed thinking block of one sentence"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "prefill"})

    prefill: str = "\nOkay, I think I have finished thinking.\n"
    """What stands in the block."""
    after: str = "\n\n"
    """Text between the block and the answer."""

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """Generation that goes on after the block.

        Raises:
            BadInput: the limit of a request is used up by the block.
        """
        return engine.generate(self._begun(engine, request) for request in requests)

    def _begun(self, engine: Engine, request: Request) -> Request:
        start, end = think_tags(engine)
        opened = _is_open(engine.prompt_ids(request), engine.encode(start), engine.encode(end))
        texts = ["" if opened else start, self.prefill, end, self.after]
        block = [token for text in texts if text for token in engine.encode(text)]
        left = request.sampling.max_tokens - len(block)
        if left < 1:
            raise BadInput(
                f"method nothinking: max_tokens={request.sampling.max_tokens}, but the block has {len(block)}"
            )
        sampling = replace(request.sampling, max_tokens=left)
        return replace(request, prefill_ids=(*request.prefill_ids, *block), sampling=sampling)


def _is_open(prompt: Sequence[int], start: Sequence[int], end: Sequence[int]) -> bool:
    """Whether a prompt ends inside a thinking block."""
    return _last(prompt, start) > _last(prompt, end)


def _last(ids: Sequence[int], part: Sequence[int]) -> int:
    """Where ``part`` stands last in ``ids``, -1 if it does not."""
    places = range(len(ids) - len(part), -1, -1)
    return next((at for at in places if list(ids[at : at + len(part)]) == list(part)), -1)
