"""NoWait (arXiv 2506.08343): words of hesitation are never generated while the model thinks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal

from eval_math.errors import BadInput
from eval_math.records import Json, Request, Trace

from .chat import Chat
from .engine import Engine
from .phases import Course, Phased, chat_of, check_end_tag, end_tag, ids_of

logger = logging.getLogger(__name__)

Match = Literal["word", "substring"]
KEYWORDS = (
    "wait", "alternatively", "hmm", "but", "however", "alternative", "another", "check", "double-check", "oh", "maybe",
    "verify", "other", "again", "now", "ah", "any",
)  # fmt: skip
"""The paper's."""
LARGEST_SHARE = 0.01


@dataclass(frozen=True)
class Ban:
    """``banned`` are the texts of the banned ids; ``missed`` the keywords that no token of the vocabulary spells."""

    banned: Mapping[int, str]
    missed: tuple[str, ...]
    n_vocabulary: int

    @property
    def share(self) -> float:
        """Of the vocabulary."""
        return len(self.banned) / max(1, self.n_vocabulary)


@dataclass(frozen=True)
class NoWait(Phased):
    """Bans the tokens that spell a keyword, in any case, from the thinking; the answer is decoded without the ban.

    A token is banned for what it decodes to: ``word`` takes those in which a keyword stands between non-letters, so
    that "now" never bans " know"; ``substring``, the paper's, those that hold it anywhere. A keyword that no token
    spells alone (double-check) is not banned, and said to be so. Outputs without any thinking are decoded again
    without the ban, the first try being charged as probe tokens.

    Departures: word boundaries by default. A word may still be spelled out of pieces of words.
    """

    name: ClassVar[str] = "nowait"
    summary: ClassVar[str] = "words like Wait and But are never generated while thinking"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "prefill", "ban"})

    keywords: tuple[str, ...] = KEYWORDS
    match: Match = "word"
    """word: between non-letters; substring: anywhere in the token."""
    tokenizer: str | None = None
    """Folder with the model's tokenizer, for models served from elsewhere."""

    def __post_init__(self) -> None:
        if not self.keywords or "" in self.keywords:
            raise BadInput(f"method nowait: keywords={self.keywords!r}; words expected, none of them empty")
        if self.match not in ("word", "substring"):
            raise BadInput(f"method nowait: match={self.match!r}, expected word or substring")

    def check(self, engine: Engine) -> None:
        """Refuse a vocabulary that spells no keyword; warn of a ban that goes too far.

        Raises:
            BadInput: nothing would be banned, or the tokenizer is not at hand.
        """
        ban = self.ban(engine)
        if not ban.banned:
            raise BadInput(f"method nowait: no token of {engine.identity.model} spells a keyword; nothing would change")
        check_end_tag(engine, self.name, end_tag(engine))

    def ban(self, engine: Engine) -> Ban:
        """What is banned for the engine's model."""
        return _ban(chat_of(engine, self.tokenizer), self.keywords, self.match)

    def fingerprint(self) -> dict[str, Json]:
        """Keywords and how they match; the tokenizer is the model's."""
        return {"name": self.name, "keywords": list(self.keywords), "match": self.match}

    def first(self, engine: Engine, course: Course) -> Request:
        """Thinking, with the ban."""
        banned = tuple(self.ban(engine).banned)
        return replace(
            course.request,
            sampling=replace(course.request.sampling, banned_ids=banned, stop_at_think_end=True),
        )

    def then(self, engine: Engine, course: Course, trace: Trace) -> Request | Trace | None:
        """The answer, without it."""
        course.kept = trace
        if course.stage == "answer":
            return trace
        output = ids_of(trace, self.name)
        if trace.thinking is None:
            course.stage = "answer"
            course.n_probe_tokens += course.n_generated(output)
            return course.go_on(engine, course.request.prefill_ids) or course.cut_off()
        if end_tag(engine) not in trace.text:
            return trace
        course.stage = "answer"
        return course.go_on(engine, output) or course.cut_off()


@lru_cache(maxsize=4)
def _ban(chat: Chat, keywords: tuple[str, ...], match: Match) -> Ban:
    """Scan a vocabulary; logged once."""
    spared = chat.tags.ids | chat.hidden_ids | chat.end_ids
    ids = sorted(set(chat.tokenizer.get_vocab().values()) - spared)
    texts = {token: chat.decode_all([token]) for token in ids}
    found = Ban(*_matching(texts.items(), keywords, match), n_vocabulary=len(texts))
    logger.info("nowait bans %d tokens: %s", len(found.banned), ", ".join(map(repr, found.banned.values())))
    if found.missed:
        logger.warning("nowait: no token spells %s; not banned", ", ".join(found.missed))
    if found.share > LARGEST_SHARE:
        logger.warning("nowait bans %.1f %% of the vocabulary; is every keyword meant?", 100 * found.share)
    return found


def _matching(
    texts: Iterable[tuple[int, str]], keywords: tuple[str, ...], match: Match
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Banned ids with their texts, and the keywords that none of them spells."""
    # Letters of every script count: "ah" must not ban "Ählich".
    edges = (r"(?<![^\W_])", r"(?![^\W_])") if match == "word" else ("", "")
    patterns = {word: re.compile(edges[0] + re.escape(word) + edges[1], re.IGNORECASE) for word in keywords}
    banned, hit = dict[int, str](), set[str]()
    for token, text in texts:
        words = [word for word, pattern in patterns.items() if pattern.search(text)]
        if words:
            banned[token] = text
            hit.update(words)
    return banned, tuple(word for word in keywords if word not in hit)
