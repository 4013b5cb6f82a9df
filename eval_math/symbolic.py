"""The symbolic tier as it runs inside a worker: math-verify on two answers, in a process made to be killed.

`serve` is the whole program of a worker. The process that talks to the parent loads sympy once and never looks at an
answer: it forks a child that does, and kills that child at the limit, so that a new one costs milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

TASKS_PER_CHILD = 200
READY = b"ready\n"


def serve() -> None:
    """Answer tasks from standard input, one JSON object per line, until it closes."""
    _load()
    os.write(1, READY)
    child: _Child | None = None
    for raw in sys.stdin.buffer:
        task = json.loads(raw)
        if child is None or child.tasks >= TASKS_PER_CHILD or child.memory_mib != task["memory_mib"]:
            if child is not None:
                child.kill()
            child = _Child.start(task["memory_mib"])
        answer = child.ask(raw, task["limit_seconds"])
        if answer["outcome"] in {"timeout", "crash", "memory"}:
            child.kill()
            child = None
        os.write(1, json.dumps(answer).encode() + b"\n")
    if child is not None:
        child.kill()


def compare(a: str, b: str) -> dict[str, str]:
    """Whether math-verify takes ``a`` and ``b`` as equal, in either order: {outcome, reason}."""
    from math_verify import LatexExtractionConfig, parse, verify

    # Only its LaTeX reader, which has a grammar: the reader of plain expressions hands text to sympy's parse_expr.
    reader = [LatexExtractionConfig(boxed_match_priority=0)]
    left, right = (
        parse(f"\\boxed{{{text}}}", extraction_config=reader, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
        for text in (a, b)
    )
    if not left or not right:
        side = "b" if not right else "a"
        reason = f"math-verify cannot read {(b if side == 'b' else a)!r}"
        return {"outcome": "unreadable", "side": side, "reason": reason[:200]}
    if verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None):
        return {"outcome": "equal", "reason": "math-verify finds both sides equal"}
    return {"outcome": "different", "reason": "math-verify finds the sides different"}


def _load() -> None:
    compare("x + 1", "1 + x")


@dataclass
class _Child:
    """A forked process that compares; dies with its parent."""

    pid: int
    tasks_fd: int
    answers_fd: int
    memory_mib: int
    tasks: int = 0

    @classmethod
    def start(cls, memory_mib: int) -> _Child:
        tasks_read, tasks_write = os.pipe()
        answers_read, answers_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(tasks_write)
            os.close(answers_read)
            _work(tasks_read, answers_write, memory_mib)
        os.close(tasks_read)
        os.close(answers_write)
        return cls(pid, tasks_write, answers_read, memory_mib)

    def ask(self, raw: bytes, limit_seconds: float) -> dict[str, str]:
        self.tasks += 1
        used = _cpu_seconds(self.pid)
        deadline = time.monotonic() + limit_seconds
        poll = select.poll()
        poll.register(self.answers_fd, select.POLLIN)
        answer = b""
        try:
            os.write(self.tasks_fd, raw)
            while not answer.endswith(b"\n"):
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    ran = f"{_cpu_seconds(self.pid) - used:.1f} s of processor time"
                    return {"outcome": "timeout", "reason": f"no answer within {limit_seconds:g} s ({ran})"}
                part = os.read(self.answers_fd, 65536)
                if not part:
                    return {"outcome": "crash", "reason": "the symbolic worker died (crash or memory limit)"}
                answer += part
        except BrokenPipeError:
            return {"outcome": "crash", "reason": "the symbolic worker was gone"}
        return json.loads(answer)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.tasks_fd)
        os.close(self.answers_fd)


def _cpu_seconds(pid: int) -> float:
    """Processor time a process has used, so that a timeout on a busy machine can be told; nan where unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(tasks_fd: int, answers_fd: int, memory_mib: int) -> NoReturn:
    code = 1
    try:
        _confine(memory_mib)
        with os.fdopen(tasks_fd, "rb") as tasks:
            for raw in tasks:
                task = json.loads(raw)
                os.write(answers_fd, json.dumps(_guarded(task["a"], task["b"])).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def _confine(memory_mib: int) -> None:
    """Limit memory, forbid core files and written files, cut the child off from the parent's standard streams."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    limit = memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _guarded(a: str, b: str) -> dict[str, str]:
    try:
        return compare(a, b)
    except MemoryError:
        return {"outcome": "memory", "reason": "the memory limit was met"}
    except RecursionError:
        return {"outcome": "unreadable", "reason": "nested too deeply"}
    except Exception as error:  # noqa: BLE001 - whatever the algebra raises on hostile text is one verdict
        return {"outcome": "error", "reason": f"math-verify failed ({type(error).__name__})"}
