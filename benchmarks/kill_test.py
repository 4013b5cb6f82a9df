"""Does a run that is killed again and again end with the content of an undisturbed one?

    python -m benchmarks.kill_test [--problems 500] [--kills 30] [--json FILE]

The real command runs with the hf engine in a process of its own and gets SIGKILL after a random number of new answers,
between, during or after writes; the next start resumes. Afterwards every problem must be there once, and traces, grades
and configuration must be those of a run that nobody disturbed. (Processes are forked from one that has torch imported
but nothing running: starting each from nothing would only make the test slower.)
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import tyro

from cot.environment import hardware

START_SECONDS = 600.0
PRELOADED = ["torch", "transformers", "cot.engines.hf", "cot.evaluate", "eval_math.report.terminal", "tyro"]


@dataclass(frozen=True)
class KillTest:
    """SIGKILL a run at random moments and compare what it leaves in the end with an undisturbed run."""

    problems: int = 500
    """Problems of the embedded benchmark."""
    kills: int = 30
    """How often the run is killed."""
    model: str = "embedded"
    """Model folder, hub id or `embedded`."""
    max_tokens: int = 512
    """Longest output."""
    batch_size: int = 8
    """Requests decoded at once; small, so that answers come in one by one."""
    seed: int = 0
    """Seed of the moments."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


@dataclass(frozen=True)
class Figures:
    """What was found. ``torn_lines`` were half written when the kill came; ``stored_at_kill`` counts whole ones."""

    name: str
    problems: int
    kills: int
    stored_at_kill: list[int]
    torn_lines: int
    quarantined: int
    missing: int
    doubled: int
    same_content: bool
    holds: bool
    seconds: float
    hardware: str


def run(command: KillTest) -> int:
    """Run both, compare, print; exit code 1 where they differ."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        disturbed, calm = Path(scratch) / "disturbed", Path(scratch) / "calm"
        kills = _disturb(command, disturbed)
        _finish(command, disturbed)
        _finish(command, calm)
        figures = _compare(command, disturbed, calm, kills, time.monotonic() - started)
    row = asdict(figures)
    print("\n".join(f"{name}: {value}" for name, value in row.items()), file=sys.stderr)
    if command.json == "-":
        print(json.dumps(row))
    elif command.json:
        Path(command.json).write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    return 0 if figures.holds else 1


@dataclass(frozen=True)
class _Kill:
    stored: int
    torn: bool


def _disturb(command: KillTest, folder: Path) -> list[_Kill]:
    """Start and kill until all kills are used up; each waits for a random share of the answers that are left."""
    rng = random.Random(command.seed)
    kills: list[_Kill] = []
    while len(kills) < command.kills:
        before = _lines(folder)
        left = command.problems - before
        share = max(1, 2 * left // (command.kills - len(kills) + 1))
        target = min(before + rng.randint(0, share), command.problems - 1)
        process = _start(command, folder)
        if _wait_for(folder, max(target, 1), process):
            time.sleep(rng.random() * 0.1)
        process.kill()
        process.join()
        if process.exitcode not in (-signal.SIGKILL, 0):
            raise SystemExit(f"the run ended by itself with code {process.exitcode}")
        kills.append(_Kill(_lines(folder), _torn(folder)))
        print(f"kill {len(kills)}: {kills[-1].stored} of {command.problems} stored", file=sys.stderr)
    return kills


def _finish(command: KillTest, folder: Path) -> None:
    process = _start(command, folder)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the run ended with code {process.exitcode}")


def _start(command: KillTest, folder: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_evaluate, args=(_words(command, folder),))
    process.start()
    return process


def _evaluate(words: Sequence[str]) -> None:
    from scripts.main import main

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(main(words))


def _words(command: KillTest, folder: Path) -> list[str]:
    flags = {
        "model": command.model,
        "engine": "hf",
        "benchmark": "embedded",
        "limit": command.problems,
        "max-tokens": command.max_tokens,
        "batch-size": command.batch_size,
        "out": folder,
    }
    return ["eval", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


def _compare(command: KillTest, disturbed: Path, calm: Path, kills: Sequence[_Kill], seconds: float) -> Figures:
    from cot.runs import content_hash

    asked = [json.loads(line)["id"] for line in (disturbed / "problems.jsonl").open(encoding="utf-8")]
    found = Counter(json.loads(line)["problem_id"] for line in (disturbed / "traces.jsonl").open(encoding="utf-8"))
    quarantine = disturbed / "traces.quarantine.jsonl"
    missing = sum(found[name] == 0 for name in asked)
    doubled = sum(count - 1 for count in found.values())
    same = content_hash(disturbed) == content_hash(calm) and list(found) == asked
    return Figures(
        name="kill_test",
        problems=command.problems,
        kills=len(kills),
        stored_at_kill=[kill.stored for kill in kills],
        torn_lines=sum(kill.torn for kill in kills),
        quarantined=_lines_of(quarantine) if quarantine.exists() else 0,
        missing=missing,
        doubled=doubled,
        same_content=same,
        holds=same and missing == doubled == 0,
        seconds=round(seconds, 1),
        hardware=hardware(),
    )


def _wait_for(folder: Path, lines: int, process: BaseProcess) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.is_alive():
        if _lines(folder) >= lines:
            return True
        time.sleep(0.002)
    return False


def _lines(folder: Path) -> int:
    path = folder / "traces.jsonl"
    return _lines_of(path) if path.exists() else 0


def _lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _torn(folder: Path) -> bool:
    path = folder / "traces.jsonl"
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read() != b"\n"


if __name__ == "__main__":
    sys.exit(run(tyro.cli(KillTest)))
