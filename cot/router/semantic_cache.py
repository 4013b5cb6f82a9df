"""Answers given once, given again: whole requests that were decoded without chance, never parts of them.

Off by default, and off for any measurement. A request is kept only if it isn't streamed, says ``temperature: 0`` and
asks for one answer. Its key holds every field sent upstream (so every sampling field, the route, the model and the
other turns), the path and the caller's key: nobody is answered with what another asked.

``exact``: the same request. ``near``: the last question may differ in what says nothing: spaces, end marks, capitals
of plain words, courtesies, articles. Similarity of embeddings is not used: a question with another number is nearest to
the first by any embedding, and has another answer. Every number, sign, name of one letter, abbreviation and negation
must agree, in order; code is compared exactly.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from eval_math.records import Json

CacheMode = Literal["off", "exact", "near"]
EMPTY_WORDS = frozenset(("a", "an", "the", "please", "kindly", "thanks", "hi", "hello", "hey"))
TOKEN = re.compile(r"\d+(?:[.,]\d+)*|\w+(?:['’]\w+)*|[^\w\s]")
END_MARKS, MAYBE_SIGNS = ".,;?", "!:"
CODE = re.compile(r"```|\n[ \t]+\S|^\s*(def|class|import|#include)\b", re.MULTILINE)


@dataclass(frozen=True)
class CacheConfig:
    """What is kept, and how long."""

    mode: CacheMode = "off"
    entries: int = 1000
    """Least recently used ones go first."""
    seconds: float = 3600.0
    """An answer's age at which it is asked for anew."""
    most_answer_bytes: int = 1_000_000


@dataclass(frozen=True)
class Kept:
    """An answer as the upstream gave it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    exact_key: str
    born: float


@dataclass(frozen=True)
class Keys:
    """Names of a request: by all it holds, and by all but what says nothing."""

    exact: str
    near: str


@dataclass
class AnswerCache:
    """Least recently used answers of one process."""

    config: CacheConfig
    clock: Callable[[], float] = time.monotonic
    kept: OrderedDict[str, Kept] = field(default_factory=OrderedDict)

    def keys(self, body: Mapping[str, Json], path: str, caller: str) -> Keys | None:
        """A request's names; None if it must be asked each time."""
        if self.config.mode == "off" or not repeatable(body):
            return None
        rest, question = _apart(body)
        frame = json.dumps([path, caller, rest], sort_keys=True)
        return Keys(_digest(frame, question), _digest(frame, plain(question)))

    def find(self, keys: Keys) -> tuple[Kept, Literal["exact", "near"]] | None:
        """The answer to this request, or to one that differs in nothing that matters."""
        name = self._name(keys)
        found = self.kept.get(name)
        if found is None:
            return None
        if self.clock() - found.born > self.config.seconds:
            del self.kept[name]
            return None
        self.kept.move_to_end(name)
        return found, "exact" if found.exact_key == keys.exact else "near"

    def put(self, keys: Keys, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Keep a good answer; a larger one than allowed, or an error, is not."""
        if status != 200 or len(body) > self.config.most_answer_bytes:
            return
        own = [(name, value) for name, value in headers if name in (b"content-type", b"content-encoding")]
        name = self._name(keys)
        self.kept[name] = Kept(status, own, body, keys.exact, self.clock())
        self.kept.move_to_end(name)
        while len(self.kept) > self.config.entries:
            self.kept.popitem(last=False)

    def _name(self, keys: Keys) -> str:
        return keys.near if self.config.mode == "near" else keys.exact


def repeatable(body: Mapping[str, Json]) -> bool:
    """Whether the same answer is to be expected again: greedy, one answer, not streamed."""
    temperature = body.get("temperature")
    greedy = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return greedy and not body.get("stream") and body.get("n") in (None, 1)


def plain(question: str) -> str:
    """``question`` without what says nothing; equal for two questions only if all else agrees, in order."""
    if CODE.search(question):
        return "code " + question
    tokens = TOKEN.findall(unicodedata.normalize("NFC", question))
    return "text " + " ".join(_significant(tokens))


def _significant(tokens: list[str]) -> list[str]:
    """Marks that end a sentence or part it are dropped, except where they may be operators, as in 5! or 3:4."""
    found = list[str]()
    for at, token in enumerate(tokens):
        before, after = tokens[at - 1] if at else "", tokens[at + 1] if at + 1 < len(tokens) else ""
        if token in END_MARKS:
            continue
        if token in MAYBE_SIGNS and before.isalpha() and len(before) > 1 and not after[:1].isdecimal():
            continue
        word = _lowered(token)
        if word not in EMPTY_WORDS or (len(token) == 1 and _is_symbol(token, before, after)):
            found.append(word)
    return found


def _lowered(token: str) -> str:
    """Plain words without capitals; variables and abbreviations with theirs."""
    plain_word = len(token) > 1 and (token.islower() or token.istitle())
    return token.lower() if plain_word or token in ("A", "I") else token


def _is_symbol(token: str, before: str, after: str) -> bool:
    """Whether a lone `a` is a variable: beside a sign or a number rather than between words."""
    return not (after.isalpha() and len(after) > 1) or (
        bool(before) and not before.isalpha() and before not in ".,;:?!"
    )


def _apart(body: Mapping[str, Json]) -> tuple[dict[str, Json], str]:
    """The body without the text of its last turn, and that text; "" where the last turn is no plain question."""
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(messages, list) or not isinstance(last, dict):
        return dict(body), ""
    content = last.get("content")
    if last.get("role") != "user" or not isinstance(content, str):
        return dict(body), ""
    return {**body, "messages": [*messages[:-1], {**last, "content": ""}]}, content


def _digest(*parts: str) -> str:
    framed = json.dumps(parts).encode()
    return hashlib.sha256(framed).hexdigest()
