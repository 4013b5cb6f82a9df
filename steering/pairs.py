"""Long and short traces of the same problems: from graded runs of the model itself, or from a file.

A pair is kept if both sides are graded correct, neither is cut off, both end properly and the short one has fewer
than ``ratio_max`` times the long one's tokens. What is dropped is kept beside the pairs, with its reason.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from cot.thinking import TAG_PAIRS
from eval_math.errors import BadInput
from eval_math.files import read_records, read_rows, refuse_special, write_atomic
from eval_math.records import Grade, Pair, Problem, Trace, to_line

Reason = Literal[
    "not_graded",
    "not_correct",
    "truncated",
    "empty",
    "improper_end",
    "one_sample",
    "identical",
    "duplicate",
    "ratio",
    "too_long",
]
R = TypeVar("R", Trace, Grade)
REASONS: tuple[Reason, ...] = get_args(Reason)
Verdict = Callable[[str, Mapping[str, Any]], bool | None]
"""(output text, row of the file) -> correct, wrong, or None where it cannot be told."""


@dataclass(frozen=True)
class PairRules:
    """Which pairs are kept."""

    ratio_max: float = 0.7
    """The short side has fewer tokens than this share of the long side's."""
    max_tokens: int | None = None
    """Longest side in tokens; None = any."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio_max <= 1:
            raise BadInput(f"ratio_max: {self.ratio_max} given, a share above 0 and up to 1 expected")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise BadInput(f"max_tokens: {self.max_tokens} given, at least 1 expected")


@dataclass(frozen=True)
class Dropped:
    """A problem without a pair, or a pair that cannot be used, and why."""

    pair: Pair
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class PairSet:
    """Pairs kept and dropped."""

    pairs: tuple[Pair, ...]
    dropped: tuple[Dropped, ...]

    def counts(self) -> dict[str, int]:
        """Number read, kept, and dropped by reason."""
        by_reason = Counter(d.reason for d in self.dropped)
        return {
            "read": len(self.pairs) + len(self.dropped),
            "kept": len(self.pairs),
            **{reason: by_reason[reason] for reason in REASONS if by_reason[reason]},
        }


def make_pairs(runs: Sequence[Path], rules: PairRules = PairRules()) -> PairSet:
    """Self-contrast: per problem, the longest and the shortest correct trace in run folders of one model.

    Args:
        runs: folders with problems.jsonl, traces.jsonl, grades.jsonl: one run with several samples per problem, or
            several runs (say a verbose and a concise one). The text of a side is the model's whole output.

    Raises:
        BadInput: a folder lacks a file, a line is malformed, or runs disagree about a problem; names file and line.
    """
    return _filter((pool.candidate() for pool in _pools(runs).values()), rules)


def _pools(runs: Sequence[Path]) -> dict[str, _Pool]:
    if not runs:
        raise BadInput("no run folders given; expected at least one, made by `laconic eval`")
    pools: dict[str, _Pool] = {}
    for run in runs:
        _read_run(Path(run), pools)
    return pools


def pairs_from_solutions(
    runs: Sequence[Path], n_tokens: Callable[[str], int], rules: PairRules = PairRules()
) -> PairSet:
    """Per problem the longest correct trace, and the benchmark's own solution as the short side.

    A solution is not what the model would say, so the vector holds its style beside its length. Where the long side has
    a think block, the solution stands in one too.

    Args:
        n_tokens: counts a text's tokens, with the tokenizer of the model to be steered.

    Raises:
        BadInput: as `make_pairs`, or no problem has a solution.
    """
    pools = _pools(runs)
    if not any(pool.problem.solution for pool in pools.values()):
        raise BadInput(
            f"{runs[0]}: no problem has a solution; use a benchmark that has them (gsm8k, math), or --runs alone"
        )
    return _filter(
        (_against(pool, pool.problem.solution or "", "solution", n_tokens) for pool in pools.values()), rules
    )


def pairs_from_writer(
    runs: Sequence[Path], short_runs: Sequence[Path], n_tokens: Callable[[str], int], rules: PairRules = PairRules()
) -> PairSet:
    """Per problem the longest correct trace of ``runs`` and the shortest correct answer of another writer.

    Args:
        short_runs: run folders of the writer, say of ``laconic eval --engine openai --method concise``.
        n_tokens: counts a text's tokens, with the tokenizer of the model to be steered.

    Raises:
        BadInput: as `make_pairs`.
    """
    pools, writers = _pools(runs), _pools(short_runs)

    def candidate(pool: _Pool) -> Dropped | Pair:
        writer = writers.get(pool.problem.id)
        short = writer.short.answer_text if writer is not None and writer.short is not None else ""
        return _against(pool, short, "writer", n_tokens)

    return _filter(map(candidate, pools.values()), rules)


def _against(pool: _Pool, short: str, source: str, n_tokens: Callable[[str], int]) -> Dropped | Pair:
    """The pool's longest trace against a text of somebody else."""
    long = pool.long.text if pool.long else ""
    end = next((end for _, end in TAG_PAIRS if end in long), None)
    pair = Pair(
        problem_id=pool.problem.id,
        question=pool.problem.question,
        long=long,
        short=f"{short.strip()}\n{end}" if end and short.strip() else short,
        source=f"{source}:{pool.problem.benchmark}",
        n_long_tokens=pool.long.n_tokens if pool.long else 0,
        n_short_tokens=n_tokens(short),
    )
    if pool.long is None:
        fault = pool.failed.most_common(1)[0][0] if pool.failed else "empty"
        return Dropped(pair, fault, f"no usable long trace in {pool.samples} samples")
    return pair if short.strip() else Dropped(pair, "empty", f"no {source} for this problem")


