"""How a rewrite is worded: wrappers around it, control marks, echoes, language, repetition, delimiters."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from functools import lru_cache

from eval_math.extraction import complete_boxes, last_box
from eval_math.loops import is_looping

from ..thinking import TAG_PAIRS

_TAGS = tuple(tag for pair in TAG_PAIRS for tag in pair)
_FENCE = re.compile(r"\A```[A-Za-z]*[ \t]*\n(.*)\n?```\Z", re.DOTALL)
_PREFACE = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|absolutely)[,.!]?[ ]+)?"
    r"(?:(?:here(?:'s|’s| is| are)|below is|this is)\b[^\n:]{0,120}:|"
    r"[*#_ ]*(?:the )?(?:(?:rewritten|compressed|condensed|shortened|concise|shorter|revised|final)[ ]+)+"
    r"(?:text|version|reasoning|thinking|chunk|passage|trace|solution|rewrite|chain of thought|cot|output|step)s?"
    r"[*_ ]*:[*_]*)\s*",
    re.IGNORECASE,
)
_SURE = re.compile(r"\A(?:sure|certainly|of course|absolutely)[,.!][^\n]{0,80}:\s*\n", re.IGNORECASE)
_CLOSER = re.compile(
    r"\n[ \t]*(?:\((?:note|word count)\b[^\n]{0,300}\)|(?:let me know|i hope this|feel free)\b[^\n]{0,200})\Z",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "“": "”", "«": "»", "„": "“"}

_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<\|?(?:bos|eos|pad|unk)\|?>"
    r"|\ufffd"
)
_ABOUT = re.compile(
    r"\b(?:as an ai\b|i(?:'m| am) sorry|i (?:cannot|can't) (?:help|assist|rewrite|comply)|language model"
    r"|(?:rewritten|compressed|condensed|shortened) (?:version|text|chunk|passage)"
    r"|the (?:given|provided|original|above) (?:text|passage|chunk|trace|excerpt)"
    r"|(?:this|the) (?:text|passage|chunk|excerpt) (?:says|states|describes|explains|discusses))",
    re.IGNORECASE,
)

_ABOUT_WORDS = (
    "text",
    "passage",
    "chunk",
    "trace",
    "excerpt",
    "version",
    "as an ai",
    "sorry",
    "cannot",
    "can't",
    "language m",
)

_SCRIPTS: dict[str, str] = {
    "Latin": "A-Za-zÀ-ÖØ-öø-ɏ",
    "Cyrillic": "Ѐ-ԯ",
    "Han": "㐀-䶿一-鿿豈-﫿",
    "Kana": "぀-ヿ",
    "Hangul": "ᄀ-ᇿ가-힯",
    "Arabic": "؀-ۿݐ-ݿ",
    "Hebrew": "֐-׿",
    "Devanagari": "ऀ-ॿ",
    "Bengali": "ঀ-৿",
    "Thai": "฀-๿",
}
"""Ranges of letters; Greek is left out, since in these texts it is notation."""
_LETTERS = {name: re.compile(f"[{ranges}]") for name, ranges in _SCRIPTS.items()}
_NOT_LATIN = re.compile(f"[{''.join(ranges for name, ranges in _SCRIPTS.items() if name != 'Latin')}]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_STOP_WORDS: dict[str, tuple[str, ...]] = {
    language: tuple(words.split())
    for language, words in (
        ("English", "the of and is that this we it for so to are be which with then from let not have"),
        ("German", "der die das und ist nicht wir ein eine von mit auf dann für dass also den dem sich aus"),
        ("French", "le les des est et une que nous pour dans donc pas sur avec du ce qui il au aux"),
        ("Spanish", "el los las es y una que para con por del se entonces como lo su más esto al un"),
        ("Italian", "il gli è e una che per con di della sono non si quindi come questo del al nel lo"),
        ("Portuguese", "o os as é e uma que para com não do da em então como isso por ao dos no"),
    )
}
_LANGUAGES: dict[str, tuple[str, ...]] = {
    word: tuple(name for name, words in _STOP_WORDS.items() if word in words)
    for word in {word for words in _STOP_WORDS.values() for word in words}
}
_WORD = re.compile(r"[^\W\d_]+")


def clean(raw: str) -> str:
    """A rewrite without what models put around it: think tags, code fences, "Here is ...:", quotes, closing remarks."""
    text, before = raw.strip(), ""
    while text != before:
        before, text = text, _without_wrapper(text).strip()
    return text


def _without_wrapper(text: str) -> str:
    for tag in _TAGS:
        text = text.removeprefix(tag).removesuffix(tag).strip()
    fenced = _FENCE.match(text)
    if fenced and "```" not in fenced.group(1):
        text = fenced.group(1).strip()
    for pattern in (_SURE, _PREFACE, _CLOSER):
        text = pattern.sub("", text, count=1).strip()
    closing = _QUOTES.get(text[:1])
    inside = text[1:-1]
    if closing and len(text) > 1 and text.endswith(closing) and closing not in inside and text[0] not in inside:
        return inside
    return text


def control_mark(text: str) -> str | None:
    """The first token of a chat format, or character that could not be decoded, that stands in the text."""
    if "<" not in text and "[" not in text and "\ufffd" not in text:
        return None
    found = _CONTROL.search(text)
    return found.group() if found else None


def remark(text: str, source: str) -> str | None:
    """The first remark about the task or the text as a text, unless the source has it too."""
    lower = text.lower()
    if not any(word in lower for word in _ABOUT_WORDS):
        return None
    found = _ABOUT.search(lower)
    return found.group() if found and found.group() not in source.lower() else None


def echo(text: str, instruction: str, quoted: tuple[str, ...], most_characters: int) -> str | None:
    """A piece of more than ``most_characters`` that the text shares with the instruction, what it quotes left out."""
    for given in quoted:
        if given.strip():
            instruction = instruction.replace(given.strip(), "\0")
    step = max(1, (most_characters + 1) // 2)
    for at in range(0, len(text) - step + 1, step):
        place = instruction.find(text[at : at + step])
        while place >= 0:
            piece = _common(text, at, instruction, place)
            if len(piece) > most_characters:
                return piece
            place = instruction.find(text[at : at + step], place + 1)
    return None


def _common(text: str, at: int, other: str, place: int) -> str:
    start = end = 0
    while at > start and place > start and text[at - start - 1] == other[place - start - 1]:
        start += 1
    while at + end < len(text) and place + end < len(other) and text[at + end] == other[place + end]:
        end += 1
    return text[at - start : at + end]


def scripts(text: str) -> Counter[str]:
    """Letters by script."""
    text = _COMMAND.sub("", text)
    return Counter({name: n for name, pattern in _LETTERS.items() if (n := len(pattern.findall(text)))})


def foreign_script(text: str, source: str, most_share: float) -> str | None:
    """Why the scripts of the text are not the source's: another main one, or too many letters of others."""
    if not (_NOT_LATIN.search(text) or _NOT_LATIN.search(source)):
        return None
    there = scripts(source)
    # Japanese writes in two scripts: what the source mixes, the rewrite may mix.
    home = {name for name, count in there.items() if count >= most_share * there.total()} or {"Latin"}
    here = scripts(text)
    foreign = {name: count for name, count in here.items() if name not in home}
    share = sum(foreign.values()) / max(1, here.total())
    if share <= most_share:
        return None
    return f"{share:.0%} of the letters are {' and '.join(sorted(foreign))}; the source is {' and '.join(sorted(home))}"


