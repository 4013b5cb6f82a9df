"""From rows to token ids, exactly: the prompt as the engines show it, the completion, the token that ends the turn.

Nothing is rendered a second time with the answer inside: a template that drops thinking from its history (Qwen3) or
moves blanks would then train another text than the one that was written. `check_template` says in words what a
trainer that renders whole conversations would have made of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eval_math.errors import BadInput
from eval_math.records import Message, Request

from ..chat import Chat
from ..thinking import ThinkTags
from .rows import PairRow, SftRow

IGNORED = -100
CHECKED_ROWS = 64
MARK = "laconic-completion"
DROPS = (
    "the chat template drops the thinking of an answer: a trainer that renders whole conversations would train without "
    "it; laconic trains on its own tokens and keeps it"
)
NEVER_CLOSED = (
    "thinking is opened and never closed, so the model learns to put its answer inside the thinking, or to leave the "
    "answer out"
)
DROPS_LATER = (
    "the chat template drops the thinking of earlier turns, as Qwen3's does: once a further question follows, the "
    "model does not see its thoughts"
)


@dataclass(frozen=True)
class EncodedRow:
    """Ids of one row; loss counts on ``completion_ids`` alone, whose last id ends the turn."""

    id: str
    prompt_ids: list[int]
    completion_ids: list[int]

    @property
    def input_ids(self) -> list[int]:
        """Prompt and completion."""
        return [*self.prompt_ids, *self.completion_ids]

    @property
    def labels(self) -> list[int]:
        """As ``input_ids``, -100 in place of the prompt."""
        return [IGNORED] * len(self.prompt_ids) + self.completion_ids


@dataclass(frozen=True)
class EncodedPair:
    """Ids of one pair; both completions end the turn."""

    id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


class Encoder:
    """The student's tokenizer as training uses it.

    Raises:
        BadInput: the tokenizer has no chat template, or its template ends no turn of the assistant.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.end_id = end_of_turn(chat)

    def row(self, row: SftRow) -> EncodedRow:
        """The ids of a row.

        Raises:
            BadInput: an end-of-turn token inside the completion, or a prompt that the template refuses.
        """
        prompt = self.prompt(row.where, row.prompt)
        return EncodedRow(row.id, prompt, self.completion(row.where, prompt, row.completion))

    def pair(self, row: PairRow) -> EncodedPair:
        """The ids of a pair; errors as for `row`."""
        prompt = self.prompt(row.where, row.prompt)
        both = [self.completion(row.where, prompt, text) for text in (row.chosen, row.rejected)]
        return EncodedPair(row.id, prompt, *both)

    def prompt(self, where: str, messages: tuple[Message, ...]) -> list[int]:
        """What an engine shows the model for these messages, generation prompt included."""
        return self.chat.render(Request(where, messages=messages))

    def completion(self, where: str, prompt_ids: Sequence[int], text: str) -> list[int]:
        """Ids of what the model is to write after ``prompt_ids``, the end of its turn last."""
        ids = self.chat.encode(self.written(prompt_ids, text))
        ids = ids[:-1] if ids and ids[-1] in self.chat.end_ids else ids
        if any(token in self.chat.end_ids for token in ids):
            raise BadInput(f"{where}: a completion holds the token that ends a turn before its end; cut it there")
        if not ids:
            raise BadInput(f"{where}: a completion is empty once tags that the prompt opens are taken off")
        return [*ids, self.end_id]

    def written(self, prompt_ids: Sequence[int], text: str) -> str:
        """``text`` without the start tag, and the blanks after it, that the generation prompt has given already."""
        start = self.chat.tags.start_text
        if not self.chat.opens_thinking(prompt_ids) or not text.lstrip().startswith(start):
            return text
        text = text.lstrip().removeprefix(start)
        given = self.chat.decode_all(prompt_ids[-16:]).rpartition(start)[2]
        return text.removeprefix(given) if given.isspace() else text


def end_of_turn(chat: Chat) -> int:
    """The token that the template puts after an answer and that stops the engines.

    Raises:
        BadInput: there is none, so that a trained model could not learn to stop.
    """
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": MARK}]
    after = _rendered(chat, turns).rpartition(MARK)[2]
    found = next((token for token in chat.encode(after) if token in chat.end_ids), None)
    if found is None and chat.tokenizer.eos_token_id in chat.end_ids:
        found = chat.tokenizer.eos_token_id
    if not isinstance(found, int):
        raise BadInput(
            f"the chat template in {chat.tokenizer.name_or_path!r} ends an answer with {after!r}, and none of its "
            "tokens stops generation; name that token in eos_token_id of generation_config.json"
        )
    return found


@dataclass(frozen=True)
class Kept:
    """Rows that fit, and how many do not. ``longest`` is the most tokens seen, dropped rows included."""

    rows: list[Any]
    dropped: int
    longest: int


