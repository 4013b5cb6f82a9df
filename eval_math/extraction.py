"""Find the answer in a model's output: one function per rule, each linear in the text."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .notation import MATH_WORDS
from .policies import FALLBACK_RULES, Policy

MOST_PHRASES = 20
TAIL_CHARACTERS = 400_000
"""Only the end of a longer output is searched."""


@dataclass(frozen=True)
class Extraction:
    """What a rule found. ``span`` are character offsets into the given text; ``reason`` says why nothing was found."""

    text: str | None
    rule: str | None = None
    span: tuple[int, int] | None = None
    truncated: bool = False
    reason: str | None = None

    @property
    def fallback(self) -> bool:
        """True if the answer was guessed from its position: no marker pointed at it."""
        return self.rule in FALLBACK_RULES


@dataclass(frozen=True)
class Found:
    """An answer and where it stands."""

    text: str
    start: int
    end: int


def extract_answer(text: str | None, policy: Policy) -> Extraction:
    """Apply the rules of ``policy`` in order to what follows the thinking block."""
    if not text or not text.strip():
        return Extraction(None, reason="the output is empty")
    start = text.rfind(policy.think_end)
    start = 0 if start < 0 else start + len(policy.think_end)
    if text.find(policy.think_start, start) >= 0:
        return Extraction(None, truncated=True, reason="the thinking block is not closed")
    start = max(start, len(text) - TAIL_CHARACTERS)
    body = text[start:]
    for rule in policy.rules:
        if rule in FALLBACK_RULES and not policy.fallback:
            continue
        found = RULES[rule](body, policy.numeric)
        if found is not None:
            return Extraction(found.text, rule, (start + found.start, start + found.end))
    return Extraction(None, reason="no rule found an answer")


def read_gold(gold: str) -> str:
    """The answer in a reference: its box, its ``####`` line, its only expression; else the string itself."""
    for rule in ("box", "hash", "phrase", "whole", "math_span"):
        found = RULES[rule](gold, False)
        if found is not None:
            return found.text
    return gold.strip()


def hash_line(text: str, numeric: bool) -> Found | None:
    """The rest of the last line that starts its answer with ``####``."""
    at = text.rfind("####")
    if at < 0:
        return None
    start = at + 4
    end = text.find("\n", start)
    end = len(text) if end < 0 else end
    if numeric:
        return _first_number(text, start, end)
    return _trimmed(text, start, end)


_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(\d+|[A-Za-z]|\\[A-Za-z]+)(?![\w{]))|\\.|[{}]", re.DOTALL)


def last_box(text: str, numeric: bool) -> Found | None:
    """The last complete ``\\boxed{}`` or ``\\fbox{}``, with those joined to it by commas or "and"."""
    boxes = complete_boxes(text)
    if not boxes:
        return None
    joined = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not _joins(text, box.end + 1, joined[-1].start):
            break
        joined.append(box)
    joined.reverse()
    return Found(", ".join(box.text for box in joined), joined[0].start, joined[-1].end)


def complete_boxes(text: str) -> list[Found]:
    """All non-empty closed boxes that are in no other closed box, in order; one pass with a stack."""
    if "boxed" not in text and "fbox" not in text:
        return []
    stack: list[tuple[bool, int]] = []
    spans: list[tuple[int, int]] = []
    for match in _BOX.finditer(text, _first_box(text)):
        mark = match.group()
        if mark == "{" or (mark[0] == "\\" and mark[-1] == "{" and len(mark) > 2):
            stack.append((mark != "{", match.end()))
        elif mark == "}" and stack:
            is_box, start = stack.pop()
            if is_box:
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, match.start()))
        elif match.group(1):
            spans.append(match.span(1))
    found = (Found(text[start:end].strip(), start, end) for start, end in spans)
    return [box for box in found if box.text]


def _first_box(text: str) -> int:
    return min(at for at in (text.find("\\boxed"), text.find("\\fbox"), len(text)) if at >= 0)


_GLUE = re.compile(r"\\text\s*\{\s*(and|,)\s*\}|\\q?quad|\\[()\[\],;! ]|[\s${}]")
_JOINED = re.compile(r"(?:[a-z]{2,12}(?=and|,))??(?:,|and|,and)(?:[A-Za-z](?:_\w+)?=)?")


