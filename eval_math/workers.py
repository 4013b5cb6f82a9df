"""The pool of symbolic workers: separate processes with a limit on time and memory, started once and reused.

No signals, no threads of its own, nothing changed in the calling process: usable from any thread, from asyncio (in a
thread), from daemonic child processes and after a fork. A worker that dies costs one answer.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import IO, Literal

log = logging.getLogger(__name__)

Outcome = Literal["equal", "different", "unreadable", "error", "timeout", "memory", "crash"]

LONGEST_ANSWER_CHARACTERS = 2000
"""Longer answers are not given to the symbolic tier."""
START_SECONDS = 90.0
GRACE_SECONDS = 0.4
_PROGRAM = "import json,sys; sys.path[:]=json.loads(sys.argv[1]); from eval_math.symbolic import serve; serve()"


@dataclass(frozen=True)
class SymbolicAnswer:
    """What a worker said about one pair."""

    outcome: Outcome
    reason: str
    side: Literal["a", "b", ""] = ""
    """Which answer is unreadable, if one is."""
    waited_seconds: float = 0.0
    """Before the work began: for a free worker, or for one to start."""


def compare_symbolically(a: str, b: str, *, limit_seconds: float = 2.0, memory_mib: int = 1024) -> SymbolicAnswer:
    """Ask a worker whether ``a`` equals ``b``; blocks until one is free, then at most ``limit_seconds``.

    The start of a worker (about a second, once) and waiting for a free one don't count towards the limit.
    """
    if max(len(a), len(b)) > LONGEST_ANSWER_CHARACTERS:
        side = "a" if len(a) > LONGEST_ANSWER_CHARACTERS else "b"
        return SymbolicAnswer("unreadable", f"longer than {LONGEST_ANSWER_CHARACTERS} characters", side)
    task = {"a": a, "b": b, "limit_seconds": limit_seconds, "memory_mib": memory_mib}
    return _shared.get().ask(task, limit_seconds)


def warm_up() -> None:
    """Start a worker now, so that the first symbolic comparison doesn't wait for it."""
    compare_symbolically("x", "x")


def worker_pids() -> list[int]:
    """Process ids of this process's workers."""
    pool = _shared.pool
    return pool.pids() if pool is not None else []


def close_workers() -> None:
    """End all workers of this process; the next comparison starts new ones."""
    with _shared.lock:
        pool, _shared.pool = _shared.pool, None
    if pool is not None:
        pool.close()


class WorkerDied(Exception):
    """A worker could not start, or gave no answer long after its limit."""


class Worker:
    """One worker process, used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, json.dumps([str(p) for p in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self._ready = False

    @property
    def pid(self) -> int:
        """Process id of the worker (leader of its own session)."""
        return self._process.pid

    def start(self) -> None:
        """Wait until the process is ready for work.

        Raises:
            WorkerDied: it did not start.
        """
        if not self._ready:
            self._read_line(START_SECONDS, "start")
            self._ready = True

    def ask(self, task: dict[str, str | float | int], limit_seconds: float) -> SymbolicAnswer:
        """Send one task and wait for its answer.

        Raises:
            WorkerDied: no answer; the worker must be thrown away.
        """
        self.start()
        try:
            _pipe(self._process.stdin).write(json.dumps(task).encode() + b"\n")
        except OSError as error:
            raise WorkerDied(f"the symbolic worker was gone ({error.strerror})") from error
        line = self._read_line(limit_seconds + GRACE_SECONDS, "answer")
        return SymbolicAnswer(**json.loads(line))

    def close(self) -> None:
        """Kill the process and its child, and collect it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()

    def _read_line(self, seconds: float, what: str) -> bytes:
        out = _pipe(self._process.stdout)
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(out, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise WorkerDied(f"the symbolic worker did not {what} within {seconds:g} s")
            part = os.read(out.fileno(), 65536)
            if not part:
                raise WorkerDied("the symbolic worker died")
            line += part
        return line


class WorkerPool:
    """Up to ``size`` workers, started when first needed."""

    def __init__(self, size: int) -> None:
        self._free = threading.Semaphore(size)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()

    def ask(self, task: dict[str, str | float | int], limit_seconds: float) -> SymbolicAnswer:
        """Give a task to a free worker; a worker that dies is replaced and its task counts as lost."""
        asked = time.monotonic()
        with self._free:
            try:
                worker = self._take()
            except OSError as error:
                log.warning("a symbolic worker cannot start: %s", error)
                return SymbolicAnswer("crash", f"the symbolic worker cannot start ({error.strerror})")
            waited = 0.0
            try:
                worker.start()
                waited = time.monotonic() - asked
                answer = worker.ask(task, limit_seconds)
            except WorkerDied as error:
                log.warning("%s; it is replaced", error)
                self._drop(worker)
                return SymbolicAnswer("crash", str(error), waited_seconds=waited)
            except BaseException:
                self._drop(worker)
                raise
            with self._lock:
                self._idle.append(worker)
            return replace(answer, waited_seconds=waited)

    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        with self._lock:
            return sorted(worker.pid for worker in self._all)

    def close(self) -> None:
        """Kill all workers."""
        with self._lock:
            workers, self._all, self._idle = self._all, set(), []
        for worker in workers:
            worker.close()

    def _take(self) -> Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            worker = Worker()
            self._all.add(worker)
            return worker

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            self._all.discard(worker)
        worker.close()


class _Shared:
    """The pool of this process. After a fork the workers belong to the parent: their handles are kept unused."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pool: WorkerPool | None = None
        self.inherited: list[WorkerPool] = []
        self.registered = False

    def get(self) -> WorkerPool:
        with self.lock:
            if not self.registered:
                atexit.register(close_workers)
                os.register_at_fork(after_in_child=self.forget)
                self.registered = True
            if self.pool is None:
                self.pool = WorkerPool(min(8, os.cpu_count() or 1))
            return self.pool

    def forget(self) -> None:
        self.lock = threading.Lock()
        if self.pool is not None:
            self.inherited.append(self.pool)
        self.pool = None


_shared = _Shared()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise WorkerDied("the symbolic worker has no pipe")
    return pipe
