"""Does a rewriting job that is cut off at any byte end with the dataset of an undisturbed one?

    python -m benchmarks.datagen_crash [--rows 200] [--kills 20] [--json FILE]

Two parts; 0 leaves one out. (1) A job with a scripted writer is killed at every byte that it writes, in whatever file:
see `benchmarks.every_byte` (faster with TMPDIR on a disk in memory). What is recovered must be the whole lines, and
the job that goes on must end with the same bytes. (2) ``laconic compress c3ot`` runs with vLLM in a process of its own
that gets SIGKILL at random moments and is started again: the dataset must be that of a run from the stored answers,
with no row missing or doubled and no stored request asked again.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

from cot.datagen.store import CALLS, OUTCOMES, shard_folder
from cot.environment import hardware

from .every_byte import Found, cut_everywhere

FILES = ("train.jsonl", "rejected.jsonl", "stats.json", "_SUCCESS")


@dataclass(frozen=True)
class DatagenCrash:
    """Cut rewriting jobs off everywhere and compare what they end with."""

    rows: int = 200
    """Source rows of the scripted job."""
    literal: int = 200
    """Bytes chosen at random from which that job is resumed, beside every whole change."""
    kills: int = 20
    """SIGKILLs of the job with vLLM."""
    vllm_rows: int = 300
    """Its source rows."""
    seed: int = 0
    """Of the moments."""
    json: str | None = None
    """Write the figures to this file."""


@dataclass(frozen=True)
class Killed:
    """The job with vLLM: answers stored at each kill, and what went wrong."""

    answers_at_kill: list[int] = field(default_factory=list)
    asked_twice: int = 0
    missing_or_doubled: int = 0
    same: bool = True
    """The dataset is that of a run from the stored answers."""
    same_as_undisturbed: bool | None = None
    """It is also that of a run that nobody killed; no condition, as vLLM may answer otherwise in other batches."""

    @property
    def holds(self) -> bool:
        """True if nothing went wrong."""
        return self.same and not (self.asked_twice or self.missing_or_doubled)


def run(command: DatagenCrash) -> int:
    """Both parts; exit code 1 where one does not hold."""
    found = _scripted(command)
    cpu_seconds = round(time.process_time(), 1)
    with tempfile.TemporaryDirectory() as scratch:
        killed = _killed(command, Path(scratch)) if command.kills else Killed()
    figures = {
        "every_byte": {**asdict(found), "cpu_seconds": cpu_seconds},
        "vllm": asdict(killed),
        "holds": found.holds and killed.holds,
        "hardware": hardware(),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if command.json:
        Path(command.json).write_text(text + "\n")
    return int(not figures["holds"])


def _scripted(command: DatagenCrash) -> Found:
    if not command.rows:
        return Found()
    with tempfile.TemporaryDirectory() as scratch:
        return cut_everywhere(command.rows, command.literal, command.seed, Path(scratch))


def _dataset(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def _killed(command: DatagenCrash, folder: Path) -> Killed:
    out, calm = folder / "killed", folder / "calm"
    calls = shard_folder(out, 0, 1) / CALLS
    job = [sys.executable, "-m", "laconic_cli.main", "compress", "c3ot", "--engine", "vllm", "--batch-size", "4"]
    job += ["--traces", str(_long_traces(command, folder)), "--out"]
    words = [*job, str(out)]
    at_kill = _kill_often(command, words, calls)
    _complete(words)
    twice, odd = _asked_twice(calls), _missing_or_doubled(out, command.vllm_rows)
    before = _dataset(out)
    (calls.parent / OUTCOMES).unlink()
    _complete(words)
    _complete([*job, str(calm)])
    return Killed(at_kill, twice, odd, before == _dataset(out), before == _dataset(calm))


def _kill_often(command: DatagenCrash, words: list[str], calls: Path) -> list[int]:
    """Start the job and kill it, again and again: after some more answers and a moment."""
    rng = random.Random(command.seed)
    most = max(1, 2 * command.vllm_rows // (3 * command.kills))
    at_kill: list[int] = []
    for _ in range(command.kills):
        goal, moment = _lines(calls) + rng.randint(1, most), rng.uniform(0, 0.2)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and _lines(calls) < goal:
            time.sleep(0.002)
        time.sleep(moment)
        if process.poll() is not None:
            raise RuntimeError(f"the job ended with {process.returncode} before it was killed; raise vllm_rows")
        process.send_signal(signal.SIGKILL)
        process.wait()
        at_kill.append(_lines(calls))
    return at_kill


def _complete(words: list[str]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _asked_twice(calls: Path) -> int:
    keys = Counter(json.loads(line)["key"] for line in calls.read_text("utf-8").splitlines())
    return sum(n - 1 for n in keys.values())


def _missing_or_doubled(out: Path, n_rows: int) -> int:
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text("utf-8").splitlines()]
    counted = Counter((row["source_id"], row["condition"]) for row in rows)
    statuses = json.loads((out / "stats.json").read_text("utf-8"))["statuses"]
    return sum(n - 1 for n in counted.values()) + n_rows - sum(statuses.values())


def _long_traces(command: DatagenCrash, folder: Path) -> Path:
    """Verbose traces as the embedded reasoner was trained on: a file that needs no engine."""
    from cot.embedded.problems import stream_problems
    from cot.embedded.traces import answer_sentence, write_trace

    rng = random.Random(command.seed)
    problems = stream_problems("train", "datagen-crash", (1, 6))
    rows: list[dict[str, object]] = []
    for _ in range(command.vllm_rows):
        problem = next(problems)
        output = f"{write_trace(problem, 4, rng)}</think>{answer_sentence(problem.answer)}"
        row = {"id": problem.id, "benchmark": "embedded", "question": problem.question}
        rows.append({**row, "answer": problem.answer, "output": output})
    path = folder / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    sys.exit(run(tyro.cli(DatagenCrash, description=__doc__)))