def _joins(text: str, start: int, end: int) -> bool:
    """True if a comma or "and" joins two boxes; a unit before it or a name after it (``x =``) may stand there too."""
    gap = text[start:end]
    if len(gap) > 80:
        return False
    for opener in ("\\boxed", "\\fbox"):
        gap = gap.replace(opener, "")
    return _JOINED.fullmatch(_GLUE.sub(lambda m: m.group(1) or "", gap)) is not None


_PHRASE = re.compile(
    r"\banswers?\b(?:\s+(?:to|for|of)\s[^.:\n]{0,80}?)?[*\s]*"
    r"(?:(?:is|are|be|=|:)(?![A-Za-z])[*\s]*:?[*\s]*|(?=\\[(\[]|\$))"
    r"|^[ \t*]*A:[*\s]*",
    re.IGNORECASE | re.MULTILINE,
)
_STOP = re.compile(r"\.(?=\s|$)")
_HOPE = re.compile(r"\.?\s*I hope it is correct", re.IGNORECASE)


def answer_phrase(text: str, numeric: bool) -> Found | None:
    """What follows the last "the answer is", "Final answer:", "Answer:" or a line "A:"."""
    if "nswer" not in text and "NSWER" not in text and "A:" not in text:
        return None
    last = deque((match.end() for match in _PHRASE.finditer(text)), maxlen=MOST_PHRASES)
    return next((found for end in reversed(last) if (found := _after_phrase(text, end, numeric))), None)


def _after_phrase(text: str, start: int, numeric: bool) -> Found | None:
    opens = text[start : start + 2]
    end = text.find("\n", start)
    end = min(len(text) if end < 0 else end, start + 2000)
    if opens in {"\\[", "$$"}:
        end = min(len(text), start + 2000)
    hope = _HOPE.search(text, start, end)
    end = hope.start() if hope else end
    if numeric:
        return _number_of_phrase(text, start, end)
    box = text.find("\\boxed", start, end)
    if box >= 0:
        return None
    span = _joined_spans(text, start, end)
    if span is not None and not is_prose(text[start : span.start]):
        return span
    stop = _STOP.search(text, start, end)
    end = stop.start() if stop else end
    whole = _trimmed(text, start, end)
    if span is None and (whole is None or not is_prose(whole.text)):
        return whole
    return last_of_both(text[:end], start)


def last_of_both(text: str, start: int = 0) -> Found | None:
    """The last math span or the last number outside of spans, whichever is later."""
    spans = math_spans(text[start:])
    span = replace(spans[-1], start=spans[-1].start + start, end=spans[-1].end + start) if spans else None
    number = _last_number(text, span.end if span else start, len(text))
    return number or span


def _number_of_phrase(text: str, start: int, end: int) -> Found | None:
    equals = text.rfind("=", start, end)
    return (_first_number(text, equals + 1, end) if equals >= 0 else None) or _first_number(text, start, end)


def _joined_spans(text: str, start: int, end: int) -> Found | None:
    spans = math_spans(text[start:end])
    if not spans:
        return None
    last = 0
    while last + 1 < len(spans) and _joins(text[start:end], spans[last].end, spans[last + 1].start):
        last += 1
    text_found = ", ".join(span.text for span in spans[: last + 1])
    return Found(text_found, start + spans[0].start, start + spans[last].end)


_DELIMITER = re.compile(r"\\[\\$()\[\]]|\$\$|\$|\n[ \t]*\n")
_CLOSES = {"\\)": "\\(", "\\]": "\\["}


def last_math_span(text: str, numeric: bool) -> Found | None:
    """The last ``$...$``, ``\\(...\\)``, ``$$...$$`` or ``\\[...\\]`` that holds no prose."""
    spans = math_spans(text)
    return spans[-1] if spans else None


