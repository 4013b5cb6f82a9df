"""Which source rows are fit to be rewritten, the same for every method."""

from __future__ import annotations

from collections.abc import Sequence

from eval_math.grading import grade
from eval_math.policies import find_policy, policy_for
from eval_math.prompts import prompt
from eval_math.records import Message

from .records import DataRow, Outcome, SourceRow
from .student import Output, Student, split_output


def admit(row: SourceRow) -> Output | Outcome:
    """The source's output cut in two, or an outcome ``excluded`` with the reason.

    A source must have ended by itself, hold a closed chain of thought that is not empty, and be right: graded here
    where it came without a verdict.
    """
    reason = ""
    output = split_output(row.output)
    if row.finish != "stop":
        reason = "truncated: the source was cut off"
    elif output is None:
        reason = "no thinking: the output has no closed think block"
    elif not output.thinking or not output.answer.strip():
        reason = "empty: thinking or answer of the source is empty"
    elif not _is_right(row, output):
        reason = "wrong: the source's answer is not the reference"
    if reason or output is None:
        return Outcome("excluded", error=reason)
    return output


def question_prompt(row: SourceRow, prefix: str = "") -> tuple[Message, ...]:
    """The benchmark's own prompt, with ``prefix`` in front of the user's turn."""
    messages = prompt(row.problem)
    if not prefix:
        return messages
    return prefixed(messages, prefix)


def prefixed(messages: Sequence[Message], prefix: str) -> tuple[Message, ...]:
    """The conversation with ``prefix`` and a colon before its last user turn."""
    at = max(i for i, message in enumerate(messages) if message.role == "user")
    turn = Message("user", f"{prefix}: {messages[at].content}")
    return (*messages[:at], turn, *messages[at + 1 :])


def data_row(
    messages: tuple[Message, ...], thinking: str, output: Output, student: Student, *, condition: str = ""
) -> DataRow:
    """A row of the dataset with ``thinking`` in the place of the source's own; the answer stays as it was."""
    n_source, n_thinking = student.count(output.thinking), student.count(thinking)
    return DataRow(
        prompt=messages,
        completion=student.completion(thinking, output),
        condition=condition,
        n_question_tokens=sum(student.count(message.content) for message in messages),
        n_thinking_tokens=n_thinking,
        n_answer_tokens=student.count(output.answer),
        kept_ratio=n_thinking / n_source if n_source else 1.0,
    )


def _is_right(row: SourceRow, output: Output) -> bool:
    if row.correct is not None:
        return row.correct
    policy = find_policy(row.problem.benchmark) or policy_for("auto")
    return grade(output.answer, row.problem.answer, policy=policy).correct
