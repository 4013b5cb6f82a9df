"""The loop: problems through a method and an engine into a run folder, graded as they come.

Every answer is stored before anything else is done with it. Killed at any moment, the same call goes on where it
stopped: stored units are skipped, stored traces without a verdict are graded without generating them again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType

from eval_math.errors import BadInput, EngineError, RunMismatch, StoreError
from eval_math.grading import grade_trace
from eval_math.prompts import prompt
from eval_math.records import Grade, Json, Problem, Request, Sampling, Trace, digest, unit_seed
from eval_math.summary import SummaryRow, write_summary

from .engine import Engine, unit_key
from .method import Method, named, require
from .progress import Progress
from .runs import Run, RunInfo, Unit, open_run

logger = logging.getLogger(__name__)

NOTE_SECONDS = 5.0
GRADING_THREADS = 2
MOST_WAITING = 256
SECRET_SETTINGS = frozenset({"api_key", "hf_token"})
NEUTRAL_SETTINGS = SECRET_SETTINGS | {
    "batch_size",
    "device",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enforce_eager",
    "tensor_parallel_size",
    "data_parallel_size",
    "pipeline_parallel_size",
    "timeout_seconds",
    "retries",
    "first_wait_seconds",
}
"""Engine settings that decide speed, memory and patience, not what is answered."""


@dataclass(frozen=True)
class EvalConfig:
    """How often and how each problem of ``benchmark`` is answered; ``seed``, problem id and sample give unit seeds."""

    benchmark: str
    """Its name in run.json and tables."""
    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    retry_errors: bool = False
    """On resume, do units again whose trace is an engine error."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise BadInput(f"samples={self.samples}: at least 1 per problem is expected")


@dataclass(frozen=True)
class Outcome:
    """What one call of `evaluate` did. ``planned`` units in the run, ``found`` stored before, ``generated`` now."""

    planned: int
    found: int
    generated: int
    failed: int
    seconds: float


def describe_run(method: Method, engine: Engine, config: EvalConfig, **more: Json) -> RunInfo:
    """The `RunInfo` of an evaluation; ``more`` is added to the configuration that a resumed run must share.

    Engine settings are part of it, but for `NEUTRAL_SETTINGS`: like versions and hardware, those are recorded, not
    compared. Keys and tokens are not even recorded.
    """
    identity = engine.identity
    settings = {name: value for name, value in identity.settings.items() if name not in SECRET_SETTINGS}
    sampling = {k: v for k, v in asdict(config.sampling).items() if k != "seed" and (k != "banned_ids" or v)}
    decisive: dict[str, Json] = {
        "benchmark": config.benchmark,
        "samples": config.samples,
        "seed": config.seed,
        "sampling": {k: list(v) if isinstance(v, tuple) else v for k, v in sampling.items()},
        "method": method.fingerprint(),
        "engine": identity.engine,
        "model_hash": identity.model_hash,
        "template_hash": identity.template_hash,
        "dtype": identity.dtype,
        "settings": {name: value for name, value in settings.items() if name not in NEUTRAL_SETTINGS},
        **more,
    }
    recorded = asdict(replace(identity, settings=settings))
    return RunInfo(config.benchmark, method.label(), identity.model, decisive, recorded)


def default_folder(root: Path, info: RunInfo, problems: Sequence[Problem]) -> Path:
    """A folder name that tells what the run is and differs for every configuration."""
    label = f"{info.benchmark}-{Path(info.model).name}-{info.method}"
    readable = "".join(c if c.isalnum() or c in "._=+" else "-" for c in label)[:80]
    return root / f"{readable}-{digest([dict(info.config), [problem.id for problem in problems]], 8)}"


def evaluate_into(
    folder: Path, problems: Sequence[Problem], method: Method, engine: Engine, config: EvalConfig
) -> SummaryRow:
    """Open (or go on with) the run in ``folder``, `evaluate`, and write its summary.json.

    Raises:
        see `open_run` and `evaluate`.
    """
    check(problems, method, engine, config)
    with open_run(folder, describe_run(method, engine, config), problems) as run:
        evaluate(problems, method, engine, run, config)
    return write_summary(folder)


