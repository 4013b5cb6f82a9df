"""The worker pool: limits, replacement after a death, no traces left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from eval_math.workers import close_workers, compare_symbolically, worker_pids

ENDLESS = "9^{9^{9^{9^9}}}"


def test_answers():
    assert compare_symbolically("\\int_0^1 x dx", "\\frac{1}{2}", limit_seconds=30).outcome == "equal"
    assert compare_symbolically("x", "x+1", limit_seconds=30).outcome == "different"


def test_a_long_answer_is_not_sent():
    assert compare_symbolically("x" * 5000, "x").outcome == "unreadable"


def test_the_limit_holds_and_the_next_answer_is_prompt():
    compare_symbolically("x", "x")
    started = time.perf_counter()
    assert compare_symbolically(ENDLESS, "2", limit_seconds=0.5).outcome == "timeout"
    assert time.perf_counter() - started < 0.5 + 0.5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert compare_symbolically("x", "x", limit_seconds=30).outcome == "equal"


def test_memory_is_limited_and_files_cannot_be_written(tmp_path):
    program = (
        "from eval_math.symbolic import _confine; import pathlib, sys; _confine(512); code = 0\n"
        "try: bytearray(2**30)\nexcept MemoryError: code += 1\n"
        "try: pathlib.Path(sys.argv[1]).write_text('x')\nexcept OSError: code += 2\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "file")], check=False, timeout=60)
    assert done.returncode == 3


def test_a_killed_worker_costs_one_answer():
    close_workers()
    assert compare_symbolically("x", "x", limit_seconds=30).outcome == "equal"
    (pid,) = worker_pids()
    timer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    timer.start()
    assert compare_symbolically(ENDLESS, "2", limit_seconds=30).outcome == "crash"
    assert compare_symbolically("x", "x", limit_seconds=30).outcome == "equal"
    assert worker_pids() != [pid]


def test_signals_of_the_caller_stay_his():
    before = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGCHLD), sys.getrecursionlimit()
    compare_symbolically("x", "x")
    assert (signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGCHLD), sys.getrecursionlimit()) == before


def test_no_process_outlives_its_parent():
    program = (
        "from eval_math.workers import compare_symbolically, worker_pids;"
        "compare_symbolically('x', 'x'); print(worker_pids()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _lives(pid):
        time.sleep(0.05)
    assert not _lives(pid)
    assert done.stderr == ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_first_verdict_needs_no_algebra_system():
    program = (
        "import sys; from eval_math.grading import grade;"
        "assert grade('\\\\boxed{\\\\sqrt{8}}', '2\\\\sqrt2').correct;"
        "assert not {'sympy', 'math_verify', 'latex2sympy2_extended'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
