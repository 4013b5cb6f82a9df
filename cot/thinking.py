"""Thinking and answer: one splitter and one token count for every engine, by ids where the tokenizer allows it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Decode = Callable[[Sequence[int]], str]
PromptState = Literal["open", "closed", "none"]

TAG_PAIRS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
)


@dataclass(frozen=True)
class ThinkTags:
    """The two tags around a chain of thought.

    The ids are None for tokenizers that spell the tags with several tokens; the tags are then found in the decoded
    text, and a token that carries the last character of the end tag still counts as thinking.
    """

    start_id: int | None = None
    end_id: int | None = None
    start_text: str = "<think>"
    end_text: str = "</think>"

    @property
    def ids(self) -> frozenset[int]:
        """The tag ids that exist."""
        return frozenset(i for i in (self.start_id, self.end_id) if i is not None)


@dataclass(frozen=True)
class Split:
    """An output cut in two. ``n_thinking + n_answer`` is the number of output ids; the texts hold no tags.

    ``thinking`` is None where no thinking took place; ``closed`` says that its end tag was generated.
    """

    thinking: str | None
    answer: str
    n_thinking: int
    n_answer: int
    closed: bool


def find_tags(tokenizer: PreTrainedTokenizerBase) -> ThinkTags:
    """The first of `TAG_PAIRS` that the tokenizer knows as single tokens, else ``<think>`` looked for in the text."""
    vocabulary = tokenizer.get_vocab()
    for start, end in TAG_PAIRS:
        if start in vocabulary and end in vocabulary:
            return ThinkTags(vocabulary[start], vocabulary[end], start, end)
    return ThinkTags()


def prompt_state(prompt_ids: Sequence[int], tags: ThinkTags, decode: Decode) -> PromptState:
    """Whether the prompt ends inside a chain of thought, after one, or knows none."""
    if tags.end_id is not None and tags.start_id is not None:
        start, end = _last(prompt_ids, tags.start_id), _last(prompt_ids, tags.end_id)
    else:
        text = decode(prompt_ids)
        start, end = text.rfind(tags.start_text), text.rfind(tags.end_text)
    if start == end == -1:
        return "none"
    return "open" if start > end else "closed"


def think_end(prompt_ids: Sequence[int], output_ids: Sequence[int], tags: ThinkTags, decode: Decode) -> int | None:
    """Position in prompt + output of the end tag that ends thinking, else None; always None for tags without ids.

    A prompt that closed thinking gives its own end tag, until the output starts with a start tag and so thinks anew.
    """
    if tags.end_id is None or tags.start_id is None:
        return None
    end = _last(prompt_ids, tags.end_id)
    if end > _last(prompt_ids, tags.start_id) and not _starts_open(output_ids, tags, decode, ""):
        return end
    length = _end_by_id(output_ids, tags)
    return len(prompt_ids) + length - 1 if length else None


def split(prompt_ids: Sequence[int], output_ids: Sequence[int], tags: ThinkTags, decode: Decode) -> Split:
    """Cut an output into thinking and answer.

    Thinking is open if the prompt ends inside it or the output starts with the start tag, and ends with the first end
    tag; never closed, it is the whole output. An end tag without a start closes everything before it, unless the
    prompt had closed thinking already. Further tags belong to the answer.

    Args:
        prompt_ids: what the model was shown, without any prefilled output.
        output_ids: prefilled and generated ids.
        decode: ids to text, without special tokens other than the tags.
    """
    state = prompt_state(prompt_ids, tags, decode)
    by_id = tags.end_id is not None
    text = "" if by_id else decode(output_ids)
    end = _end_by_id(output_ids, tags) if by_id else _end_by_text(output_ids, tags, decode, text)
    opened = state == "open" or _starts_open(output_ids, tags, decode, text)
    if not opened and (end == 0 or state == "closed"):
        return Split(None, _bare(output_ids, tags, decode), 0, len(output_ids), False)
    if end == 0:
        return Split(_bare(output_ids, tags, decode), "", len(output_ids), 0, False)
    counts = end, len(output_ids) - end
    if by_id:
        return Split(_bare(output_ids[:end], tags, decode), _bare(output_ids[end:], tags, decode), *counts, True)
    thinking, _, answer = text.partition(tags.end_text)
    return Split(_without_tags(thinking, tags), _without_tags(answer, tags), *counts, True)


def _last(ids: Sequence[int], wanted: int) -> int:
    return next((at for at in range(len(ids) - 1, -1, -1) if ids[at] == wanted), -1)


def _end_by_id(ids: Sequence[int], tags: ThinkTags) -> int:
    """Number of ids up to and including the first end tag; 0 without one."""
    return next((at for at, token in enumerate(ids, 1) if token == tags.end_id), 0)


def _end_by_text(ids: Sequence[int], tags: ThinkTags, decode: Decode, text: str) -> int:
    if tags.end_text not in text:
        return 0
    return bisect_left(range(len(ids) + 1), True, key=lambda n: tags.end_text in decode(ids[:n]))


def _starts_open(ids: Sequence[int], tags: ThinkTags, decode: Decode, text: str) -> bool:
    if tags.start_id is None:
        return text.lstrip().startswith(tags.start_text)
    start = next((at for at, token in enumerate(ids) if token == tags.start_id), None)
    return start is not None and not decode(ids[:start]).strip()


def _bare(ids: Sequence[int], tags: ThinkTags, decode: Decode) -> str:
    if tags.end_id is not None:
        hidden = tags.ids
        return decode([token for token in ids if token not in hidden])
    return _without_tags(decode(ids), tags)


def _without_tags(text: str, tags: ThinkTags) -> str:
    return text.replace(tags.start_text, "").replace(tags.end_text, "")