def check(problems: Sequence[Problem], method: Method, engine: Engine, config: EvalConfig) -> None:
    """Refuse what cannot run before anything is written: capabilities, ids, lengths of prompt and output.

    Raises:
        BadInput: names what is missing or does not fit.
    """
    require(method, engine)
    method.check(engine)
    plan = _Plan(problems, method, engine, config)
    _check_lengths(plan.probe(), engine)


def evaluate(problems: Sequence[Problem], method: Method, engine: Engine, run: Run, config: EvalConfig) -> Outcome:
    """Answer and grade all that ``run`` lacks, then put its files into the order of the problems.

    Raises:
        BadInput: the method needs what the engine lacks, or prompt and output do not fit the model's length.
        RunMismatch: stored traces came from other requests, e.g. of another version's prompt.
        EngineError: the engine gave up or left requests unanswered; finished traces are stored.
        StoreError: disk full or not writable; what was stored is intact.
        KeyboardInterrupt: passed on after everything finished is stored.
    """
    check(problems, method, engine, config)
    plan = _Plan(problems, method, engine, config)
    plan.check_stored(run)
    if config.retry_errors:
        run.drop(run.failed)
    found = len(run.stored)
    seconds = 0.0
    with Progress(f"{run.info.benchmark} {method.label()}", len(plan.units), found) as progress:
        with _Grading(run, plan.problems, progress) as grading:
            grading.repeat()
            if found < len(plan.units):
                seconds = _generate(plan, run, grading, progress)
        run.finalise(plan.units)
    missing = len(plan.units) - len(run.stored)
    if missing:
        raise EngineError(
            f"{run.folder}: {missing} of {len(plan.units)} requests were left unanswered by engine "
            f"{engine.identity.engine}; run the same command again to do only those"
        )
    if run.failed:
        error = run.trace(run.failed[0]).error
        logger.warning("%s: the engine failed on %d unit(s), e.g. %s", run.folder, len(run.failed), error)
    return Outcome(len(plan.units), found, len(run.stored) - found, len(run.failed), seconds)


class _Plan:
    """All units of a run in order, and the request of each."""

    def __init__(self, problems: Sequence[Problem], method: Method, engine: Engine, config: EvalConfig) -> None:
        self.problems = {problem.id: problem for problem in problems}
        if len(self.problems) < len(problems):
            raise BadInput("two problems share an id; results are stored by id, so ids must be unique")
        self.units: list[Unit] = [(problem.id, n) for problem in problems for n in range(config.samples)]
        self.keys: dict[Unit, str] = {}
        self.method = method
        self.engine = engine
        self._fingerprint: Mapping[str, Json] = method.fingerprint()
        self._config = config

    def request(self, unit: Unit) -> Request:
        problem = self.problems[unit[0]]
        messages = self.method.messages(problem, prompt(problem))
        seed = unit_seed(self._config.seed, *unit)
        sampling = replace(self._config.sampling, seed=seed)
        return self.method.request(Request(*unit, messages=messages, sampling=sampling))

    def key(self, request: Request) -> str:
        return unit_key(request, self.engine.identity, self._fingerprint)

    def pending(self, run: Run) -> Iterator[Request]:
        """Requests that have no trace yet, made as they are asked for."""
        for unit in self.units:
            if unit not in run.stored:
                request = self.request(unit)
                self.keys[unit] = self.key(request)
                yield request

    def probe(self) -> Request:
        """The request with the longest question."""
        longest = max(self.problems.values(), key=lambda problem: len(problem.question))
        return self.request((longest.id, 0))

    def keyed(self, trace: Trace) -> Trace:
        """The trace under its unit's key and the method's name."""
        key = self.keys.get((trace.problem_id, trace.sample))
        if key is None:
            raise EngineError(
                f"engine {self.engine.identity.engine} answered {trace.problem_id!r}, which was not asked"
            )
        return replace(named(trace, self.method), key=key)

    def check_stored(self, run: Run) -> None:
        """Refuse traces that other requests brought about; drop them where the run is to be overwritten."""
        strangers = [unit for unit, stored in run.stored.items() if not self._is_from(unit, stored.key)]
        if strangers and not run.overwrite:
            problem, sample = strangers[0]
            raise RunMismatch(
                f"{run.folder}: the trace of {problem!r}, sample {sample}, belongs to another request (prompt, "
                "template or method changed since); choose another folder with --out, or use --overwrite"
            )
        if strangers:
            run.drop(strangers)

    def _is_from(self, unit: Unit, key: str) -> bool:
        return unit[0] in self.problems and key == self.key(self.request(unit))


