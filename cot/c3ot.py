"""C3oT: long and short chains of thought told apart by a condition in the prompt (arXiv 2412.11664).

A compressor rewrites each long trace; the student is trained on both versions, each behind a prefix that names it, and
asked with the short prefix alone. Departures, as the paper prints neither its compressor prompt nor a check:

- the rewrite passes the gates of `datagen.gates`; one that fails is tried again, and then only the short row is lost;
- prefixes and compressor prompts are our words, in ``prompts/c3ot.json``;
- the source must be right and complete; the paper's rationales were written by people;
- ``long_share`` thins one side out by the hash of the row, where the paper has both versions of every problem.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from eval_math.errors import BadInput
from eval_math.records import Json, Message, Problem, Sampling, Trace, digest

from .datagen.admission import admit, data_row, prefixed, question_prompt
from .datagen.gates import Candidate, Rejection, check, clean
from .datagen.prompt_files import filled, prompts_hash, read_prompts
from .datagen.records import Attempt, Call, DataRow, Generate, Outcome, Reply, SourceRow
from .datagen.rewriter import Bench, Work
from .datagen.student import Output
from .method import Method

PROMPTS = "c3ot"
LEVEL_PERCENTS: Mapping[str, int] = {
    "level-1": 50, "level-2": 40, "level-3": 30, "level-4": 20, "level-5": 10, "level-6": 0
}  # fmt: skip
"""Share of the rationale that is to be left: the paper's compression of 50 to 100 % (section 3, mixed conditions)."""


