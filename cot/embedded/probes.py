"""Probes of an embedded reasoner: each is one method on one set of problems, run as every evaluation is.

A probe leaves a run folder, so a card that was interrupted goes on where it stopped, and `laconic report` shows any of
them.
"""

from __future__ import annotations

import logging
import multiprocessing as mp
import random
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eval_math.files import read_records
from eval_math.paired import compare
from eval_math.records import Grade, Problem, Sampling, Trace, digest
from eval_math.statistics import wilson
from eval_math.summary import SummaryRow

from ..engine import EngineConfig
from ..engines import open_engine
from ..evaluate import EvalConfig, evaluate_into
from ..method import Method
from ..prompting import Concise, NoThink
from .problems import EmbeddedProblem, apply_operation, make_problems
from .traces import DEFAULT_VERBOSITY, EQUATION, trace_sentences

log = logging.getLogger(__name__)

Task = Literal["solve", "shorten"]
STEPS = (2, 5)
MAX_TOKENS = 640
BATCH_SIZE = 128


@dataclass(frozen=True)
class Probe:
    """``method`` on ``count`` problems of ``split``; the task `shorten` asks for a level-``level`` trace rewritten."""

    section: str
    label: str
    method: Method = field(default_factory=Method)
    temperature: float = 0.0
    split: str = "test"
    count: int = 1000
    task: Task = "solve"
    level: int = 4
    largest: int = 199
    steps: tuple[int, int] = STEPS

    @property
    def name(self) -> str:
        """Name of the run folder: probes that ask the same of the same problems share it."""
        asked = [self.temperature, self.split, self.count, self.task, self.level, self.steps, self.largest]
        return f"{self.method.name}-{digest([*map(str, asked), self.method.fingerprint()], 12)}"

    def problems(self) -> list[EmbeddedProblem]:
        """The problems behind the probe."""
        return make_problems(self.split, self.count, steps=self.steps, largest=self.largest)

    def asked(self) -> list[Problem]:
        """What the model is shown."""
        if self.task == "solve":
            return [each.record() for each in self.problems()]
        return [shorten_problem(each, self.level) for each in self.problems()]


@dataclass(frozen=True)
class Finding:
    """What a probe gave: ``right`` of ``n``; ``by_steps`` holds (steps, right, n)."""

    probe: Probe
    run: Path
    n: int
    right: int
    thinking_tokens: float
    truncated: int
    by_steps: tuple[tuple[int, int, int], ...]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / max(1, self.n)

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} (n={self.n}) at {self.thinking_tokens:.1f} tokens, {self.truncated} cut"

    def record(self) -> dict[str, Any]:
        """As plain data, with Wilson intervals."""
        probe = self.probe
        return {
            "label": probe.label,
            "temperature": probe.temperature,
            "split": probe.split,
            "n": self.n,
            "accuracy": round(self.accuracy, 4),
            "interval": interval(self.right, self.n),
            "thinking_tokens": round(self.thinking_tokens, 1),
            "truncated": self.truncated,
            "by_steps": [
                {"steps": steps, "n": n, "accuracy": round(right / n, 4), "interval": interval(right, n)}
                for steps, right, n in self.by_steps
            ],
        }


def interval(right: int, n: int) -> list[float]:
    """Wilson 95% interval of a share, both ends."""
    bounds = wilson(right, n)
    return [round(bounds.low, 4), round(bounds.high, 4)]


def run_probes(model: Path, folder: Path, probes: Sequence[Probe], processes: int = 2) -> list[Finding]:
    """Run each probe on the checkpoint in ``model`` into ``folder``, several at a time; those already there are read.

    Returns what each found, in order.
    """
    if not probes:
        return []
    runs = {probe.name: probe for probe in probes}
    jobs = [(model, folder, probe) for probe in runs.values()]
    with mp.get_context("spawn").Pool(min(processes, len(jobs))) as pool:
        found = {each.probe.name: each for each in pool.imap(_run_job, jobs)}
    return [replace(found[probe.name], probe=probe) for probe in probes]


