"""The model that will be trained: its tokens, its think tags, and how a source's output is cut in two."""

from __future__ import annotations

from dataclasses import dataclass, field

from eval_math.errors import BadInput

from ..chat import Chat, open_chat, resolve_model, template_hash
from ..thinking import TAG_PAIRS

REMEMBERED_TEXTS = 256


@dataclass(frozen=True)
class Output:
    """A source's output without tags. ``lead`` and ``trail`` are the blanks around the thinking, kept as they were."""

    thinking: str
    answer: str
    lead: str = ""
    trail: str = ""


@dataclass(frozen=True)
class Student:
    """Tokenizer and chat template of the model to be trained."""

    chat: Chat
    name: str
    _counts: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    """Of texts seen lately: a source is counted once for each check and row that is made of it."""

    @classmethod
    def named(cls, model: str) -> Student:
        """The student behind a model folder, a hub id or `embedded`.

        Raises:
            BadInput: no such model or no chat template.
        """
        chat = open_chat(resolve_model(model))
        if not chat.tokenizer.chat_template:
            raise BadInput(f"student {model!r}: the tokenizer has no chat template; give an instruction-tuned model")
        return cls(chat, model)

    @property
    def template_hash(self) -> str:
        """Hash of the chat template and the vocabulary."""
        return template_hash(self.chat.tokenizer)

    def count(self, text: str) -> int:
        """Tokens of a text, no special tokens added."""
        if self._counts.get(text) is None:
            if len(self._counts) >= REMEMBERED_TEXTS:
                self._counts.clear()
            self._counts[text] = len(self.chat.encode(text))
        return self._counts[text]

    def completion(self, thinking: str, output: Output) -> str:
        """Thinking and answer as the student is to write them: its own tags, the source's blanks and answer."""
        tags = self.chat.tags
        return f"{tags.start_text}{output.lead}{thinking.strip()}{output.trail}{tags.end_text}{output.answer}"


def split_output(text: str) -> Output | None:
    """Cut an output at its think tags; None if thinking was never closed, or if there is none.

    The opening tag may be missing: many templates put it into the prompt.
    """
    for start, end in TAG_PAIRS:
        thinking, found, answer = text.partition(end)
        if found:
            thinking = thinking.split(start, 1)[-1]
            body = thinking.strip()
            at = thinking.find(body) if body else len(thinking)
            return Output(body, answer, thinking[:at], thinking[at + len(body) :])
    return None
