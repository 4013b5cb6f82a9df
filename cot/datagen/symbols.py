"""Variables of a text: single letters that stand alone."""

from __future__ import annotations

import re

_LETTER = re.compile(r"(?<![A-Za-z'’\\.])[A-Za-z](?![A-Za-z'’]|\.[A-Za-z])")
_COMMAND_WORDS = re.compile(r"\\(?:text|mathrm|textbf|operatorname)\s*\{[^{}]*\}")
_ENGLISH = frozenset("aAIo")


def symbols(text: str) -> frozenset[str]:
    """Single letters that are no word and no part of one; ``2x`` has x, ``x_1`` has x, ``let's`` has none."""
    if "\\" in text:
        text = _COMMAND_WORDS.sub(" ", text)
    return frozenset(_LETTER.findall(text)) - _ENGLISH


def new_symbols(text: str, given: tuple[str, ...]) -> frozenset[str]:
    """Variables that none of the given texts has."""
    found = symbols(text)
    for each in given:
        if not found:
            break
        found -= symbols(each)
    return found
