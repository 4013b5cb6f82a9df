"""Gates that a rewritten text must pass before anyone trains on it: pure functions of the text and its source.

They check form, length, language, repetition, numbers, equations and the answer. None asks a model. They do not
judge whether an argument in words is still complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from eval_math.errors import BadInput
from eval_math.policies import policy_for
from eval_math.records import Finish

from ..segments import count_reflections
from .answers import leak, wrong_section, wrong_statement
from .contamination import ContaminationIndex
from .numbers import Facts, invented, new_step, read_facts, restated, results_kept
from .symbols import new_symbols
from .wording import (
    boxed_answers,
    clean,
    compressed_share,
    control_mark,
    echo,
    foreign_script,
    imbalances,
    language,
    loops,
    remark,
    repeated_share,
    tag_in,
)

__all__ = ["GATES", "Candidate", "Figures", "Gate", "GateSettings", "Rejection", "check", "clean", "measure"]


@dataclass(frozen=True)
class Candidate:
    """A rewritten text and what it came from."""

    question: str
    source: str
    """The text that was rewritten: the whole thinking, or one chunk."""
    text: str
    """The rewrite, cleaned."""
    raw: str
    """The rewrite as the model wrote it."""
    answer: str
    """Reference answer."""
    answer_text: str = ""
    """The visible answer after the thinking, which rewriting leaves as it is; "" = the thinking holds the answer."""
    before: str = ""
    """Chunk mode: the source up to this chunk."""
    finish: Finish = "stop"
    n_source_tokens: int = 0
    """By the student's tokenizer, as `n_tokens`; 0 = not counted, so that characters decide."""
    n_tokens: int = 0
    instruction: str = ""
    """The prompt that the rewriting model saw."""
    last: bool = True
    """False for a chunk that others follow."""

    @property
    def is_chunk(self) -> bool:
        """True if the source is only a part of the thinking."""
        return bool(self.before) or not self.last


@dataclass(frozen=True)
class Rejection:
    """A gate that was not passed; ``reason`` is a sentence with the text or number at fault."""

    gate: str
    reason: str


@dataclass(frozen=True)
class GateSettings:
    """Thresholds of the gates."""

    least_ratio: float = 0.05
    """Tokens of the rewrite over those of the source, at least."""
    most_ratio: float = 0.95
    """The same, at most."""
    most_tokens: int | None = None
    """The longest rewrite that the student can be trained on, in tokens; None = no limit."""
    echo_characters: int = 60
    """A longer piece of the instruction in the rewrite is an echo of it."""
    least_results_kept: float = 0.0
    """Share of the source's results (numbers after an equals sign) that must occur; 0 = only reported."""
    check_reflection: bool = False
    """Reject by the two figures below; without it reflection is only reported."""
    least_reflection: float = 0.3
    """Reflections of the rewrite over those of the source, at least."""
    most_reflection: float = 1.1
    """The same, at most."""
    most_foreign: float = 0.05
    """Share of letters from scripts that the source does not use."""
    least_votes: int = 8
    """Stop words it takes to name the language of a text."""
    repeat_words: int = 8
    """Length of the n-grams that must not repeat."""
    most_repeated: float = 0.2
    """Share of the n-grams that occurred before."""
    least_compressed: float = 0.1
    """Size after zlib over size before; a text that loops compresses further."""
    compress_from: int = 1000
    """Bytes from which on that figure is taken: short texts compress badly, and long ones well."""
    benchmark: str = "auto"
    """Whose grading policy reads and compares answers."""

    def __post_init__(self) -> None:
        policy_for(self.benchmark)
        for low, high in (("least_ratio", "most_ratio"), ("least_reflection", "most_reflection")):
            if not 0 <= getattr(self, low) <= getattr(self, high):
                raise BadInput(
                    f"gates: {low}={getattr(self, low)} and {high}={getattr(self, high)}; 0 <= {low} <= {high}"
                )
        for name in ("least_results_kept", "most_foreign", "most_repeated", "least_compressed"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"gates: {name}={getattr(self, name)}; a share from 0 to 1 is expected")
        for name in ("echo_characters", "least_votes", "repeat_words", "compress_from"):
            if getattr(self, name) < 1:
                raise BadInput(f"gates: {name}={getattr(self, name)}; at least 1 is expected")


