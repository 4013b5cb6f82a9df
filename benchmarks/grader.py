"""Speed of the grader against math-verify, on labelled pairs and on whole generations of word problems.

    python -m benchmarks.grader --cases cases.jsonl [--pairs 3] [--json FILE]

The file holds rows {id, gold, pred, correct, tags}: those tagged ``gsm8k`` are whole generations, the others answers
against a reference. Each run is a process of its own, so that nothing is remembered from the run before; its first
call is left out. math-verify gets its usual treatment: both sides parsed, answers put in dollar signs where they carry
no LaTeX marks of their own. Time that our workers take counts too. Goals: 300 pairs and 5,000 generations per second,
and ten times math-verify on both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.interleaved import Ratio, measure
from eval_math.errors import BadInput
from eval_math.files import read_rows
from scripts.command import write_figures

RATIO_GOAL = 10.0
RATES = {"pair": 300.0, "generation": 5_000.0}


@dataclass(frozen=True)
class Case:
    """One labelled answer."""

    prediction: str
    gold: str
    correct: bool


@dataclass(frozen=True)
class Speed:
    """Answers per second of one kind of case, and the ratio to math-verify."""

    kind: str
    cases: int
    per_second: float
    math_verify_per_second: float
    goal_per_second: float
    wrong: dict[str, int]
    """Verdicts against the labels, of each grader."""
    against_math_verify: Ratio

    @property
    def holds(self) -> bool:
        return self.per_second >= self.goal_per_second and self.against_math_verify.holds


def read_cases(path: Path) -> dict[str, list[Case]]:
    """The cases of a file by kind: short ones are ``pair``, word-problem outputs ``generation``."""
    found: dict[str, list[Case]] = {"pair": [], "generation": []}
    for number, row in read_rows(path):
        if not {"gold", "pred", "correct"} <= set(row):
            raise BadInput(f"{path}, line {number}: gold, pred and correct are expected")
        kind = "generation" if "gsm8k" in (row.get("tags") or []) else "pair"
        found[kind].append(Case(str(row["pred"]), str(row["gold"]), bool(row["correct"])))
    return found


def ours(kind: str) -> Callable[[Case], bool]:
    from eval_math.grading import grade

    benchmark = "gsm8k" if kind == "generation" else "auto"
    return lambda case: grade(case.prediction, case.gold, benchmark=benchmark).correct


def math_verify(kind: str) -> Callable[[Case], bool]:
    from math_verify import parse, verify

    def marked(text: str) -> str:
        return text if any(mark in text for mark in ("$", "\\boxed", "\\[", "\\(")) else f"${text}$"

    def verdict(case: Case) -> bool:
        prediction = case.prediction if kind == "generation" else marked(case.prediction)
        return bool(verify(parse(marked(case.gold)), parse(prediction)))

    return verdict


JUDGES = {"laconic": ours, "math-verify": math_verify}


@dataclass(frozen=True)
class Run:
    """One run over all cases: answers per second, and verdicts against the labels."""

    per_second: float
    wrong: int


def run_once(judge: str, kind: str, cases: Sequence[Case]) -> Run:
    """In this process; the first call, on a case of its own, is not timed."""
    verdict = JUDGES[judge](kind)
    verdict(Case("\\boxed{\\frac{x}{2}+x}", "\\frac{3x}{2}", True))
    started = time.perf_counter()
    wrong = sum(verdict(case) != case.correct for case in cases)
    return Run(len(cases) / (time.perf_counter() - started), wrong)


def fresh(judge: str, kind: str, cases: Sequence[Case]) -> Run:
    """`run_once` in a process that has graded nothing yet."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_once, judge, kind, cases).result()


def speed(kind: str, cases: Sequence[Case], pairs: int) -> Speed:
    runs: dict[str, list[Run]] = {judge: [] for judge in JUDGES}

    def next_rate(judge: str) -> float:
        runs[judge].append(fresh(judge, kind, cases))
        return runs[judge][-1].per_second

    ratio = measure(
        f"{kind}s", lambda: next_rate("laconic"), lambda: next_rate("math-verify"), pairs=pairs, goal=RATIO_GOAL
    )
    wrong = {judge: found[-1].wrong for judge, found in runs.items()}
    rates = {judge: median(run.per_second for run in found[1:]) for judge, found in runs.items()}
    return Speed(kind, len(cases), rates["laconic"], rates["math-verify"], RATES[kind], wrong, ratio)


def main() -> int:
    parser = argparse.ArgumentParser(description="speed of the grader against math-verify")
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--limit", type=int, help="cases of each kind")
    parser.add_argument("--json")
    chosen = parser.parse_args()
    cases = read_cases(chosen.cases)
    found = [speed(kind, cases[kind][: chosen.limit], chosen.pairs) for kind in RATES]
    for each in found:
        ratio = each.against_math_verify
        verdict = "holds" if each.holds else "MISSED"
        print(
            f"{each.kind}s, {each.cases}: {each.per_second:,.0f}/s (goal {each.goal_per_second:,.0f}), "
            f"math-verify {each.math_verify_per_second:,.0f}/s, ratio {ratio.ratio:.0f} "
            f"[{ratio.low:.0f}, {ratio.high:.0f}] (goal {ratio.goal:g}): {verdict}; against the labels: {each.wrong}"
        )
    write_figures(chosen.json, {each.kind: asdict(each) for each in found})
    return 0 if all(each.holds for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
