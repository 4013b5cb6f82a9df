"""Overlap of questions with those of a test set, by n-grams of words."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from hashlib import blake2b

WORDS = 8
_WORD = re.compile(r"\w+")
_MASK = (1 << 64) - 1
_BASE = 0x9E3779B97F4A7C15
_SEPARATE = 0xC2B2AE3D27D4EB4F


class ContaminationIndex:
    """The test questions as sorted 64-bit hashes of their 8-grams: 8 bytes each, the same on every machine.

    Words are runs of letters and digits, case ignored; punctuation does not count (open-r1 keeps it, so that a comma
    hides a copy). A question shorter than ``n_words`` is found only as a whole.

    Args:
        questions: test questions.
        n_words: words that must agree in a row.
    """

    def __init__(self, questions: Iterable[str], n_words: int = WORDS) -> None:
        self.n_words = n_words
        self.n_questions = 0
        self._word_hashes: dict[str, int] = {}
        self._last_weight = pow(_BASE, n_words - 1, 1 << 64)
        grams, short = array("Q"), set()
        for question in questions:
            self.n_questions += 1
            hashes = self._hashes(_words(question))
            if len(hashes) < n_words:
                short.add(_folded(hashes))
            else:
                grams.extend(self._grams(hashes))
        self._grams_sorted = _distinct(grams)
        self._short = frozenset(short)
        self._word_hashes = {}

    def __len__(self) -> int:
        return len(self._grams_sorted)

    def find(self, question: str) -> str | None:
        """The first words that the question shares with a test question, or None."""
        words = _words(question)
        hashes = self._hashes(words)
        if len(hashes) < self.n_words:
            return " ".join(words) if words and _folded(hashes) in self._short else None
        for start, gram in enumerate(self._grams(hashes)):
            at = bisect_left(self._grams_sorted, gram)
            if at < len(self._grams_sorted) and self._grams_sorted[at] == gram:
                return " ".join(words[start : start + self.n_words])
        return None

    def _hashes(self, words: list[str]) -> list[int]:
        known = self._word_hashes
        hashes = []
        for word in words:
            value = known.get(word)
            if value is None:
                value = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
                if len(known) < 1_000_000:
                    known[word] = value
            hashes.append(value)
        return hashes

    def _grams(self, hashes: list[int]) -> list[int]:
        """Rolling polynomial hashes of the n-grams, modulo 2^64."""
        n, weight = self.n_words, self._last_weight
        value = 0
        for each in hashes[:n]:
            value = (value * _BASE + each) & _MASK
        grams = [value]
        for gone, come in zip(hashes, hashes[n:], strict=False):
            value = ((value - gone * weight) * _BASE + come) & _MASK
            grams.append(value)
        return grams


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _folded(hashes: list[int]) -> int:
    value = _SEPARATE
    for each in hashes:
        value = (value * _BASE + each) & _MASK
    return value


def _distinct(grams: array[int]) -> array[int]:
    import numpy as np

    return array("Q", np.unique(np.frombuffer(grams, dtype=np.uint64)).tobytes()) if grams else grams
