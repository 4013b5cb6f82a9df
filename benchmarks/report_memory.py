"""Peak memory and time of a report on 100,000 stored traces of about 5 kB.

    python benchmarks/report_memory.py [--traces 100000] [--json FILE]

Writes two synthetic runs of half as many traces each into a temporary folder, makes the report in a process of its
own and reads that process's peak resident memory. Goal: under 1 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from eval_math.files import write_json
from eval_math.records import Grade, Problem, Trace, to_line

GOAL_MB = 1000.0
STEP = "So {n} and {m} give {s}. Wait, let me double-check that: {n}+{m}={s}. Yes, that is right.\n"
CHILD = """
import resource, sys, time
from pathlib import Path
from eval_math.report import write_report
start = time.perf_counter()
write_report([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Result:
    """Memory in MB of 10^6 bytes; ``traces_gb`` is the size of the stored traces."""

    name: str
    traces: int
    traces_gb: float
    peak_mb: float
    seconds: float
    page_mb: float
    goal: float
    holds: bool
    hardware: str


def measure(traces: int) -> Result:
    """Write the runs, make the report, return its figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [write_run(folder / method, method, traces // 2) for method in ("none", "shorter")]
        page = folder / "report.html"
        command = [sys.executable, "-c", CHILD, str(page), *map(str, runs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, seconds = done.stdout.split()
        # Linux counts in KiB, macOS in bytes.
        peak_mb = int(peak) * (1 if sys.platform == "darwin" else 1024) / 1e6
        stored = sum((run / "traces.jsonl").stat().st_size for run in runs) / 1e9
        hardware = f"{platform.machine()}, {os.cpu_count()} cores"
        size = page.stat().st_size / 1e6
    return Result("report_memory", traces, stored, peak_mb, float(seconds), size, GOAL_MB, peak_mb < GOAL_MB, hardware)


def write_run(folder: Path, method: str, traces: int) -> Path:
    """A run of ``traces`` problems whose traces take about 5 kB each on disk, text and thinking included."""
    folder.mkdir()
    info = {"schema": 1, "benchmark": "synthetic", "method": method, "model": "none", "config": {}}
    (folder / "run.json").write_text(json.dumps(info))
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(open(folder / f"{name}.jsonl", "w", encoding="utf-8"))
            for name in ("problems", "traces", "grades")
        ]
        for index in range(traces):
            for file, line in zip(files, lines(index, method), strict=True):
                file.write(line)
    return folder


def lines(index: int, method: str) -> tuple[str, str, str]:
    """Problem, trace and grade of one problem."""
    problem = f"synthetic/{index:06d}"
    steps = 28 if method == "none" else 25
    thinking = "".join(STEP.format(n=index + k, m=k, s=index + 2 * k) for k in range(steps))
    trace = Trace(
        problem_id=problem,
        sample=0,
        method=method,
        text=f"<think>{thinking}</think>{index}",
        thinking=thinking,
        answer_text=str(index),
        n_prompt_tokens=40,
        n_thinking_tokens=len(thinking) // 4 + index % 97,
        n_answer_tokens=8,
        finish="stop",
        seconds=0.5,
    )
    grade = Grade(problem, 0, "correct" if index % 7 else "incorrect", extracted=str(index))
    return to_line(Problem(problem, "synthetic", f"How many? {index}", str(index))), to_line(trace), to_line(grade)


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    result = measure(options.traces)
    print(f"{'traces':>8} {'on disk':>9} {'peak':>9} {'goal':>9} {'report':>9} {'page':>8} {'in all':>8}")
    print(
        f"{result.traces:>8,} {result.traces_gb:>6.2f} GB {result.peak_mb:>6.0f} MB {result.goal:>6.0f} MB "
        f"{result.seconds:>7.1f} s {result.page_mb:>5.1f} MB {time.perf_counter() - start:>6.0f} s"
    )
    print("holds" if result.holds else "DOES NOT HOLD")
    if options.json:
        write_json(options.json, asdict(result))
    sys.exit(0 if result.holds else 1)


if __name__ == "__main__":
    main()