def _check_lengths(probe: Request, engine: Engine) -> None:
    """Refuse a prompt or an output limit that the model's length has no room for; ``probe`` has the longest prompt."""
    limit = engine.identity.settings.get("max_model_len")
    if not isinstance(limit, int):
        return
    if probe.sampling.max_tokens > limit:
        raise BadInput(
            f"max_tokens={probe.sampling.max_tokens} is more than the model's length of {limit} tokens; "
            f"give at most {limit}"
        )
    length = len(engine.prompt_ids(probe))
    if length >= limit:
        raise BadInput(
            f"the prompt of problem {probe.problem_id!r} has {length} tokens and the model's length is {limit}, prompt "
            "and output together; raise max_model_len if the model allows it, or use another model or benchmark"
        )
    if length + probe.sampling.max_tokens > limit:
        logger.info("longest prompt %d tokens: outputs after it end at %d tokens", length, limit - length)


class _Grading:
    """Grades in threads, so that a slow comparison does not hold up the engine; verdicts are stored by the caller."""

    def __init__(self, run: Run, problems: Mapping[str, Problem], progress: Progress) -> None:
        self._run = run
        self._problems = problems
        self._progress = progress
        self._pool = ThreadPoolExecutor(GRADING_THREADS, thread_name_prefix="grade")
        self._waiting: set[Future[Grade]] = set()

    def __enter__(self) -> _Grading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=kind is not None)
        self.collect()

    def repeat(self) -> None:
        """Show the verdicts that are stored, and ask for those that are missing."""
        for grade in self._run.grades():
            self._progress.graded(grade.correct)
        for unit in self._run.ungraded:
            self.submit(self._run.trace(unit))

    def submit(self, trace: Trace) -> None:
        while len(self._waiting) >= MOST_WAITING:
            wait(self._waiting, return_when=FIRST_COMPLETED)
            self.collect()
        self._waiting.add(self._pool.submit(grade_trace, trace, self._problems[trace.problem_id]))

    def collect(self) -> None:
        """Store the verdicts that are ready."""
        ready = {future for future in self._waiting if future.done() and not future.cancelled()}
        self._waiting -= ready
        for grade in (future.result() for future in ready):
            self._run.add_grade(grade)
            self._progress.graded(grade.correct)


def _generate(plan: _Plan, run: Run, grading: _Grading, progress: Progress) -> float:
    """Drive the method over what is pending; returns wall seconds."""
    method, engine = plan.method, plan.engine
    with method.attach(engine), _Clock(run) as clock, _closed(method.drive(engine, plan.pending(run))) as traces:
        for trace in traces:
            stored = plan.keyed(trace)
            if run.add_trace(stored):
                progress.answered(stored.n_tokens)
                grading.submit(stored)
            grading.collect()
            clock.tick()
    return clock.seconds


@contextmanager
def _closed(traces: Iterator[Trace]) -> Iterator[Iterator[Trace]]:
    """``traces``, told at the end that no more are wanted, so that the engine drops what is in flight."""
    try:
        yield traces
    finally:
        close = getattr(traces, "close", None)
        if close is not None:
            close()


class _Clock:
    """Wall seconds of generating, noted in run.json every few seconds for the sake of runs that are killed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._started = self._noted = time.monotonic()
        self.seconds = 0.0

    def __enter__(self) -> _Clock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note()

    def tick(self) -> None:
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self._note()

    def _note(self) -> None:
        self._noted = time.monotonic()
        self.seconds = self._noted - self._started
        try:
            self._run.note_seconds(self.seconds)
        except StoreError as error:
            logger.warning("%s", error)
