"""Hostile outputs: a verdict in time each, nothing executed, the next verdict unharmed."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import threading
import time
from dataclasses import replace

import pytest
from hostile_outputs import hostile_inputs

from eval_math.grading import equivalent, grade
from eval_math.policies import POLICIES
from eval_math.records import STATUSES
from eval_math.workers import warm_up

# Shorter than the default so that the whole list takes seconds.
POLICY = replace(POLICIES["auto"], limit_seconds=0.4)
PATIENT = replace(POLICY, limit_seconds=30.0)


def longest_seconds() -> float:
    """Half a second over the limit, stretched where other work keeps the processors busy."""
    return POLICY.limit_seconds + 0.5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    warm_up()


def slowest(inputs: dict[str, str], gold: str = "42") -> tuple[float, str]:
    times = []
    for name, text in inputs.items():
        started = time.perf_counter()
        assert grade(text, gold, policy=POLICY).status in STATUSES
        times.append((time.perf_counter() - started, name))
    return max(times)


def test_each_gets_a_verdict_in_time_in_the_main_thread(tmp_path):
    canary = tmp_path / "canary"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, name = slowest(hostile_inputs(canary))
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert seconds <= longest_seconds(), name
    assert grown_mib < 64
    assert not canary.exists()
    assert grade("\\boxed{42}", "42").correct


def test_the_same_in_a_worker_thread_with_a_symbolic_gold(tmp_path):
    canary = tmp_path / "canary"
    results: list[tuple[float, str]] = []
    thread = threading.Thread(target=lambda: results.append(slowest(hostile_inputs(canary), "x^{2}+\\int_0^1 t dt")))
    thread.start()
    thread.join()
    assert results and results[0][0] <= longest_seconds(), results
    assert not canary.exists()


def test_a_hostile_gold_never_scores(tmp_path):
    for name, text in hostile_inputs(tmp_path / "canary").items():
        verdict = grade("\\boxed{41}", text or " ", policy=POLICY)
        assert not verdict.correct, name


def test_under_asyncio():
    async def both() -> list[str]:
        calls = [
            asyncio.to_thread(grade, f"\\boxed{{{p}}}", "x^2", policy=PATIENT) for p in ("x \\cdot x", "\\int_0^1 t dt")
        ]
        return [verdict.status for verdict in await asyncio.gather(*calls)]

    assert asyncio.run(both()) == ["correct", "incorrect"]


def _in_child(queue) -> None:
    queue.put([grade("\\boxed{7}", "7").status, equivalent("\\int_0^1 2x dx", "1", policy=PATIENT).status])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_a_daemonic_child_process(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=60) == ["correct", "correct"]
    child.join(10)
    assert child.exitcode == 0


def test_eight_threads_agree_with_one():
    pairs = [("x^2-1", "(x-1)(x+1)"), ("\\int_0^1 2x dx", "1"), ("\\frac{1}{3}", "0.3333"), ("(1,2]", "(1,2)")] * 4
    alone = [equivalent(a, b, policy=PATIENT).status for a, b in pairs]
    found: dict[int, list[str]] = {}
    threads = [
        threading.Thread(
            target=lambda n=n: found.__setitem__(n, [equivalent(a, b, policy=PATIENT).status for a, b in pairs])
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == alone for n in range(8))
