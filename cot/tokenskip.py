"""TokenSkip: chains of thought with their least important tokens left out, at a ratio that the prompt names.

arXiv 2502.12067. Each trace is compressed once, at a ratio drawn from a list; the user's turn then ends in the ratio,
and the student learns to write traces of the density it is asked for. Departures:

- importance is the surprise of a causal model, -log p(token | question and trace before it), summed over a word (the
  paper's own comparison, as in Selective Context), or P(keep) of a token classifier that the user names, such as
  LLMLingua-2, which the paper uses;
- whole words are kept or dropped, and the ratio is met in the student's tokens over the whole trace, where LLMLingua-2
  counts another tokenizer's tokens chunk by chunk and can miss it;
- words with a digit or a formula are kept first (``keep_numbers``), as the released code does for digits;
- the ratio stands between delimiters that are ours for every model, where the released code writes Llama's end-of-turn
  token;
- rewrites pass the gates that fit text without grammar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from eval_math.errors import BadInput
from eval_math.records import Json, Message, Problem, Request, digest

from .datagen.admission import admit, data_row, question_prompt
from .datagen.gates import Candidate, check
from .datagen.records import Attempt, Call, Outcome, Reply, Score, SourceRow
from .datagen.rewriter import Bench, Work
from .datagen.student import Output
from .method import Method
from .token_importance import classifier_importance

WORD = re.compile(r"\s*\S+")
"""A word with the blanks before it, as most tokenizers cut."""
NUMBER = re.compile(r"[\d\\=+*/^]")
UNFIT_GATES = frozenset({"language", "repetition", "format"})


@dataclass(frozen=True)
class AskedRatio(Method):
    """Ask for a ratio that the model was trained on: it stands at the end of the question."""

    name: ClassVar[str] = "tokenskip"
    summary: ClassVar[str] = "a kept ratio from training at the end of the question"

    ratio: float = 0.5
    """Share of the chain of thought that is to be left; 1 asks plainly."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise BadInput(f"tokenskip: ratio={self.ratio}, a share above 0 and up to 1 is expected")

    def messages(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The user turn with the ratio after it."""
        return with_ratio(messages, self.ratio)


@dataclass(frozen=True)
class TokenSkip:
    """How the dataset is made."""

    name: ClassVar[str] = "tokenskip"

    ratios: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
    """Each row gets one of them, drawn by the hash of the row; 1 leaves the trace as it is."""
    keep_numbers: bool = True
    """Words with a digit or a sign of a formula go last."""
    classifier: str = ""
    """Folder or hub id of a token classifier whose label 1 means keep; "" = surprise under the engine's model."""

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise BadInput(f"tokenskip: ratios={self.ratios}, shares above 0 and up to 1 are expected")

    @property
    def needs(self) -> frozenset[str]:
        """`score`, unless a classifier judges."""
        return frozenset() if self.classifier else frozenset({"score"})

    def fingerprint(self) -> dict[str, Json]:
        """Name and hyper-parameters."""
        return {"name": self.name, **asdict(self), "ratios": list(self.ratios)}

    def rewrite(self, row: SourceRow, bench: Bench) -> Work:
        """One row at the ratio drawn for it."""
        output = admit(row)
        if isinstance(output, Outcome):
            return output
        ratio = self.ratios[int(digest(["ratio", row.key], 8), 16) % len(self.ratios)]
        n_source = bench.student.count(output.thinking)
        if ratio == 1:
            made = data_row(question_prompt(row), output.thinking, output, bench.student, condition="ratio-1.0")
            return Outcome("kept", (replace(made, asked_ratio=1.0),), n_source_tokens=n_source)
        words = WORD.findall(output.thinking)
        weights = yield from self._weights(row, output, words, bench)
        text = kept_words(words, weights, ratio, bench.student.count).strip()
        found = [
            each for each in check(_candidate(row, output, text, bench), bench.gates) if each.gate not in UNFIT_GATES
        ]
        attempts = (Attempt(f"ratio-{ratio}", 0, text, tuple(found)),)
        if found:
            return Outcome("rejected", (), attempts, n_source_tokens=n_source)
        messages = with_ratio(question_prompt(row), ratio)
        made = data_row(messages, text, output, bench.student, condition=f"ratio-{ratio}")
        return Outcome("kept", (replace(made, asked_ratio=ratio),), attempts, n_source_tokens=n_source)

    def _weights(
        self, row: SourceRow, output: Output, words: Sequence[str], bench: Bench
    ) -> Generator[list[Call], list[Reply], list[float]]:
        """Importance of each word."""
        if self.classifier:
            weights = classifier_importance(self.classifier, words)
        else:
            weights = yield from _surprise(row, words, bench)
        if not self.keep_numbers:
            return weights
        most = max(weights, default=0.0) + 1
        return [weight + most * bool(NUMBER.search(word)) for word, weight in zip(words, weights, strict=True)]


def with_ratio(messages: tuple[Message, ...], ratio: float) -> tuple[Message, ...]:
    """The conversation with the wanted ratio after its last user turn; 1 leaves it as it is."""
    if ratio == 1:
        return messages
    at = max(i for i, message in enumerate(messages) if message.role == "user")
    turn = Message("user", f"{messages[at].content} <ratio>{ratio:g}</ratio>")
    return (*messages[:at], turn, *messages[at + 1 :])


def kept_words(words: Sequence[str], weights: Sequence[float], ratio: float, count: Callable[[str], int]) -> str:
    """The most important words, in their order, that fill ``ratio`` of the tokens of all of them."""
    sizes = [count(word) for word in words]
    room = ratio * sum(sizes)
    kept = set()
    for at in sorted(range(len(words)), key=lambda at: (-weights[at], at)):
        if sizes[at] <= room:
            kept.add(at)
            room -= sizes[at]
    return "".join(word for at, word in enumerate(words) if at in kept)


def _surprise(row: SourceRow, words: Sequence[str], bench: Bench) -> Generator[list[Call], list[Reply], list[float]]:
    """Nats by which the model is surprised at each word, summed over its tokens."""
    engine = bench.scoring
    pieces = [engine.encode(word) for word in words]
    prompt = tuple(engine.prompt_ids(Request("row", messages=question_prompt(row))))
    (scores,) = yield [Score(prompt, tuple(token for piece in pieces for token in piece))]
    assert isinstance(scores, tuple)
    left = iter(scores)
    return [-sum(next(left) for _ in piece) for piece in pieces]


def _candidate(row: SourceRow, output: Output, text: str, bench: Bench) -> Candidate:
    return Candidate(
        question=row.problem.question,
        source=output.thinking,
        text=text,
        raw=text,
        answer=row.problem.answer,
        answer_text=output.answer,
        n_source_tokens=bench.student.count(output.thinking),
        n_tokens=bench.student.count(text),
    )
