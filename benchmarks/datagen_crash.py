"""Does a rewriting job that is cut off at any byte end with the dataset of an undisturbed one?

    python -m benchmarks.datagen_crash [--rows 200] [--kills 20] [--json FILE]

Three parts. (1) A scripted writer makes a dataset while every write to the two journals is noted; for every byte of
that sequence, the files as a kill at that byte leaves them are opened: what is recovered must be the whole lines. (2)
From every state so recovered - one per line written - and from ``--literal`` random bytes, the job is resumed: train,
rejected and statistics must be the same bytes. (3) ``laconic compress c3ot`` runs with vLLM in a process of its own
that gets SIGKILL at random moments and is started again: the dataset must be that of a run from the stored answers,
with no row missing or doubled and no stored request asked again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from cot.c3ot import C3ot
from cot.datagen.job import Job, JobConfig, run_job
from cot.datagen.store import CALLS, OUTCOMES, Shard
from cot.datagen.student import Student
from cot.datagen.supply import Supply
from cot.environment import hardware

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cot"))
from writer import ScriptedWriter, sums, write_rows  # pyright: ignore[reportMissingImports]

FILES = ("train.jsonl", "rejected.jsonl", "stats.json")
SHARD = "shard-00000-of-00001"
Write = tuple[str, bytes]


@dataclass(frozen=True)
class DatagenCrash:
    """Cut rewriting jobs off everywhere and compare what they end with."""

    rows: int = 200
    """Source rows of the scripted job."""
    literal: int = 500
    """Random bytes from which the job is resumed, beside every line."""
    kills: int = 20
    """SIGKILLs of the job with vLLM."""
    vllm_rows: int = 300
    """Its source rows."""
    seed: int = 0
    """Of the moments."""
    json: str | None = None
    """Write the figures to this file."""


@dataclass(frozen=True)
class Figures:
    """What was found."""

    bytes_tried: int
    wrongly_recovered: int
    resumed_from: int
    differing: int
    vllm_kills: int
    vllm_answers_at_kill: list[int]
    vllm_asked_twice: int
    vllm_missing_or_doubled: int
    vllm_same: bool
    holds: bool
    seconds: float
    hardware: str


def run(command: DatagenCrash) -> int:
    """All parts; exit code 1 where one does not hold."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tried, wrong, resumed, differing = _scripted(command, folder)
        at_kill, twice, odd, same = _killed(command, folder) if command.kills else ([], 0, 0, True)
    holds = not (wrong or differing or twice or odd) and same
    figures = Figures(
        tried, wrong, resumed, differing, len(at_kill), at_kill, twice, odd, same, holds,
        round(time.monotonic() - started, 1), hardware(),
    )  # fmt: skip
    for name, value in asdict(figures).items():
        print(f"{name:<26}{value}")
    if command.json:
        Path(command.json).write_text(json.dumps(asdict(figures), indent=2) + "\n")
    return int(not holds)


def _scripted(command: DatagenCrash, folder: Path) -> tuple[int, int, int, int]:
    source = write_rows(folder / "source.jsonl", sums(command.rows))
    student = Student.named("embedded")
    job = Job(JobConfig((source,), folder / "calm"), C3ot(compressor="embedded"), student)
    log = _noted(job)
    goal = _dataset(folder / "calm")
    total = sum(len(data) for _, data in log)
    wrong = sum(not _recovers(folder / "opened", state) for state in _states(log))
    ends = [0]
    for _, data in log:
        ends.append(ends[-1] + len(data))
    chosen = sorted({*ends, *random.Random(command.seed).choices(range(total), k=command.literal)})
    differing = sum(_resume(job, folder / "resumed", _state_at(log, at)) != goal for at in chosen)
    return total, wrong, len(chosen), differing


def _noted(job: Job) -> list[Write]:
    """Run a job; its writes to the journals in their order."""
    log: list[Write] = []
    write, names = os.write, {}

    def noting(handle: int, data: Any) -> int:
        if handle not in names:
            names[handle] = Path(f"/proc/self/fd/{handle}").readlink().name
        if names[handle] in (CALLS, OUTCOMES):
            log.append((names[handle], bytes(data)))
        return write(handle, data)

    os.write = noting  # type: ignore[assignment]
    try:
        run_job(job, Supply(ScriptedWriter))
    finally:
        os.write = write
    return log


