"""Run folders with known content, as `laconic eval` leaves them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from eval_math.records import Grade, Problem, Trace, to_line


@dataclass(frozen=True)
class Outcome:
    """One trace and its verdict; ``status`` None = not graded."""

    problem: str
    status: str | None = "correct"
    thinking: int = 100
    answer: int = 10
    sample: int = 0
    finish: str = "stop"
    seconds: float = 1.0
    truncated: bool = False
    text: str | None = None
    say: str = "The answer is \\boxed{4}."
    probe: int = 0
    latent: int = 0


def write_run(folder: Path, outcomes: list[Outcome], *, method: str = "none", questions=None, **info: object) -> Path:
    """A run folder with these outcomes, in their order."""
    folder.mkdir(parents=True)
    shown = {"benchmark": "toy", "method": method, "model": "embedded", "config": {"seed": 0}, "schema": 1, **info}
    (folder / "run.json").write_text(json.dumps(shown), encoding="utf-8")
    questions = questions or {}
    problems = [
        Problem(p, "toy", questions.get(p, f"Question {p}?"), "4") for p in dict.fromkeys(o.problem for o in outcomes)
    ]
    _write(folder / "problems.jsonl", problems)
    _write(folder / "traces.jsonl", [_trace(outcome, method) for outcome in outcomes])
    grades = [Grade(o.problem, o.sample, o.status, o.truncated, "4") for o in outcomes if o.status is not None]
    _write(folder / "grades.jsonl", grades)
    return folder


def many(right: str, **fields: object) -> list[Outcome]:
    """One outcome per character: ``1`` correct, ``0`` incorrect, problems p0, p1, ..."""
    return [replace(Outcome(f"p{i}", "correct" if c == "1" else "incorrect"), **fields) for i, c in enumerate(right)]


def _trace(outcome: Outcome, method: str) -> Trace:
    thinking = "First 2+2. Wait, let me check. It is 4." if outcome.text is None else outcome.text
    return Trace(
        outcome.problem,
        outcome.sample,
        method,
        f"{thinking}</think>{outcome.say}",
        thinking,
        outcome.say,
        20,
        outcome.thinking,
        outcome.answer,
        outcome.finish,
        seconds=outcome.seconds,
        n_probe_tokens=outcome.probe,
        n_latent_steps=outcome.latent,
        error="out of memory" if outcome.finish == "error" else None,
    )


def _write(path: Path, records: list) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as handle:
        handle.writelines(map(to_line, records))