def keep_fitting(rows: Sequence[Any], length: Callable[[Any], int], max_length: int) -> Kept:
    """Rows of at most ``max_length`` tokens; the others are left out whole, as a cut would take off the answer.

    Raises:
        BadInput: none is left.
    """
    sizes = [length(row) for row in rows]
    kept = [row for row, size in zip(rows, sizes, strict=True) if size <= max_length]
    if not kept:
        raise BadInput(
            f"all {len(rows)} rows are longer than max_length={max_length} tokens, the shortest has {min(sizes)}; "
            "raise max_length if the model allows it, or make shorter rows"
        )
    return Kept(kept, len(rows) - len(kept), max(sizes))


def check_template(chat: Chat, rows: Sequence[SftRow]) -> list[str]:
    """What rendering whole conversations with the student's template would do to ``rows``, in words; [] if nothing.

    The first 64 rows are looked at. Training by `Encoder` is not concerned by what a template drops, but any other
    tool that renders the same rows is, and so is a later turn of a conversation.

    Raises:
        BadInput: the template refuses an assistant's turn.
    """
    encoder = Encoder(chat)
    found: Counter[str] = Counter()
    shown = rows[:CHECKED_ROWS]
    for row in shown:
        found.update(_own_findings(encoder, row))
        found.update(_template_findings(chat, row))
    return [f"{text} ({count} of {len(shown)} rows looked at)" for text, count in found.items()]


def _own_findings(encoder: Encoder, row: SftRow) -> list[str]:
    """Flaws of the ids that will be trained."""
    chat, tags = encoder.chat, encoder.chat.tags
    encoded = encoder.row(row)
    text = chat.decode_all(encoded.input_ids)
    expected = encoder.written(encoded.prompt_ids, row.completion)
    tail = text[len(chat.decode_all(encoded.prompt_ids)) :]
    found = []
    if not tail.startswith(expected.removesuffix(chat.decode_all([encoder.end_id]))):
        found.append("the tokenizer does not give a completion back as it was written: blanks or characters change")
    for tag in (tags.start_text, tags.end_text):
        open_before = chat.opens_thinking(encoded.prompt_ids) and tag == tags.start_text
        if tail.count(tag) + open_before > 1:
            found.append(f"{tag} stands more than once in what the model is to write")
    opens = chat.opens_thinking(encoded.prompt_ids) or tags.start_text in expected
    if opens and tags.end_text not in expected:
        found.append(NEVER_CLOSED)
    closed = tags.start_text in chat.decode_all(encoded.prompt_ids) and not chat.opens_thinking(encoded.prompt_ids)
    if closed and tags.end_text in expected:
        found.append("the generation prompt has closed thinking already, and the completion thinks once more")
    return found


def _template_findings(chat: Chat, row: SftRow) -> list[str]:
    """Differences between the completion and what the template makes of it."""
    turns = [{"role": message.role, "content": message.content} for message in row.prompt]
    answered = [*turns, {"role": "assistant", "content": row.completion}]
    whole = _rendered(chat, answered)
    answer = whole.removeprefix(_rendered(chat, turns))
    tags = chat.tags
    thinking = _thinking(row.completion, tags)
    found = []
    if thinking and thinking.strip() not in whole:
        found.append(DROPS)
    elif thinking and f"{tags.start_text}{thinking}{tags.end_text}" not in answer:
        found.append("the chat template alters the thinking or the blanks around it; laconic keeps them as written")
    elif not thinking and whole.count(row.completion) != 1:
        found.append("the completion's text does not stand exactly once in the conversation that the template renders")
    if thinking and DROPS not in found:
        later = _rendered(chat, [*answered, {"role": "user", "content": MARK}])
        found += [DROPS_LATER] if thinking.strip() not in later else []
    for tag in (tags.start_text, tags.end_text):
        if answer.count(tag) > max(1, row.completion.count(tag)):
            found.append(f"the chat template doubles the tag {tag} when it renders an answer")
    return found


def _thinking(completion: str, tags: ThinkTags) -> str:
    """The chain of thought of a completion, blanks included; its start tag may be missing."""
    thinking, closed, _ = completion.partition(tags.end_text)
    if not closed or not thinking.strip():
        return ""
    return thinking.partition(tags.start_text)[2] if tags.start_text in thinking else thinking


def _rendered(chat: Chat, turns: list[dict[str, str]]) -> str:
    from jinja2 import TemplateError

    if not chat.tokenizer.chat_template:
        raise BadInput(
            f"the tokenizer in {chat.tokenizer.name_or_path!r} has no chat template; train an instruction-tuned model, "
            "or add chat_template.jinja to its folder"
        )
    try:
        return str(chat.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))
    except (TemplateError, TypeError) as error:
        raise BadInput(f"the chat template refuses a conversation of these turns ({error})") from error
