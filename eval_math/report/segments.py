"""Thinking cut into sentences, and which of them look back instead of forward."""

from __future__ import annotations

import re
from dataclasses import dataclass

_END = re.compile(r"[.!?][\"')\]*]*\s+|\n+\s*")
_REFLECTION = re.compile(
    r"\b(?:wait|hm+|alternatively|hold on|double[- ]?check\w*|re-?check\w*|re-?verif\w+|verify\w*|on second thought"
    r"|let me (?:check|confirm|make sure|reconsider|rethink|re-?read|re-?examine|think again|see if)"
    r"|let['’]s (?:check|confirm|make sure|verify)"
    r"|to (?:be sure|make sure|confirm)|am i (?:sure|missing)|is that (?:right|correct)|that can['’]t be right"
    r"|another (?:way|approach|method)|start over|go back|actually,)(?!\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Segments:
    """Sentences that joined give the text again, and the positions of those that reflect."""

    sentences: tuple[str, ...]
    reflections: tuple[int, ...]


def segment(text: str) -> Segments:
    """Cut ``text`` after sentence ends and line breaks; linear in its length."""
    ends = [match.end() for match in _END.finditer(text)]
    starts = [0, *ends]
    pieces = (text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True))
    sentences = tuple(piece for piece in pieces if piece)
    return Segments(sentences, tuple(i for i, sentence in enumerate(sentences) if is_reflection(sentence)))


def is_reflection(sentence: str) -> bool:
    """True for a sentence that checks, doubts or starts another way ("Wait", "Alternatively", "let me verify")."""
    return _REFLECTION.search(sentence) is not None