@dataclass(frozen=True)
class Figures:
    """What is reported about a rewrite whether or not a gate looks at it."""

    ratio: float
    """Length over that of the source: tokens, or characters where tokens were not counted."""
    results_kept: float
    """Share of the source's results that the rewrite still has."""
    reflections: int
    reflections_source: int


Gate = Callable[[Candidate, GateSettings], str | None]
"""Returns why a rewrite is rejected, or None."""


def check(
    candidate: Candidate, settings: GateSettings, *, first: bool = False, index: ContaminationIndex | None = None
) -> list[Rejection]:
    """What speaks against a rewrite, cheap gates before dear ones; an empty list accepts it. Never raises.

    Args:
        first: stop at the first gate that rejects.
        index: test questions that the question must not overlap with (gate ``contamination``).
    """
    rejections = []
    for name, gate in GATES.items():
        reason = gate(candidate, settings)
        if reason is not None:
            rejections.append(Rejection(name, reason))
            if first:
                return rejections
    shared = index.find(candidate.question) if index is not None else None
    if shared is not None:
        rejections.append(Rejection("contamination", f'a test question has the words "{shared}" too'))
    return rejections


def measure(candidate: Candidate) -> Figures:
    """The figures of a rewrite, for the report."""
    return Figures(
        ratio=_ratio(candidate),
        results_kept=results_kept(candidate.text, candidate.source),
        reflections=count_reflections(candidate.text),
        reflections_source=count_reflections(candidate.source),
    )


def _ratio(candidate: Candidate) -> float:
    if candidate.n_source_tokens:
        return candidate.n_tokens / candidate.n_source_tokens
    return len(candidate.text) / max(1, len(candidate.source))


def check_finish(candidate: Candidate, settings: GateSettings) -> str | None:
    """The model ended by itself."""
    return None if candidate.finish == "stop" else f"the model did not end by itself (finish: {candidate.finish})"


def check_clean(candidate: Candidate, settings: GateSettings) -> str | None:
    """Something is left, and nothing of the conversation with the rewriting model in it."""
    text = candidate.text
    if not text.strip():
        return f"nothing is left of {candidate.raw[:60]!r}"
    mark = control_mark(text)
    if mark is not None:
        return f"control mark {mark!r} in the text"
    said = remark(text, candidate.source)
    if said is not None:
        return f"a remark about the task: {said!r}"
    quoted = (candidate.source, candidate.before, candidate.question)
    piece = echo(text, candidate.instruction, quoted, settings.echo_characters) if candidate.instruction else None
    return f"{len(piece)} characters of the instruction: {piece[:80]!r}" if piece else None


def check_shorter(candidate: Candidate, settings: GateSettings) -> str | None:
    """Shorter than the source, in the student's tokens and in characters, but not a stump of it."""
    ratio, unit = _ratio(candidate), "tokens" if candidate.n_source_tokens else "characters"
    if not settings.least_ratio <= ratio <= settings.most_ratio:
        return f"{ratio:.3f} of the source's {unit}; {settings.least_ratio} to {settings.most_ratio} is expected"
    if len(candidate.text) > len(candidate.source):
        return f"{len(candidate.text)} characters, the source has {len(candidate.source)}"
    return None


def check_length(candidate: Candidate, settings: GateSettings) -> str | None:
    """Fits the student."""
    most = settings.most_tokens
    return None if most is None or candidate.n_tokens <= most else f"{candidate.n_tokens} tokens; at most {most} fit"


def check_format(candidate: Candidate, settings: GateSettings) -> str | None:
    """One thinking block, closed delimiters (those that the source leaves open may stay so), one boxed answer.

    The same answer boxed twice passes: many models do so, and nothing wrong is learnt from it.
    """
    tag = tag_in(candidate.text) or tag_in(candidate.answer_text)
    if tag is not None:
        return f"think tag {tag} inside the thinking or the answer"
    found = imbalances(candidate.text)
    there = imbalances(candidate.source) if found else {}
    for name, count in found.items():
        if not there.get(name) or count * there[name] < 0 or abs(count) > abs(there[name]):
            return f"{name} do not match (off by {abs(count)})"
    boxes = boxed_answers(candidate.answer_text)
    return f"{boxes} different boxed answers in the answer section" if boxes > 1 else None


def check_repetition(candidate: Candidate, settings: GateSettings) -> str | None:
    """Does not go round in circles."""
    text, n = candidate.text, settings.repeat_words
    share = repeated_share(text, n)
    if share >= settings.most_repeated:
        return f"{share:.0%} of the runs of {n} words occurred before"
    if loops(text):
        return f"ends in a loop: {text[-60:]!r}"
    if len(text) >= settings.compress_from:
        share = compressed_share(text)
        if share < settings.least_compressed:
            return f"zlib compresses it to {share:.3f}; at least {settings.least_compressed} is expected"
    return None


