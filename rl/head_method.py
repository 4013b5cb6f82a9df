"""Heads that reasoning does not need keep a window of the past: memory saved while decoding (arXiv 2510.08525)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cot.engine import Engine
from cot.method import Method
from eval_math.records import Json

from .forgetting import caching
from .head_table import HeadTable, Kept, load_table, random_table
from .windows import WindowedHeads, head_grid


@dataclass(frozen=True)
class WindowedCache(Method):
    """The heads a table ranks last see, and keep, the first ``sink`` and the last ``recent`` tokens alone."""

    name: ClassVar[str] = "rlkv"
    summary: ClassVar[str] = "KV heads that reasoning does not need keep a window of the past (RLKV)"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "sparse_kv"})

    table: str
    """File of head scores; `inverted:FILE` ranks them the other way round, `random:SEED` at random."""
    sparsity: float = 0.5
    """Share of windowed heads."""
    sink: int = 16
    recent: int = 64
    floor: int = 0
    """Every layer keeps so many whole heads."""
    reference: bool = False
    """Keep everything and mask it: saves nothing, and is what the cache is checked against."""

    def check(self, engine: Engine) -> None:
        """Refuse a table of another model, and a model whose heads cannot be told apart."""
        self.kept(engine)

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Decode with the smaller cache."""
        from .gates import Window
        from .head_cache import ATTENTION, register, two_group_cache

        kept = self.kept(engine)
        if self.reference:
            windowed = tuple((at, head) for at, row in enumerate(kept) for head, keeps in enumerate(row) if not keeps)
            return WindowedHeads(windowed, self.sink, self.recent).attach(engine)
        window = Window(self.sink, self.recent)
        register()
        return caching(engine, lambda model: two_group_cache(kept, window), ATTENTION)

    def fingerprint(self) -> dict[str, Json]:
        """The table by its scores."""
        found = super().fingerprint()
        return found if self._seed() is not None else {**found, "table": self._read().fingerprint()}

    def kept(self, engine: Engine) -> Kept:
        """Heads that keep everything, by layer.

        Raises:
            BadInput: no table, or one of another model.
        """
        layers, heads = head_grid(engine)
        seed = self._seed()
        table = self._read() if seed is None else random_table((layers, heads), seed)
        table.check(layers, heads, engine.identity.model_hash)
        return table.kept(self.sparsity, floor=self.floor)

    def _seed(self) -> int | None:
        kind, _, seed = self.table.partition(":")
        return int(seed) if kind == "random" and seed.isdecimal() else None

    def _read(self) -> HeadTable:
        inverted = self.table.startswith("inverted:")
        table = load_table(Path(self.table.removeprefix("inverted:")))
        return table.inverted() if inverted else table
