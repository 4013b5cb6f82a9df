"""Scores of KV heads, and which of them keep the whole cache at a sparsity (RLKV, arXiv 2510.08525, section 7).

On disk a table is a safetensors file with its provenance, or bare text: a row per layer, tab-separated, no header, as
RLKV and DuoAttention publish theirs. The released ranking breaks ties by noise that is not seeded; here ties go by the
unclipped score, then by layer and head.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from eval_math.errors import BadInput
from eval_math.files import write_atomic
from eval_math.records import Json, digest

if TYPE_CHECKING:
    from .windows import Head

FORMAT = "laconic-heads/1"
TEXT_SUFFIXES = frozenset({".tsv", ".txt"})
Kept = tuple[tuple[bool, ...], ...]
"""Per layer, per KV head: whether it keeps everything."""


@dataclass(frozen=True)
class HeadTable:
    """How much each KV head is needed; clipped to [0, 1] before it is ranked."""

    scores: tuple[tuple[float, ...], ...]
    """Layers x KV heads."""
    kind: str
    """How they were found: rlkv, ablation, distillation, random, tsv, ..."""
    provenance: Mapping[str, Json] = field(default_factory=dict)
    """Model, its hash, window, settings."""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.scores}
        if len(widths) != 1 or 0 in widths:
            raise BadInput(f"head table: rows of {sorted(widths) or 'no'} scores; one row of equal length per layer")
        wrong = [(at, h) for at, row in enumerate(self.scores) for h, score in enumerate(row) if math.isnan(score)]
        if wrong:
            raise BadInput(f"head table: the score of (layer, head) {wrong[0]} is no number; find the heads anew")

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, KV heads)."""
        return len(self.scores), len(self.scores[0])

    def ranked(self) -> list[Head]:
        """(layer, head), the most needed first."""
        layers, heads = self.shape
        every = [(layer, head) for layer in range(layers) for head in range(heads)]
        return sorted(every, key=lambda at: (-_clipped(self._score(at)), -self._score(at), at))

    def kept(self, sparsity: float, *, floor: int = 0) -> Kept:
        """Heads that keep everything: exactly ``round((1 - sparsity) * N)``, ranked over all layers.

        Args:
            floor: every layer keeps its ``floor`` best heads; their places are taken from the end of the ranking.

        Raises:
            BadInput: a sparsity outside [0, 1], or a floor that needs more heads than are kept.
        """
        layers, heads = self.shape
        if not 0 <= sparsity <= 1:
            raise BadInput(f"sparsity={sparsity}: 0 (keep all) to 1 (keep none) is expected")
        count, order = round((1 - sparsity) * layers * heads), self.ranked()
        best = [head for layer in range(layers) for head in [h for h in order if h[0] == layer][:floor]]
        if len(best) > count:
            raise BadInput(f"floor={floor} needs {len(best)} whole heads, sparsity {sparsity} keeps {count}")
        rest = [head for head in order if head not in set(best)]
        chosen = {*best, *rest[: count - len(best)]}
        return tuple(tuple((layer, head) in chosen for head in range(heads)) for layer in range(layers))

    def inverted(self) -> HeadTable:
        """The same heads, the least needed first."""
        order = self.ranked()
        return _ranked_table(list(reversed(order)), self.shape, f"inverted {self.kind}", self.provenance)

    def check(self, layers: int, heads: int, model_hash: str = "") -> None:
        """Refuse a model that the table is not of.

        Raises:
            BadInput: another shape, or another model's hash.
        """
        if self.shape != (layers, heads):
            raise BadInput(f"head table of {self.shape} (layers, KV heads); the model has ({layers}, {heads})")
        known = self.provenance.get("model_hash")
        if model_hash and known and known != model_hash:
            raise BadInput(
                f"head table made on {self.provenance.get('model', 'another model')}, whose weights are others; find "
                "the heads of this model, or give the table as .tsv if you mean it"
            )

    def fingerprint(self) -> str:
        """Hash of the scores."""
        return digest([list(row) for row in self.scores])

    def _score(self, at: Head) -> float:
        return self.scores[at[0]][at[1]]


def random_table(shape: tuple[int, int], seed: int) -> HeadTable:
    """Heads in random order."""
    order = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    random.Random(f"heads:{seed}").shuffle(order)
    return _ranked_table(order, shape, "random", {"seed": seed})


def agreement(one: HeadTable, other: HeadTable, sparsity: float) -> dict[str, float]:
    """Spearman's correlation of two rankings, and the share of kept heads that both keep.

    Raises:
        BadInput: tables of different shapes.
    """
    other.check(*one.shape)
    places = [{head: at for at, head in enumerate(table.ranked())} for table in (one, other)]
    count = len(places[0])
    apart = sum((places[0][head] - places[1][head]) ** 2 for head in places[0])
    first, second = (table.ranked()[: round((1 - sparsity) * count)] for table in (one, other))
    return {
        "spearman": 1 - 6 * apart / max(1, count * (count**2 - 1)),
        "overlap": len(set(first) & set(second)) / max(1, len(first)),
    }


def save_table(table: HeadTable, path: Path) -> None:
    """Write ``path``: .tsv or .txt as bare text, else safetensors.

    Raises:
        StoreError: it cannot be written.
    """
    if path.suffix in TEXT_SUFFIXES:
        write_atomic(path, "".join("\t".join(f"{score:.18e}" for score in row) + "\n" for row in table.scores))
        return
    import numpy as np
    from safetensors.numpy import save

    about = {"format": FORMAT, "kind": table.kind, "provenance": json.dumps(dict(table.provenance))}
    write_atomic(path, save({"scores": np.array(table.scores, dtype=np.float64)}, metadata=about))


def load_table(path: Path) -> HeadTable:
    """Read what `save_table` wrote, or a published table in text.

    Raises:
        BadInput: no such file, or none of a table.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such head table; `laconic heads find` makes one")
    return _load_text(path) if path.suffix in TEXT_SUFFIXES else _load_tensors(path)


def _load_text(path: Path) -> HeadTable:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows: Sequence[tuple[float, ...]] = [tuple(map(float, line.split())) for line in lines]
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {error}; a row of tab-separated numbers per layer is expected") from error
    return HeadTable(tuple(rows), "tsv", {"file": path.name})


def _load_tensors(path: Path) -> HeadTable:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as opened:
            about = opened.metadata() or {}
            scores = opened.get_tensor("scores")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: no head table ({error}); `laconic heads find` makes one") from error
    if about.get("format") != FORMAT or scores.ndim != 2:
        raise BadInput(f"{path}: format {about.get('format')!r} found, {FORMAT} expected")
    rows = tuple(tuple(map(float, row)) for row in scores)
    return HeadTable(rows, about["kind"], json.loads(about["provenance"]))


def _ranked_table(
    order: Sequence[Head], shape: tuple[int, int], kind: str, provenance: Mapping[str, Json]
) -> HeadTable:
    """Scores that fall from 1 to 0 along ``order``."""
    place = {head: 1 - at / max(1, len(order) - 1) for at, head in enumerate(order)}
    rows = tuple(tuple(place[layer, head] for head in range(shape[1])) for layer in range(shape[0]))
    return HeadTable(rows, kind, dict(provenance))


def _clipped(score: float) -> float:
    return min(1.0, max(0.0, score))