@dataclass(frozen=True)
class Conditioned(Method):
    """Ask with a condition that the model was trained on: the prefix stands in front of the question."""

    name: ClassVar[str] = "c3ot"
    summary: ClassVar[str] = "a condition from training in front of the question"

    condition: str = "short"
    """long, short, or level-1 to level-6."""

    def __post_init__(self) -> None:
        condition_text(self.condition)

    def messages(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The user turn behind the condition."""
        return prefixed(messages, condition_text(self.condition))


@dataclass(frozen=True)
class C3ot:
    """How the dataset is made."""

    name: ClassVar[str] = "c3ot"

    levels: Literal["short", "mixed"] = "short"
    """short: one short version; mixed: six, at 50 to 100 % compression."""
    conditions: Literal["both", "none"] = "both"
    """none: both versions without a prefix, the paper's ablation."""
    long_share: float = 0.5
    """Share of long rows, of both versions of all problems; 0 gives short rows only, 1 long rows only."""
    compressor: str = "general"
    """Prompt of the compressor, by its name in the prompt file; `embedded` is the skill of the embedded reasoner."""
    tries: int = 3
    """Rewrites of one trace before its short row is given up; the first is greedy."""
    temperature: float = 0.7
    """Of every try after the first."""
    prompt_file: Path | None = None
    """Other prompts, in the form of ``cot/prompts/c3ot.json``."""

    def __post_init__(self) -> None:
        known = read_prompts(PROMPTS, self.prompt_file).get("compressors", {})
        if self.compressor not in known:
            raise BadInput(f"c3ot: compressor={self.compressor!r} is no prompt of the file; known: {', '.join(known)}")
        if not 0 <= self.long_share <= 1:
            raise BadInput(f"c3ot: long_share={self.long_share}, a share from 0 to 1 is expected")
        if self.tries < 1:
            raise BadInput(f"c3ot: tries={self.tries}, at least 1 is expected")
        if self.levels == "mixed" and self.conditions == "none":
            raise BadInput("c3ot: levels=mixed without conditions: six versions of a trace could not be told apart")

    @property
    def needs(self) -> frozenset[str]:
        """It writes."""
        return frozenset({"generate"})

    def fingerprint(self) -> dict[str, Json]:
        """Name, hyper-parameters, and the prompts' content."""
        fields = {k: v for k, v in asdict(self).items() if k != "prompt_file"}
        return {"name": self.name, **fields, "prompts": prompts_hash(PROMPTS, self.prompt_file)}

    def rewrite(self, row: SourceRow, bench: Bench) -> Work:
        """The long row, and a short row for each level whose rewrite passes the gates."""
        output = admit(row)
        if isinstance(output, Outcome):
            return output
        rows = [self._row(row, output.thinking, output, bench, "long")] if self._wants_long(row) else []
        attempts: list[Attempt] = []
        wanted = self._levels(row)
        for level in wanted:
            short = yield from self._compress(row, output, bench, level, attempts)
            if short is not None:
                rows.append(self._row(row, short, output, bench, level))
        lost = len(wanted) - sum(each.condition != "long" for each in rows)
        status = "kept" if not lost else "part" if rows else "rejected"
        return Outcome(status, tuple(rows), tuple(attempts), n_source_tokens=bench.student.count(output.thinking))

    def _compress(
        self, row: SourceRow, output: Output, bench: Bench, level: str, attempts: list[Attempt]
    ) -> Generator[list[Call], list[Reply], str | None]:
        """The first rewrite that passes the gates, else None; every attempt is noted."""
        if LEVEL_PERCENTS.get(level) == 0:
            return ""
        messages = self.instruction(row, output.thinking, level)
        for sample in range(self.tries):
            (trace,) = yield [self._call(messages, output, bench, level, sample)]
            assert isinstance(trace, Trace)
            candidate = _candidate(row, output, bench, trace, messages)
            found = check(candidate, bench.gates)
            if trace.error:
                found = [Rejection("engine", trace.error), *found]
            attempts.append(Attempt(level, sample, candidate.text, tuple(found)))
            if not found:
                return candidate.text
        return None

    def instruction(self, row: SourceRow, thinking: str, level: str) -> tuple[Message, ...]:
        """What the compressor is shown."""
        prompts = read_prompts(PROMPTS, self.prompt_file)["compressors"]
        percent = LEVEL_PERCENTS.get(level)
        template = prompts[self.compressor if percent is None else "ratio"]
        asked = filled(template, question=row.problem.question, thinking=thinking, percent=str(percent))
        return (Message("user", asked),)

    def _call(self, messages: tuple[Message, ...], output: Output, bench: Bench, level: str, sample: int) -> Generate:
        n = len(bench.engine.encode(output.thinking))
        sampling = Sampling(max_tokens=n + 16, temperature=self.temperature if sample else 0.0, top_p=0.95)
        return Generate(level, sample, messages, sampling, {"enable_thinking": False})

    def _wants_long(self, row: SourceRow) -> bool:
        share = min(1.0, self.long_share / (1 - self.long_share)) if self.long_share < 1 else 1.0
        return _drawn(row, "long") < share

    def _levels(self, row: SourceRow) -> Sequence[str]:
        share = min(1.0, (1 - self.long_share) / self.long_share) if self.long_share > 0 else 1.0
        if _drawn(row, "short") >= share:
            return ()
        return ("short",) if self.levels == "short" else tuple(LEVEL_PERCENTS)

    def _row(self, row: SourceRow, thinking: str, output: Output, bench: Bench, condition: str) -> DataRow:
        prefix = condition_text(condition, self.prompt_file) if self.conditions == "both" else ""
        made = data_row(question_prompt(row, prefix), thinking, output, bench.student, condition=condition)
        percent = LEVEL_PERCENTS.get(condition)
        return replace(made, asked_ratio=None if percent is None else percent / 100)


def condition_text(condition: str, file: Path | None = None) -> str:
    """The words of a condition.

    Raises:
        BadInput: unknown condition; lists the known ones.
    """
    prompts = read_prompts(PROMPTS, file)
    known = {**prompts["conditions"], **prompts["levels"]}
    if condition not in known:
        raise BadInput(f"c3ot: condition {condition!r} is unknown; known: {', '.join(known)}")
    return known[condition]


def compression_rate(n_tokens: Mapping[str, int], n_long_tokens: Mapping[str, int]) -> float:
    """rho = (L - L~) / L over the same problems: share of the long condition's own tokens that is saved (section 4).

    Args:
        n_tokens, n_long_tokens: thinking tokens by problem, of the evaluated model and of the long-CoT model.

    Raises:
        BadInput: the two do not hold the same problems, or the long side is empty.
    """
    if set(n_tokens) != set(n_long_tokens):
        odd = sorted(set(n_tokens) ^ set(n_long_tokens))[0]
        raise BadInput(f"compression rate: both runs must answer the same problems; {odd!r} is in one only")
    longest = sum(n_long_tokens.values())
    if not longest:
        raise BadInput("compression rate: the long runs hold no thinking tokens at all")
    return (longest - sum(n_tokens.values())) / longest


def _candidate(row: SourceRow, output: Output, bench: Bench, trace: Trace, messages: Sequence[Message]) -> Candidate:
    raw = trace.answer_text if trace.thinking is not None else trace.text
    text = clean(raw)
    return Candidate(
        question=row.problem.question,
        source=output.thinking,
        text=text,
        raw=raw,
        answer=row.problem.answer,
        answer_text=output.answer,
        finish=trace.finish,
        n_source_tokens=bench.student.count(output.thinking),
        n_tokens=bench.student.count(text),
        instruction=messages[-1].content.replace(output.thinking, ""),
    )


def _drawn(row: SourceRow, side: str) -> float:
    """A number from 0 to 1 that depends on the row alone."""
    return int(digest([side, row.key], 8), 16) / 2**32
