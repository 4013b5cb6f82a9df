"""What methods share that need no training: they take the steps between the think tags of any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cot.engine import Engine, Thinker
from cot.method import Method
from cot.phases import think_tags
from eval_math.errors import BadInput
from eval_math.records import Request, Trace

from .thinking import opened, thinking_by


@dataclass(frozen=True)
class Tags:
    """Ids of the start and end of thinking."""

    start_id: int
    end_id: int


@dataclass(frozen=True)
class Untrained(Method, ABC):
    """Latent thinking by a rule alone; subclasses give the `Thinker`."""

    needs: ClassVar[frozenset[str]] = frozenset({"generate", "latent"})

    @abstractmethod
    def thinker(self, table: Tensor, tags: Tags) -> Thinker:
        """What takes the steps; ``table`` is the input embedding (vocabulary, d)."""

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Let the thinker take the steps."""
        tags = tags_of(engine)
        return thinking_by(engine, lambda model: self.thinker(model.get_input_embeddings().weight, tags))

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """Prompts that do not end with the start tag are given one."""
        start = tags_of(engine).start_id
        return engine.generate(opened(engine, request, start) for request in requests)


def tags_of(engine: Engine) -> Tags:
    """The think tags of an engine's tokenizer.

    Raises:
        BadInput: the tokenizer spells them with several tokens.
    """
    ids = [engine.encode(tag) for tag in think_tags(engine)]
    if any(len(each) != 1 for each in ids):
        raise BadInput("the tokenizer has no tokens of their own for the think tags; latent thoughts need them")
    return Tags(ids[0][0], ids[1][0])