def run_probe(model: Path, folder: Path, probe: Probe) -> Finding:
    """Run one probe in this process."""
    engine = open_engine(EngineConfig(str(model), "hf", batch_size=BATCH_SIZE))
    config = EvalConfig("embedded", sampling=Sampling(max_tokens=MAX_TOKENS, temperature=probe.temperature))
    try:
        row = evaluate_into(folder / probe.name, probe.asked(), probe.method, engine, config)
    finally:
        engine.close()
    return _finding(probe, folder / probe.name, row)


def saving(baseline: Finding, other: Finding) -> dict[str, Any]:
    """Paired comparison of two probes on the same problems: thinking saved and accuracy lost, with 95% intervals."""
    found = compare(baseline.run, other.run)
    return {
        "saved": [round(value, 4) for value in (found.thinking_saving.value, *_ends(found.thinking_saving))],
        "accuracy_change": [
            round(value, 4) for value in (found.accuracy_difference.value, *_ends(found.accuracy_difference))
        ],
    }


def dev_line(model: Path, steps: tuple[int, int], largest: int, prompts: bool, count: int = 128) -> str:
    """One line for the training log: dev accuracy of the checkpoint in ``model``, with ``prompts`` under each of them.

    Its run folders are thrown away: the next checkpoint is another model.
    """
    asked: dict[str, Method] = {"default": Method()}
    if prompts:
        asked |= {"concise": Concise(), "no thinking": NoThink()}
    with tempfile.TemporaryDirectory() as folder:
        return "; ".join(
            f"{name} {run_probe(model, Path(folder), probe)}"
            for name, method in asked.items()
            for probe in [Probe("dev", name, method, split="dev", count=count, steps=steps, largest=largest)]
        )


def shorten_problem(problem: EmbeddedProblem, level: int) -> Problem:
    """A request for the short form of a level-``level`` trace of ``problem``."""
    rng = random.Random(f"shorten:{problem.id}:{level}")
    units = trace_sentences(problem, level, rng, DEFAULT_VERBOSITY)
    return Problem(problem.id, "embedded", f"Shorten: {' '.join(units)}", problem.answer, level=problem.steps)


def is_valid_shortening(text: str, problem: EmbeddedProblem) -> bool:
    """True if every equation of ``text`` is right and one of the problem's, in their order, and the last is the answer.

    Leaving out a step is allowed, inventing or changing one is not.
    """
    equations = EQUATION.findall(text)
    rest = iter(problem.equations)
    return (
        bool(equations)
        and all(_holds(equation) for equation in equations)
        and all(equation in rest for equation in equations)
        and equations[-1].split("=")[1] == problem.answer
    )


def _run_job(job: tuple[Path, Path, Probe]) -> Finding:
    import torch

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    finding, probe = run_probe(*job), job[2]
    log.info("%s, %s (%s, T=%s): %s", probe.section, probe.label, probe.split, probe.temperature, finding)
    return finding


def _finding(probe: Probe, run: Path, row: SummaryRow) -> Finding:
    problems = probe.problems()
    right = _right_by_problem(probe, problems, run)
    by_steps = []
    for steps in sorted({problem.steps for problem in problems}):
        hits = [right[problem.id] for problem in problems if problem.steps == steps]
        by_steps.append((steps, sum(hits), len(hits)))
    total = sum(right.values())
    return Finding(probe, run, len(problems), total, row.thinking_tokens_mean, row.truncated, tuple(by_steps))


def _right_by_problem(probe: Probe, problems: Iterable[EmbeddedProblem], run: Path) -> dict[str, bool]:
    if probe.task == "solve":
        return {grade.problem_id: grade.correct for grade in read_records(Grade, run / "grades.jsonl")}
    texts = {trace.problem_id: trace.answer_text for trace in read_records(Trace, run / "traces.jsonl")}
    return {problem.id: is_valid_shortening(texts[problem.id], problem) for problem in problems}


def _holds(equation: str) -> bool:
    left, result = equation.split("=")
    first, operation, second = re.split(r"([-+*/])", left)
    try:
        return apply_operation(operation, int(first), int(second)) == int(result)
    except (ValueError, ZeroDivisionError):
        return False


def _ends(found: Any) -> tuple[float, float]:
    return found.low, found.high
