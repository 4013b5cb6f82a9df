"""What methods share that forget tokens while decoding: the cache is swapped for the length of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cot.engine import CacheAccess, Engine, ModelAccess
from cot.method import Method
from eval_math.errors import BadInput

from .windows import head_grid

if TYPE_CHECKING:
    from .eviction import Evicts


@dataclass(frozen=True)
class Forgetting(Method, ABC):
    """A smaller KV cache by a rule; subclasses give the rule."""

    needs: ClassVar[frozenset[str]] = frozenset({"generate", "sparse_kv"})

    @abstractmethod
    def rule(self) -> Evicts:
        """What is forgotten, and when."""

    def check(self, engine: Engine) -> None:
        """Refuse a model whose keys are not of heads in this process."""
        head_grid(engine)

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Decode with a cache that forgets."""
        from .eviction import ATTENTION, evicting_cache, register

        register()
        layers, _ = head_grid(engine)
        return caching(engine, lambda model: evicting_cache(self.rule(), layers), ATTENTION)


@contextmanager
def caching(engine: Engine, make: Callable[[Any], Any], attention: str) -> Iterator[None]:
    """Caches by ``make`` and the attention that they need, as long as the block lasts.

    Raises:
        BadInput: the engine keeps its own cache.
    """
    if not (isinstance(engine, CacheAccess) and isinstance(engine, ModelAccess)):
        raise BadInput(f"engine {engine.identity.engine!r} keeps its own cache; use engine hf")
    before = engine.apply_model(lambda model: model.config._attn_implementation)
    undo = engine.cache_with(make)
    try:
        engine.apply_model(lambda model: model.set_attn_implementation(attention))
        yield
    finally:
        undo()
        engine.apply_model(lambda model: model.set_attn_implementation(before))