def math_spans(text: str) -> list[Found]:
    """Non-empty math spans in order, by one pass; a dollar sign before prose is taken as currency."""
    spans: list[Found] = []
    opened: tuple[str, int] | None = None
    for match in _DELIMITER.finditer(text):
        mark = match.group()
        if mark in {"\\$", "\\\\"}:
            continue
        if mark[0] == "\n":
            opened = None if opened and opened[0] == "$" else opened
        elif mark in {"\\(", "\\["} or opened is None or _CLOSES.get(mark, mark) != opened[0]:
            opened = (mark, match.end()) if mark not in _CLOSES else None
        else:
            content = text[opened[1] : match.start()]
            if mark == "$" and is_prose(content):
                opened = (mark, match.end())
                continue
            if content.strip():
                spans.append(Found(content.strip(), opened[1], match.start()))
            opened = None
    return spans


def whole_text(text: str, numeric: bool) -> Found | None:
    """The text itself where it is a bare answer: short, without prose."""
    if len(text) > 2000 or is_prose(text):
        return None
    return _trimmed(text, 0, len(text))


_NOT_WORDS = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|\{[a-z]*matrix\}|\{array\}\s*\{[a-z]*\}|\{[a-z]+\*?\}"
)
_WORD = re.compile(r"[A-Za-z]{2,}")


def is_prose(text: str) -> bool:
    """True if ``text`` reads as a sentence: two plain words or more, unless they are a unit or a short phrase."""
    if len(text) > 5000:
        text = text[:2500] + " " + text[-2500:]
    plain = _NOT_WORDS.sub(" ", text)
    words = [w for w in _WORD.finditer(plain) if w.group().lower() not in MATH_WORDS]
    if len(words) < 2:
        return False
    first_digit = re.search(r"[\d=\\$]", text)
    if first_digit is None:
        return len(words) > 3
    tail = plain[words[0].start() :]
    return (
        len(words) > 3
        or re.search(r"\d", re.sub(r"\^?\{?\d\}?", "", tail)) is not None
        or not re.search(r"\d", plain[: words[0].start()])
    )


_NUMBER = re.compile(r"(?<![\w.])-?\s?[$€£]?\s?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+(?!\d|\.\d))?(?:\s?\\?%)?")
_ANY_NUMBER = re.compile(r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?\\?%)?")
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")


def last_number(text: str, numeric: bool) -> Found | None:
    """The last number-like run; calculator marks ``<<...>>`` are passed over."""
    return _last_number(text, 0, len(text))


def _last_number(text: str, start: int, end: int) -> Found | None:
    part = _CALCULATOR.sub(lambda m: " " * len(m.group()), text[start:end])
    line_end = len(part)
    while line_end > 0:
        line_start = part.rfind("\n", 0, line_end) + 1
        found = None
        for match in _signed_numbers(part, line_start, line_end):
            found = match
        if found is not None:
            return Found(found.text, start + found.start, start + found.end)
        line_end = line_start - 1
    return None


def _first_number(text: str, start: int, end: int) -> Found | None:
    return next(iter(_signed_numbers(text, start, end)), None)


def _signed_numbers(text: str, start: int, end: int) -> list[Found]:
    numbers: list[Found] = []
    for match in _NUMBER.finditer(text, start, end):
        raw = match.group()
        value = raw.replace("$", "").replace("€", "").replace("£", "").strip().rstrip(",")
        if re.search(r"[\d\w)]\s*$", text[max(start, match.start() - 4) : match.start()]) and raw.lstrip()[0] == "-":
            value = value.lstrip("- ")
        numbers.append(Found(value.replace(" ", ""), match.start(), match.end()))
    if numbers:
        return numbers
    return [Found(m.group().rstrip(","), m.start(), m.end()) for m in _ANY_NUMBER.finditer(text, start, end)]


def _trimmed(text: str, start: int, end: int) -> Found | None:
    answer = text[start:end].strip().strip("*").strip()
    if answer.endswith(".") and not answer.endswith(".."):
        answer = answer[:-1].rstrip()
    return Found(answer, start, end) if answer else None


RULES: Mapping[str, Callable[[str, bool], Found | None]] = {
    "hash": hash_line,
    "box": last_box,
    "phrase": answer_phrase,
    "whole": whole_text,
    "math_span": last_math_span,
    "last": lambda text, numeric: last_of_both(text),
    "number": last_number,
}