@lru_cache(maxsize=64)
def language(text: str, least_votes: int) -> str | None:
    """The language whose stop words are most frequent, or None on fewer than ``least_votes`` or no clear majority."""
    votes: Counter[str] = Counter()
    for word, count in Counter(_WORD.findall(text.lower())).items():
        for name in _LANGUAGES.get(word, ()):
            votes[name] += count
    (most, first), (second, _) = [*((n, name) for name, n in votes.most_common(2)), (0, ""), (0, "")][:2]
    return first if most >= max(1, least_votes, 2 * second) else None


def repeated_share(text: str, n: int) -> float:
    """Share of the n-grams of words that occurred before in the text; 0 for texts of fewer than 4n words."""
    words = text.split()
    if len(words) < 4 * n:
        return 0.0
    grams = list(zip(*(words[start:] for start in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams)


def compressed_share(text: str) -> float:
    """Bytes after zlib over bytes before."""
    data = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(data, 6)) / max(1, len(data))


def loops(text: str) -> bool:
    """True if the text ends in the same words over and over."""
    return is_looping(text)


def tag_in(text: str) -> str | None:
    """The first think tag in the text."""
    if "<" not in text and "[" not in text:
        return None
    return next((tag for tag in _TAGS if tag in text), None)


def imbalances(text: str) -> dict[str, int]:
    """Delimiters that are not closed: name -> how many too many (or too few, below 0); none for a balanced text."""
    counts = {
        "braces {}": _plain_count(text, "{") - _plain_count(text, "}"),
        "\\[ \\]": _command_count(text, "\\[") - text.count("\\]"),
        "\\( \\)": _command_count(text, "\\(") - text.count("\\)"),
        "dollar signs": _odd_dollars(text),
    }
    return {name: count for name, count in counts.items() if count}


def _plain_count(text: str, brace: str) -> int:
    return text.count(brace) - text.count("\\" + brace)


def _command_count(text: str, mark: str) -> int:
    """Without ``\\\\[2pt]``, a line break with its height."""
    return text.count(mark) - text.count("\\" + mark)


_CURRENCY = re.compile(r"(?<!\\)\$(?=\d)")


def _odd_dollars(text: str) -> int:
    """1 if the unescaped dollar signs are odd, both with and without those that may be currency."""
    total = text.count("$") - text.count("\\$")
    return int(total % 2 == 1 and (total - len(_CURRENCY.findall(text))) % 2 == 1)


def boxed_answers(text: str) -> int:
    """Different answers in boxes; boxes joined by a comma or "and" are one."""
    boxes = complete_boxes(text)
    if len(boxes) < 2:
        return len(boxes)
    last = last_box(text, False)
    before = {box.text for box in boxes if last is not None and box.end < last.start}
    return len(before - {last.text if last else ""}) + 1
