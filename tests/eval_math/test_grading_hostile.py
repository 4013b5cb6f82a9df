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

from benchmarks.hostile_outputs import hostile_inputs, made_outputs
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


def test_made_outputs_get_the_same_verdict_in_eight_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    canary = tmp_path / "canary"
    texts = made_outputs(400, canary, seed=3)
    assert len(texts) == 400 and sum("boxed" in text for text in texts) > 100

    def status(text: str) -> str:
        return grade(text, "x^2 + 1", policy=POLICY).status

    alone = [status(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(status, texts))
    assert all(a == b or "timeout" in (a, b) for a, b in zip(alone, together, strict=True))
    assert len(set(alone)) > 1 and not canary.exists()


class _Graded:
    """A data set whose rows are graded where they are loaded."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> str:
        return equivalent("\\int_0^1 2x dx", "1" if index % 2 else "2", policy=PATIENT).status


def test_in_the_workers_of_a_data_loader():
    from torch.utils.data import DataLoader

    loaded = list(DataLoader(_Graded(), batch_size=1, num_workers=2, timeout=60))
    assert [batch[0] for batch in loaded] == ["incorrect", "correct"] * 3


def test_under_a_web_server():
    import json
    import urllib.request
    from concurrent.futures import ThreadPoolExecutor
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Grader(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = equivalent(row["a"], row["b"], policy=PATIENT).status.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Grader)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def ask(pair: tuple[str, str]) -> str:
        data = json.dumps({"a": pair[0], "b": pair[1]}).encode()
        url = f"http://127.0.0.1:{server.server_port}/"
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=90) as answer:
            return answer.read().decode()

    pairs = [("\\int_0^1 2x dx", "1"), ("x^2", "x^3"), ("\\boxed{", "1")] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, pairs))
    server.shutdown()
    server.server_close()
    assert found[:2] == ["correct", "incorrect"] and found == found[:3] * 4


def test_a_verdict_says_how_long_it_waited():
    verdict = equivalent("\\int_0^1 2x dx", "1", policy=PATIENT)
    assert verdict.correct and 0 <= verdict.waited_ms <= verdict.elapsed_ms
    assert equivalent("1", "1").waited_ms == 0


@pytest.mark.parametrize(
    "text", ["¹", "x¹", "²/³", "\\frac{¹}{2}", "①", "½", "\\begin{pmatrix}¹\\end{pmatrix}", "5_¹", "٣", "१२", "𝟛"]
)
def test_digits_of_other_kinds_raise_nothing(text):
    """Superscripts and circled digits are digits to some functions of Python and no numerals to others."""
    for a, b in ((text, "x^2"), ("\\frac{1}{2}", text), (text, text)):
        assert equivalent(a, b, policy=replace(POLICY, symbolic=False)).status in STATUSES
