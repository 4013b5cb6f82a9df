"""The one grader: extract an answer, compare it with the reference, say why.

Three tiers, cheapest first: string normal form, exact numbers and structure, then math-verify in a worker process
that can be killed. The first two import no computer algebra.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from .comparison import AnswerComparison, compare_answers
from .extraction import Extraction, extract_answer, read_gold
from .policies import Policy, find_policy, policy_for
from .records import Grade, Problem, Status, Trace
from .workers import compare_symbolically


@dataclass(frozen=True)
class Verdict:
    """The outcome of one comparison. ``normalised`` holds both sides, prediction first, as they were compared."""

    status: Status
    reason: str | None = None
    tier: str | None = None
    extracted: str | None = None
    rule: str | None = None
    normalised: tuple[str, str] | None = None
    elapsed_ms: float = 0.0
    waited_ms: float = 0.0
    """Of ``elapsed_ms``, waiting for a symbolic worker that is free or starting; no limit counts it."""
    truncated: bool = False

    @property
    def correct(self) -> bool:
        """True only for the status ``correct``."""
        return self.status == "correct"

    @property
    def reward(self) -> float | None:
        """1 for a correct answer, 0 for a wrong, missing or timed-out one, None where the gold cannot be read."""
        return None if self.status == "gold_unparsable" else float(self.correct)


@dataclass(frozen=True)
class GradingItem:
    """One unit of work for `grade_many`."""

    prediction: str | None
    gold: str | list[str]
    benchmark: str = "auto"
    policy: Policy | None = None


@dataclass(frozen=True)
class _Question:
    """A pair that the symbolic tier has to decide; ``so_far`` is the verdict without it."""

    prediction: str
    gold: str
    policy: Policy
    so_far: Verdict


def grade(
    prediction: str | None, gold: str | list[str], *, benchmark: str = "auto", policy: Policy | None = None
) -> Verdict:
    """Grade a model output against its reference, or against several of which one must be met.

    Never raises for any text. A comparison may take ``policy.limit_seconds`` per reference, and waits before that for
    a worker that is free or starting (use a thread under asyncio).

    Raises:
        BadInput: ``benchmark`` has no policy.
    """
    policy = policy or policy_for(benchmark)
    return _finish(_first_tiers(prediction, gold, policy))


def grade_many(items: Iterable[GradingItem], *, workers: int = 2, ordered: bool = True) -> Iterator[Verdict]:
    """Grade a stream; up to ``workers`` symbolic comparisons run beside each other.

    Verdicts come in the order of the items, or as they are ready with ``ordered=False``.
    """
    waiting: deque[Future[Verdict]] = deque()
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="grade") as pool:
        for item in items:
            policy = item.policy or policy_for(item.benchmark)
            begun = _first_tiers(item.prediction, item.gold, policy)
            if not begun.questions and (not ordered or not waiting):
                yield _finish(begun)
            else:
                waiting.append(pool.submit(_finish, begun))
            yield from _ready(waiting, ordered, most=64 * max(1, workers))
        yield from _ready(waiting, ordered, most=0)


def extract(text: str | None, *, benchmark: str = "auto", policy: Policy | None = None) -> Extraction:
    """The answer in a model output, and the rule that found it.

    Raises:
        BadInput: ``benchmark`` has no policy.
    """
    return extract_answer(text, policy or policy_for(benchmark))


def equivalent(a: str, b: str, *, policy: Policy | None = None) -> Verdict:
    """Compare two answer strings as they are, without extraction; symmetric."""
    policy = policy or policy_for("auto")
    started = time.perf_counter()
    begun = _Begun(started)
    begun.add(_compare(a, b, Extraction(a, "given"), policy))
    return _finish(begun)


def grade_trace(trace: Trace, problem: Problem, policy: Policy | None = None) -> Grade:
    """Grade what an engine brought back; only text after the thinking block counts.

    A trace that met its length limit, or whose thinking never ended, is ``truncated``; it is still graded on the
    answer it has. A benchmark without a policy of its own is graded with ``auto``.
    """
    policy = policy or find_policy(problem.benchmark) or policy_for("auto")
    verdict = _trace_verdict(trace, problem, policy)
    return Grade(
        problem_id=trace.problem_id,
        sample=trace.sample,
        status=verdict.status,
        truncated=verdict.truncated or trace.finish == "length",
        extracted=verdict.extracted,
        rule=verdict.rule,
        tier=verdict.tier,
        reason=verdict.reason,
    )


def _trace_verdict(trace: Trace, problem: Problem, policy: Policy) -> Verdict:
    if trace.finish == "error":
        return Verdict("unparsable", reason=f"the engine failed: {trace.error or 'no message'}")
    text = trace.text if trace.thinking is None else trace.answer_text
    if trace.thinking is not None and not text.strip() and not trace.n_answer_tokens:
        return Verdict("unparsable", reason="the thinking never ended", truncated=True)
    verdict = grade(text, problem.answer, policy=policy)
    if verdict.status == "unparsable" and trace.finish == "length":
        return replace(verdict, reason=f"cut off at the length limit ({verdict.reason})")
    return verdict


class _Begun:
    """What the first tiers made of one output: verdicts, and questions left for the symbolic tier."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.verdicts: list[Verdict] = []
        self.questions: list[_Question] = []

    def add(self, result: Verdict | _Question) -> None:
        if isinstance(result, Verdict):
            self.verdicts.append(result)
        else:
            self.questions.append(result)

    @property
    def settled(self) -> bool:
        return any(verdict.correct for verdict in self.verdicts)


