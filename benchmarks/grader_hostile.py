"""Hostile outputs from four surroundings: in time, nothing executed, memory bounded, the same verdicts everywhere.

    python -m benchmarks.grader_hostile [--made 10000] [--json FILE]

The inputs are those of `hostile_outputs` and strings that hypothesis makes out of pieces of LaTeX, code and noise. Each
surrounding grades all of them: the main thread, eight threads, asyncio, and a child process. The time of a verdict is
counted from when a worker is free; a limit of time is the only verdict that may differ between surroundings.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.hostile_outputs import hostile_inputs, made_outputs
from eval_math.grading import Verdict, grade
from eval_math.policies import POLICIES
from eval_math.workers import warm_up, worker_pids
from scripts.command import write_figures

POLICY = POLICIES["auto"]
GRACE_SECONDS = 0.5
MOST_GROWN_MB = 64.0
GOLD = "x^2 + 1"
THREADS = 8

Graded = tuple[str, float]
"""Status and seconds of work of one verdict."""


@dataclass(frozen=True)
class Surrounding:
    """What one surrounding measured."""

    name: str
    inputs: int
    slowest_seconds: float
    timeouts: int
    grown_mb: float
    worker_mb: float
    next_correct: bool
    disagree: int
    """Verdicts other than those of the main thread, timeouts apart."""

    @property
    def holds(self) -> bool:
        in_time = self.slowest_seconds <= POLICY.limit_seconds + GRACE_SECONDS
        small = self.grown_mb < MOST_GROWN_MB and self.worker_mb < POLICY.memory_mib
        return in_time and small and self.next_correct and self.disagree == 0


def graded(text: str) -> Graded:
    verdict: Verdict = grade(text, GOLD, policy=POLICY)
    return verdict.status, (verdict.elapsed_ms - verdict.waited_ms) / 1000


def in_main(inputs: Sequence[str]) -> list[Graded]:
    return [graded(text) for text in inputs]


def in_threads(inputs: Sequence[str]) -> list[Graded]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(graded, inputs))


def in_asyncio(inputs: Sequence[str]) -> list[Graded]:
    async def all_of_them() -> list[Graded]:
        gate = asyncio.Semaphore(THREADS)

        async def one(text: str) -> Graded:
            async with gate:
                return await asyncio.to_thread(graded, text)

        return await asyncio.gather(*map(one, inputs))

    return asyncio.run(all_of_them())


WAYS: dict[str, Callable[[Sequence[str]], list[Graded]]] = {
    "main thread": in_main,
    f"{THREADS} threads": in_threads,
    "asyncio": in_asyncio,
}


@dataclass(frozen=True)
class Watched:
    """Verdicts of one surrounding, with what they cost."""

    found: list[Graded]
    grown_mb: float
    worker_mb: float
    next_correct: bool


def watched(way: Callable[[Sequence[str]], list[Graded]], inputs: Sequence[str]) -> Watched:
    """Grade all inputs; memory of this process and the peak of its workers are read beside it."""
    warm_up()
    peak, done = [0.0], threading.Event()
    watcher = threading.Thread(target=_watch_workers, args=(peak, done), daemon=True)
    before = _peak_mb()
    watcher.start()
    found = way(inputs)
    done.set()
    watcher.join()
    ordinary = grade("so \\boxed{1 + x^2}", GOLD, policy=POLICY).correct
    return Watched(found, _peak_mb() - before, peak[0], ordinary)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _watch_workers(peak: list[float], done: threading.Event) -> None:
    while not done.wait(0.2):
        for pid in worker_pids():
            for child in [pid, *_children(pid)]:
                peak[0] = max(peak[0], _peak_of(child))


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _peak_of(pid: int) -> float:
    """Peak resident memory of a process in MB, 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def in_child(inputs: Sequence[str]) -> Watched:
    """The main thread of a daemonic child that was forked after workers had started."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, inputs), daemon=True)
    child.start()
    result = receiver.recv()
    child.join()
    return result


def _child(sender: object, inputs: Sequence[str]) -> None:
    sender.send(watched(in_main, inputs))  # type: ignore[attr-defined]


def surrounding(name: str, run: Watched, reference: Sequence[Graded]) -> Surrounding:
    pairs = zip(run.found, reference, strict=True)
    return Surrounding(
        name,
        len(run.found),
        max(seconds for _, seconds in run.found),
        sum(status == "timeout" for status, _ in run.found),
        run.grown_mb,
        run.worker_mb,
        run.next_correct,
        sum(a != b and "timeout" not in (a, b) for (a, _), (b, _) in pairs),
    )


def measure_all(inputs: Sequence[str]) -> list[Surrounding]:
    runs = {}
    for name, way in WAYS.items():
        runs[name] = watched(way, inputs)
        print(f"  {name} done", flush=True)
    runs["child process"] = in_child(inputs)
    reference = runs["main thread"].found
    return [surrounding(name, run, reference) for name, run in runs.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description="hostile outputs from four surroundings")
    parser.add_argument("--made", type=int, default=10_000, help="strings that hypothesis makes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary"
        inputs = [*hostile_inputs(canary).values(), *made_outputs(chosen.made, canary, chosen.seed)]
        found = measure_all(inputs)
        executed = canary.exists()
    for each in found:
        print(
            f"{each.name:<14} {each.inputs:,} inputs, slowest {each.slowest_seconds:.2f} s, {each.timeouts} timeouts, "
            f"grown {each.grown_mb:.0f} MB, worker {each.worker_mb:.0f} MB, {each.disagree} other verdicts: "
            f"{'holds' if each.holds else 'MISSED'}"
        )
    print(f"executed: {executed}")
    write_figures(chosen.json, {"executed": executed, "surroundings": [asdict(each) for each in found]})
    return 0 if all(each.holds for each in found) and not executed else 1


if __name__ == "__main__":
    raise SystemExit(main())