def pairs_from_file(
    path: Path, n_tokens: Callable[[str], int], correct: Verdict | None = None, rules: PairRules = PairRules()
) -> PairSet:
    """Pairs in a JSON-lines file of objects with ``problem`` or ``question``, ``long``, ``short``.

    Args:
        n_tokens: counts a text's tokens, with the tokenizer of the model to be steered.
        correct: grades a side; None takes the file's word that both sides are right.

    Raises:
        BadInput: a line is malformed; names file and line.
    """
    return _filter(_read_file(path, n_tokens, correct), rules)


def verdict_by_gold(text: str, row: Mapping[str, Any]) -> bool | None:
    """Grade a side against the row's ``gold`` or ``answer``, by the rules of its ``benchmark``; None without one."""
    from eval_math.grading import grade
    from eval_math.policies import find_policy

    gold = row.get("gold", row.get("answer"))
    if not isinstance(gold, str) or not gold.strip():
        return None
    verdict = grade(text, gold, policy=find_policy(str(row.get("benchmark", "auto"))))
    return None if verdict.status == "gold_unparsable" else verdict.correct


def save_pairs(pairs: PairSet, path: Path) -> Path:
    """Write the pairs to ``NAME.jsonl`` and the dropped ones to ``NAME.dropped.jsonl``; returns the latter's path."""
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.stem}.dropped.jsonl")
    write_atomic(beside, "".join(_dropped_line(d) for d in pairs.dropped))
    write_atomic(path, "".join(to_line(pair) for pair in pairs.pairs))
    return beside


def load_pairs(path: Path) -> list[Pair]:
    """The pairs that `save_pairs` wrote.

    Raises:
        BadInput: malformed, or no pair in it; names file and line.
    """
    pairs = list(read_records(Pair, path))
    if not pairs:
        raise BadInput(f"{path}: no pairs in it; see the .dropped.jsonl beside it for the reasons")
    return pairs


@dataclass
class _Pool:
    """What is known of one problem while runs are read: its longest and shortest usable trace."""

    problem: Problem
    samples: int = 0
    failed: Counter[Reason] = dataclasses.field(default_factory=Counter)
    long: Trace | None = None
    short: Trace | None = None
    usable: int = 0

    def add(self, trace: Trace, grade: Grade | None) -> None:
        self.samples += 1
        reason = _trace_fault(trace, grade)
        if reason is not None:
            self.failed[reason] += 1
            return
        self.usable += 1
        if self.long is None or trace.n_tokens > self.long.n_tokens:
            self.long = trace
        if self.short is None or trace.n_tokens < self.short.n_tokens:
            self.short = trace

    def candidate(self) -> Dropped | Pair:
        long, short = self.long, self.short
        pair = Pair(
            problem_id=self.problem.id,
            question=self.problem.question,
            long=long.text if long else "",
            short=short.text if short else "",
            source=f"self:{self.problem.benchmark}",
            n_long_tokens=long.n_tokens if long else 0,
            n_short_tokens=short.n_tokens if short else 0,
        )
        if self.usable >= 2:
            return pair
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.failed.most_common())
        detail = f"{self.usable} usable of {self.samples} samples" + (f" ({reasons})" if reasons else "")
        # The most frequent fault names the problem; without one there simply was a single sample.
        return Dropped(pair, self.failed.most_common(1)[0][0] if self.failed else "one_sample", detail)


def _trace_fault(trace: Trace, grade: Grade | None) -> Reason | None:
    if trace.finish == "length" or (grade is not None and grade.truncated):
        return "truncated"
    if grade is None:
        return "not_graded"
    if not grade.correct:
        return "not_correct"
    if not trace.text.strip():
        return "empty"
    closed = any(end in trace.text for _, end in TAG_PAIRS)
    return "improper_end" if trace.finish != "stop" or (trace.thinking is not None and not closed) else None