def _states(log: list[Write]) -> Iterator[dict[str, bytes]]:
    """The two files as a kill leaves them, for every byte that is written."""
    files = {CALLS: b"", OUTCOMES: b""}
    for name, data in log:
        for n in range(len(data)):
            yield files | {name: files[name] + data[:n]}
        files[name] += data
    yield files


def _state_at(log: list[Write], at: int) -> dict[str, bytes]:
    files = {CALLS: b"", OUTCOMES: b""}
    for name, data in log:
        files[name] += data[:at]
        at -= len(data)
        if at <= 0:
            break
    return files


def _put(folder: Path, state: dict[str, bytes]) -> None:
    shard = folder / SHARD
    shard.mkdir(parents=True, exist_ok=True)
    for name, data in state.items():
        (shard / name).write_bytes(data)


def _recovers(folder: Path, state: dict[str, bytes]) -> bool:
    """True if opening keeps exactly the whole lines."""
    _put(folder, state)
    with Shard(folder, 0, 1, "recipe"):
        return all((folder / SHARD / name).read_bytes() == _whole(data) for name, data in state.items())


def _whole(data: bytes) -> bytes:
    """The whole lines; a line that lacks nothing but its end is whole."""
    head, _, tail = data.rpartition(b"\n")
    kept = head + b"\n" if head else b""
    return kept + tail + b"\n" if tail.endswith(b"}") and b'"crc":' in tail and _complete(tail) else kept


def _complete(line: bytes) -> bool:
    from cot.datagen.store import unsealed
    from eval_math.errors import BadInput

    try:
        unsealed(json.loads(line))
    except (ValueError, BadInput):
        return False
    return True


def _resume(job: Job, folder: Path, state: dict[str, bytes]) -> dict[str, bytes]:
    from dataclasses import replace

    for path in folder.glob("*"):
        if path.is_file():
            path.unlink()
    _put(folder, state)
    (folder / "manifest.json").write_bytes((job.config.out / "manifest.json").read_bytes())
    run_job(replace(job, config=replace(job.config, out=folder)), Supply(ScriptedWriter))
    return _dataset(folder)


def _dataset(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def _killed(command: DatagenCrash, folder: Path) -> tuple[list[int], int, int, bool]:
    """vLLM job under SIGKILL: answers at each kill, requests asked twice, rows odd, same dataset as from the store."""
    rng = random.Random(command.seed)
    words = [sys.executable, "-m", "laconic_cli.main", "compress", "c3ot", "--engine", "vllm", "--batch-size", "4"]
    words += ["--traces", str(_long_traces(command, folder)), "--out", str(folder / "killed")]
    calls = folder / "killed" / SHARD / CALLS
    at_kill: list[int] = []
    for _ in range(command.kills):
        stored = _lines(calls)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = stored + rng.randint(1, max(1, 2 * command.vllm_rows // (3 * command.kills)))
        while process.poll() is None and _lines(calls) < goal:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        at_kill.append(_lines(calls))
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = Counter(json.loads(line)["key"] for line in calls.read_text("utf-8").splitlines())
    twice = sum(n - 1 for n in keys.values())
    rows = [json.loads(line) for line in (folder / "killed" / "train.jsonl").read_text("utf-8").splitlines()]
    counted = Counter((row["source_id"], row["condition"]) for row in rows)
    statuses = json.loads((folder / "killed" / "stats.json").read_text("utf-8"))["statuses"]
    odd = sum(n - 1 for n in counted.values()) + command.vllm_rows - sum(statuses.values())
    before = _dataset(folder / "killed")
    (calls.parent / OUTCOMES).unlink()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return at_kill, twice, odd, before == _dataset(folder / "killed")


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
    return write_rows(folder / "long.jsonl", rows)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    sys.exit(run(tyro.cli(DatagenCrash, description=__doc__)))
