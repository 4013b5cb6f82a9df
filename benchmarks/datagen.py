"""How many rows a second does the core of a rewriting job take, and does its memory grow with them?

    python -m benchmarks.datagen [--rows 10000 100000 1000000] [--json FILE]

A scripted writer answers at once and the rewriter does the least there is - one call, one row - so that the time is
that of reading, hashing, storing with checksum and fsync, and writing the dataset. Each size runs in a process of its
own; the figures are rows per second over all of it and the peak of memory. Goals: 2,000 rows/s, and no more than 1.25
times the memory of the smallest size at the largest.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tyro

from cot.datagen.job import Job, JobConfig, run_job
from cot.datagen.records import DataRow, Generate, Outcome, SourceRow
from cot.datagen.rewriter import Bench, Work
from cot.datagen.student import Student
from cot.datagen.supply import Supply
from cot.engine import EngineIdentity
from cot.environment import hardware
from eval_math.records import Json, Message, Request, Sampling, Trace

GOAL_ROWS, GOAL_GROWTH = 2000.0, 1.25


@dataclass(frozen=True)
class Datagen:
    """Rows a second and peak memory of the core, by number of rows."""

    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Sizes."""
    json: str | None = None
    """Write the figures to this file."""


@dataclass(frozen=True)
class Least:
    """The least a rewriter can do."""

    name: ClassVar[str] = "least"
    needs: frozenset[str] = frozenset({"generate"})

    def fingerprint(self) -> dict[str, Json]:
        return {"name": self.name}

    def rewrite(self, row: SourceRow, bench: Bench) -> Work:
        (trace,) = yield [Generate("whole", 0, (Message("user", row.output),), Sampling())]
        assert isinstance(trace, Trace)
        return Outcome("kept", (DataRow((Message("user", row.problem.question),), trace.text),))


class Instant:
    """An engine that echoes."""

    capabilities = frozenset({"generate"})
    identity = EngineIdentity("scripted", "echo", "echo", "echo", "float32", settings={"batch_size": 64})

    def generate(self, requests: Iterable[Request], *, on_trace: Any = None) -> Iterator[Trace]:
        for request in requests:
            text = request.messages[-1].content
            yield Trace(request.problem_id, request.sample, "", text, None, text, 9, 0, 9, "stop")

    def score(self, items: Any) -> list[list[float]]:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        return [*map(ord, text)]

    def prompt_ids(self, request: Request) -> list[int]:
        return self.encode(request.messages[-1].content)

    def close(self) -> None:
        pass


def run(command: Datagen) -> int:
    """Measure every size; exit code 1 where a goal is missed."""
    found = [_measure(n) for n in command.rows]
    for each in found:
        memory = f"{each['peak_mib']:.0f} MiB, {each['peak_mib'] - each['start_mib']:.1f} of them the job's"
        print(f"{each['rows']:>9} rows {each['rows_per_second']:>8.0f} rows/s {memory}")
    growth = found[-1]["peak_mib"] / found[0]["peak_mib"]
    holds = all(each["rows_per_second"] >= GOAL_ROWS for each in found) and growth <= GOAL_GROWTH
    print(f"memory of the largest over the smallest: {growth:.2f}")
    if command.json:
        figures = {"sizes": found, "growth": growth, "holds": holds, "hardware": hardware()}
        Path(command.json).write_text(json.dumps(figures, indent=2) + "\n")
    return int(not holds)


def _measure(rows: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    answer: Any = context.Queue()
    process = context.Process(target=_work, args=(rows, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def _work(rows: int, answer: Any) -> None:
    student = Student.named("embedded")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source.jsonl"
        with source.open("w") as handle:
            for at in range(rows):
                row = {"question": f"{at}+1?", "answer": str(at + 1), "output": f"So {at}+1={at + 1}.</think>{at + 1}"}
                handle.write(json.dumps(row) + "\n")
        start, started = _peak_mib(), time.perf_counter()
        run_job(Job(JobConfig((source,), Path(scratch) / "out"), Least(), student), Supply(Instant))
        seconds = time.perf_counter() - started
    memory = {"start_mib": start, "peak_mib": _peak_mib()}
    answer.put({"rows": rows, "rows_per_second": rows / seconds, "seconds": seconds, **memory})


def _peak_mib() -> float:
    """Peak of resident memory of this program. (``ru_maxrss`` can be that of the one that started it.)"""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Datagen, description=__doc__)))