def _read_run(run: Path, pools: dict[str, _Pool]) -> None:
    if not run.is_dir():
        raise BadInput(f"{run}: not a folder; expected a run folder made by `laconic eval`")
    for problem in read_records(Problem, run / "problems.jsonl"):
        pool = pools.setdefault(problem.id, _Pool(problem))
        if pool.problem.question != problem.question:
            raise BadInput(
                f"{run}: problem {problem.id!r} has another question than in an earlier run; use one benchmark"
            )
    grades = _first_of_each(read_records(Grade, run / "grades.jsonl", torn_tail=True))
    for key, trace in _first_of_each(read_records(Trace, run / "traces.jsonl", torn_tail=True)).items():
        if trace.problem_id not in pools:
            raise BadInput(
                f"{run}/traces.jsonl: problem {trace.problem_id!r} is not in problems.jsonl; is the folder mixed?"
            )
        pools[trace.problem_id].add(trace, grades.get(key))


def _first_of_each(records: Iterable[R]) -> dict[tuple[str, int], R]:
    """A unit of work that occurs twice counts once, with its first line, as when a run is opened again."""
    firsts: dict[tuple[str, int], R] = {}
    for record in records:
        firsts.setdefault((record.problem_id, record.sample), record)
    return firsts


def _read_file(path: Path, n_tokens: Callable[[str], int], correct: Verdict | None) -> Iterator[Dropped | Pair]:
    for number, row in read_rows(path):
        question, long, short = (
            _text(row, names, path, number) for names in (("problem", "question"), ("long",), ("short",))
        )
        pair = Pair(
            problem_id=str(row.get("problem_id") or row.get("id") or f"{path.stem}/{number}"),
            question=question,
            long=long,
            short=short,
            source=f"file:{path.name}",
            n_long_tokens=n_tokens(long),
            n_short_tokens=n_tokens(short),
        )
        yield _text_fault(pair, row, correct) or pair


def _text(row: Mapping[str, Any], names: Sequence[str], path: Path, number: int) -> str:
    for name in names:
        if name in row:
            if not isinstance(row[name], str):
                raise BadInput(f"{path}, line {number}: {name} is {type(row[name]).__name__}, a text is expected")
            return row[name]
    found = ", ".join(row) or "nothing"
    raise BadInput(
        f"{path}, line {number}: no field {' or '.join(names)}; found {found}; expected problem, long, short"
    )


def _text_fault(pair: Pair, row: Mapping[str, Any], correct: Verdict | None) -> Dropped | None:
    for side in ("long", "short"):
        text = getattr(pair, side)
        if not text.strip():
            return Dropped(pair, "empty", f"{side} side")
        unclosed = [end for start, end in TAG_PAIRS if start in text and end not in text]
        if unclosed:
            return Dropped(pair, "improper_end", f"{side} side: {unclosed[0]} is missing")
        if correct is not None and correct(text, row) is False:
            return Dropped(pair, "not_correct", f"{side} side")
    return None


def _filter(candidates: Iterable[Dropped | Pair], rules: PairRules) -> PairSet:
    kept: list[Pair] = []
    dropped: list[Dropped] = []
    seen: set[str] = set()
    for candidate in candidates:
        found = candidate if isinstance(candidate, Dropped) else _pair_fault(candidate, rules, seen)
        if found is not None:
            dropped.append(found)
            continue
        assert isinstance(candidate, Pair)
        seen |= {candidate.problem_id, candidate.question}
        kept.append(candidate)
    return PairSet(tuple(kept), tuple(dropped))


def _pair_fault(pair: Pair, rules: PairRules, seen: set[str]) -> Dropped | None:
    long, short = pair.n_long_tokens, pair.n_short_tokens
    if pair.problem_id in seen or pair.question in seen:
        return Dropped(pair, "duplicate", "a pair for this problem was kept already")
    if pair.long.strip() == pair.short.strip():
        return Dropped(pair, "identical", "both sides are the same text")
    if rules.max_tokens is not None and max(long, short) > rules.max_tokens:
        return Dropped(pair, "too_long", f"{max(long, short)} tokens, {rules.max_tokens} allowed")
    if short >= rules.ratio_max * long:
        return Dropped(pair, "ratio", f"{short} of {long} tokens, below {rules.ratio_max} expected")
    return None


def _dropped_line(dropped: Dropped) -> str:
    row = {**dataclasses.asdict(dropped.pair), "reason": dropped.reason, "detail": dropped.detail}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