def check_language(candidate: Candidate, settings: GateSettings) -> str | None:
    """Written in the source's script and language."""
    reason = foreign_script(candidate.text, candidate.source, settings.most_foreign)
    if reason is not None:
        return reason
    here = language(candidate.text, settings.least_votes)
    there = language(candidate.source, settings.least_votes) if here else None
    return f"written in {here}, the source in {there}" if there not in (None, here) else None


def check_reflection(candidate: Candidate, settings: GateSettings) -> str | None:
    """Still looks back about as often as the source does (only where the settings ask for it)."""
    if not settings.check_reflection:
        return None
    there = count_reflections(candidate.source)
    here = count_reflections(candidate.text)
    if settings.least_reflection * there <= here <= settings.most_reflection * there:
        return None
    return (
        f"{here} reflections, the source has {there}; "
        f"{settings.least_reflection} to {settings.most_reflection} of them are expected"
    )


def check_marked(candidate: Candidate, settings: GateSettings) -> str | None:
    """Chunk mode: what the source says again to check it is not said again as if it were the next step.

    A student of such rows learns to go through the steps twice.
    """
    if not candidate.is_chunk or not count_reflections(candidate.source) or count_reflections(candidate.text):
        return None
    again = restated(candidate.text, candidate.before)
    return again and f"{again.left}{again.relation}{again.right} is stated again, and no word says that this is a check"


def check_steps(candidate: Candidate, settings: GateSettings) -> str | None:
    """Chunk mode: no step that the source does not take, even a right one; the next chunk goes on from where it was."""
    if not candidate.is_chunk:
        return None
    new = new_step(candidate.text, _given(candidate))
    return new and f"{new.left}{new.relation}{new.right} is a step that the source does not take"


def check_symbols(candidate: Candidate, settings: GateSettings) -> str | None:
    """Chunk mode: no variable that neither source nor question has."""
    if not candidate.is_chunk:
        return None
    found = new_symbols(candidate.text, (candidate.source, candidate.question, candidate.before))
    return f"new symbols: {', '.join(sorted(found))}" if found else None


def check_numbers(candidate: Candidate, settings: GateSettings) -> str | None:
    """No number is made up or changed, and every equation holds."""
    reasons = list(invented(candidate.text, _given(candidate)))
    if reasons:
        return "; ".join(reasons[:3]) + (f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else "")
    if settings.least_results_kept:
        kept = results_kept(candidate.text, candidate.source)
        if kept < settings.least_results_kept:
            return f"{kept:.2f} of the source's results are left; {settings.least_results_kept} is expected"
    return None


def _given(candidate: Candidate) -> tuple[Facts, ...]:
    return read_facts(candidate.source), read_facts(candidate.question), read_facts(candidate.before)


def check_leak(candidate: Candidate, settings: GateSettings) -> str | None:
    """Chunk mode: the answer does not come before its time."""
    if candidate.last:
        return None
    given = (candidate.source, candidate.before, candidate.question)
    return f"the answer {candidate.answer!r} comes too early" if leak(candidate.text, candidate.answer, given) else None


def check_answer(candidate: Candidate, settings: GateSettings) -> str | None:
    """The row still grades as correct, and the thinking states no other answer than the reference."""
    if not candidate.last:
        return None
    policy = policy_for(settings.benchmark)
    if candidate.answer_text.strip():
        wrong = wrong_section(candidate.answer_text, candidate.answer, policy)
        return wrong or wrong_statement(candidate.text, candidate.source, candidate.answer, policy)
    return None if candidate.is_chunk else wrong_section(candidate.text, candidate.answer, policy)


GATES: Mapping[str, Gate] = {
    "finish": check_finish,
    "nonempty_clean": check_clean,
    "shorter": check_shorter,
    "over_length": check_length,
    "format": check_format,
    "symbols": check_symbols,
    "reflection": check_reflection,
    "checks_marked": check_marked,
    "new_steps": check_steps,
    "language": check_language,
    "repetition": check_repetition,
    "numeric_facts": check_numbers,
    "answer_leak": check_leak,
    "answer_kept": check_answer,
}
"""The gates by name, cheap ones first."""