def _first_tiers(prediction: str | None, gold: str | list[str], policy: Policy) -> _Begun:
    begun = _Begun(time.perf_counter())
    found = extract_answer(prediction, policy)
    for one in [gold] if isinstance(gold, str) else gold:
        begun.add(_grade_one(found, one, policy))
        if begun.settled:
            begun.questions.clear()
            break
    if not begun.verdicts and not begun.questions:
        begun.add(Verdict("gold_unparsable", reason="no reference given"))
    return begun


def _grade_one(found: Extraction, gold: str, policy: Policy) -> Verdict | _Question:
    gold_answer = read_gold(gold) if isinstance(gold, str) else ""
    if not gold_answer:
        return Verdict("gold_unparsable", reason="the reference is empty")
    if found.text is None:
        return Verdict("unparsable", reason=found.reason, truncated=found.truncated)
    return _compare(found.text, gold_answer, found, policy)


def _compare(prediction: str, gold: str, found: Extraction, policy: Policy) -> Verdict | _Question:
    outcome = compare_answers(prediction, gold, policy)
    verdict = Verdict(
        status=outcome.status,
        reason=outcome.reason,
        tier=outcome.tier,
        extracted=found.text,
        rule=found.rule,
        normalised=(outcome.left, outcome.right),
        truncated=found.truncated,
    )
    return verdict if outcome.decided else _Question(prediction, gold, policy, verdict)


_ORDER: tuple[Status, ...] = ("correct", "timeout", "incorrect", "unparsable", "gold_unparsable")


def _finish(begun: _Begun) -> Verdict:
    verdicts = list(begun.verdicts)
    for question in begun.questions:
        verdicts.append(_ask(question))
        if verdicts[-1].correct:
            break
    best = min(verdicts, key=lambda verdict: _ORDER.index(verdict.status))
    waited = sum(verdict.waited_ms for verdict in verdicts)
    return replace(best, elapsed_ms=(time.perf_counter() - begun.started) * 1000, waited_ms=waited)


def _ask(question: _Question) -> Verdict:
    policy = question.policy
    answer = compare_symbolically(
        question.prediction, question.gold, limit_seconds=policy.limit_seconds, memory_mib=policy.memory_mib
    )
    outcome = AnswerComparison.from_symbolic(answer, question.so_far.status, question.so_far.reason)
    waited = answer.waited_seconds * 1000
    return replace(question.so_far, status=outcome.status, reason=outcome.reason, tier=outcome.tier, waited_ms=waited)


def _ready(waiting: deque[Future[Verdict]], ordered: bool, most: int) -> Iterator[Verdict]:
    while waiting and (len(waiting) > most or waiting[0].done()):
        yield waiting.popleft().result()
    if not ordered:
        for future in [f for f in waiting if f.done()]:
            waiting.remove(future)
            yield future.result()
