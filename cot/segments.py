"""Chunks of a chain of thought, as R1-Compress cuts it (arXiv 2505.16838), and how often a text reflects.

A chunk closes at a blank line once it has ``min_words`` words. Where the paper is silent: a chunk never has more than
``max_words`` words (cut at the last sentence end before, else at the last word), a short tail joins the chunk before
it, and formulas, boxes and fences are never cut.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval_math.errors import BadInput
from eval_math.extraction import complete_boxes, math_spans

Boundary = Literal["paragraph", "sentence"]

REFLECTION_VERSION = 1
"""Changes with the lexicon: counts of two versions cannot be compared."""
REFLECTIONS: tuple[str, ...] = (
    r"wait",
    r"hmm+",
    r"alternatively",
    r"hold on",
    r"on second thou?ghts?",
    r"(?:double|re)[- ]?check(?:s|ed|ing)?",
    r"let(?:'s|’s| me| us) (?:just |quickly )?(?:check|verify|confirm|reconsider|re-?examine|re-?evaluate|re-?think)",
    r"let(?:'s|’s| me| us) (?:think|go over|look at|try|do)(?: \w+){0,3} again",
    r"is (?:that|this|it) (?:right|correct|true)(?= ?\?)",
)
"""Patterns of words by which a trace stops to look back or aside; matched as whole words, case ignored."""
_REFLECTION = re.compile(rf"\b(?:{'|'.join(REFLECTIONS)})\b", re.IGNORECASE)

_WORD = re.compile(r"\S+")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n|\r[^\S\r\n]*\r")
_SENTENCE_END = re.compile(r"[.!?。！？]['\")\]*”’]*\Z")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)


@dataclass(frozen=True)
class Chunk:
    """A piece of a text; ``separator`` is the white space between it and the next one."""

    text: str
    separator: str = ""

    @property
    def n_words(self) -> int:
        """Words between blanks."""
        return len(self.text.split())


def split_chunks(text: str, min_words: int = 50, max_words: int = 400, boundary: Boundary = "paragraph") -> list[Chunk]:
    """Cut a text into chunks; `join_chunks` gives it back byte for byte. Linear in the text.

    Every chunk but the last has at least ``min_words`` words. None has more than ``max_words``, unless a formula, box
    or fence that must not be cut is longer than what is left of the chunk: then the chunk ends after it. A last chunk
    of fewer than half of ``min_words`` joins the one before where ``max_words`` allows. White space before the first
    word belongs to the first chunk.

    Args:
        boundary: where a chunk may close: ``paragraph`` at blank lines, ``sentence`` at sentence ends and blank lines,
            for traces without blank lines.

    Raises:
        BadInput: not 1 <= min_words <= max_words, or an unknown boundary.
    """
    if not 1 <= min_words <= max_words:
        raise BadInput(f"split_chunks: min_words={min_words}, max_words={max_words}; 1 <= min <= max is expected")
    if boundary not in ("paragraph", "sentence"):
        raise BadInput(f"split_chunks: boundary={boundary!r}; paragraph or sentence is expected")
    gaps = _read_gaps(text)
    ends = _ends(gaps, min_words, max_words, gaps.breaks if boundary == "paragraph" else gaps.either)
    if len(ends) > 1:
        whole, tail = ends[-1] - (ends[-3] if len(ends) > 2 else 0), ends[-1] - ends[-2]
        if 2 * tail < min_words and whole <= max_words:
            del ends[-2]
    return _cut(text, gaps, ends)


def join_chunks(chunks: Sequence[Chunk]) -> str:
    """The text that `split_chunks` was given, or a rewritten one with the separators of the source."""
    return "".join(chunk.text + chunk.separator for chunk in chunks)


def count_reflections(text: str) -> int:
    """Matches of the lexicon `REFLECTIONS`, version `REFLECTION_VERSION`."""
    return sum(1 for _ in _REFLECTION.finditer(text))


@dataclass(frozen=True)
class _Gaps:
    """A text by words. Gap n lies after the first n words; the lists are ascending and hold no gap inside a span."""

    words: list[tuple[int, int]]
    free: list[int]
    breaks: list[int]
    sentences: list[int]
    either: list[int]


def _read_gaps(text: str) -> _Gaps:
    words = [match.span() for match in _WORD.finditer(text)]
    starts = [start for start, _ in words]
    spans = _spans(text)
    blocked = bytearray(len(words) + 1)
    for start, end in spans:
        for gap in range(bisect_right(starts, start), bisect_left(starts, end)):
            blocked[gap] = 1
    free = [gap for gap in range(1, len(words)) if not blocked[gap]]
    blank = {bisect_left(starts, match.start()) for match in _BLANK_LINE.finditer(text)}
    breaks = [gap for gap in free if gap in blank]
    sentences = [gap for gap in free if _SENTENCE_END.search(text, words[gap - 1][0], words[gap - 1][1])]
    return _Gaps(words, free, breaks, sentences, sorted({*breaks, *sentences}))


def _spans(text: str) -> list[tuple[int, int]]:
    """Formulas, boxes and fences with their marks, disjoint and ascending."""
    found = [(_opening(text, span.start), span.end + 2) for span in math_spans(text)]
    found += [(max(0, text.rfind("\\", 0, box.start)), box.end + 1) for box in complete_boxes(text)]
    fences = list(_FENCE.finditer(text))
    found += [(first.start(), last.end()) for first, last in zip(fences[::2], fences[1::2], strict=False)]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _opening(text: str, start: int) -> int:
    return start - (1 if text[start - 2 : start] not in ("\\[", "\\(", "$$") else 2)


def _ends(gaps: _Gaps, min_words: int, max_words: int, boundaries: list[int]) -> list[int]:
    """Numbers of words after which chunks end; the last is the number of all words."""
    total, begin, ends = len(gaps.words), 0, []
    while total - begin > min_words:
        end = _from(boundaries, begin + min_words, total)
        if end - begin > max_words:
            end = _hard_end(gaps, begin + min_words, begin + max_words)
        if end >= total:
            break
        ends.append(end)
        begin = end
    return [*ends, total] if total else []


def _hard_end(gaps: _Gaps, low: int, high: int) -> int:
    """The last sentence end from ``low`` to ``high`` words, else the last gap there, else the first one after."""
    for cuts in (gaps.sentences, gaps.free):
        at = bisect_right(cuts, high) - 1
        if at >= 0 and cuts[at] >= low:
            return cuts[at]
    return _from(gaps.free, high, len(gaps.words))


def _from(cuts: list[int], low: int, otherwise: int) -> int:
    at = bisect_left(cuts, low)
    return cuts[at] if at < len(cuts) else otherwise


def _cut(text: str, gaps: _Gaps, ends: list[int]) -> list[Chunk]:
    if not ends:
        return [Chunk("", text)] if text else []
    chunks, start = [], 0
    for end in ends:
        stop = gaps.words[end - 1][1]
        following = gaps.words[end][0] if end < len(gaps.words) else len(text)
        chunks.append(Chunk(text[start:stop], text[stop:following]))
        start = following
    return chunks
