"""Chain of Draft (arXiv 2502.18600): a few words per step, shown by examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from eval_math.errors import BadInput
from eval_math.records import Json, Message, Problem

from .datagen.prompt_files import filled, prompts_hash, read_prompts
from .method import Method


@dataclass(frozen=True)
class Draft(Method):
    """An instruction to draft each step in at most ``words`` words, and ``shots`` solved examples before the question.

    The examples are turns of the conversation, asked exactly as the problem is (with the benchmark's own sentence on
    how to answer), and their answers stand in ``\\boxed{}``, where the grader looks for them.

    Departures: examples of our own, as turns instead of one text; boxed answers instead of ``####``; the draft stands
    in the answer of an example, as conversations do not keep earlier thinking.
    """

    name: ClassVar[str] = "draft"
    summary: ClassVar[str] = "chain of draft: a few words per step, shown by examples"

    words: int = 5
    """Most words per step, as the instruction says."""
    shots: int = 4
    """Examples shown, from the first on."""
    place: Literal["system", "user"] = "system"
    """Where the instruction stands: a system turn, or before the question for models that take none."""
    exemplars: Path | None = None
    """JSON file with ``version``, ``instruction`` (with ``{words}``) and ``exemplars`` (question, steps, answer)."""

    def __post_init__(self) -> None:
        if self.words < 1 or self.shots < 0:
            raise BadInput(f"method draft: words={self.words}, shots={self.shots}; at least 1 and 0 expected")
        known = len(self._examples())
        if self.shots > known:
            raise BadInput(
                f"method draft: shots={self.shots}, but {self.exemplars or 'draft.json'} has {known} exemplars"
            )

    def messages(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Instruction, examples, and the benchmark's own conversation.

        Raises:
            BadInput: the benchmark asks with more than one user turn.
        """
        if [message.role for message in messages] != ["user"]:
            raise BadInput(f"problem {problem.id!r}: method draft needs a conversation of one user turn")
        asked = messages[0].content
        turns = [turn for each in self._examples()[: self.shots] for turn in _turns(each, problem, asked)]
        instruction = filled(self._prompts()["instruction"], words=str(self.words))
        if self.place == "system":
            return (Message("system", instruction), *turns, Message("user", asked))
        return (*turns, Message("user", f"{instruction}\n\n{asked}"))

    def fingerprint(self) -> dict[str, Json]:
        """Parameters, and a hash of the prompts instead of their path."""
        return {**super().fingerprint(), "exemplars": prompts_hash("draft", self.exemplars)}

    def _prompts(self) -> dict[str, Any]:
        return read_prompts("draft", self.exemplars)

    def _examples(self) -> list[Mapping[str, Any]]:
        found = self._prompts()
        examples = found.get("exemplars")
        wanted = {"question", "steps", "answer"}
        good = isinstance(examples, list) and all(isinstance(each, dict) and wanted <= set(each) for each in examples)
        if not good or not isinstance(found.get("instruction"), str):
            raise BadInput(
                f"{self.exemplars}: expected version, instruction, and exemplars with question, steps and answer each"
            )
        return examples  # pyright: ignore[reportReturnType]


def draft_text(example: Mapping[str, Any]) -> str:
    """The answer of an example: a step per line, then the boxed answer."""
    return "\n".join([*example["steps"], f"\\boxed{{{example['answer']}}}"])


def _turns(example: Mapping[str, Any], problem: Problem, asked: str) -> tuple[Message, Message]:
    question = (
        asked.replace(problem.question, example["question"]) if problem.question in asked else example["question"]
    )
    return Message("user", question), Message("assistant", draft_text(example))
