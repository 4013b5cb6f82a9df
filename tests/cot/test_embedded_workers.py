"""Processes of a training run do not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import multiprocessing as mp, time
from cot.embedded.workers import end_with_parent

def body():
    {watch}
    print(mp.current_process().pid, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    mp.get_context("spawn").Process(target=body).start()
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def outlives_a_killed_parent(folder: Path, watch: str) -> bool:
    script = folder / "run.py"
    script.write_text(PROGRAM.format(watch=watch))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        deadline = time.monotonic() + 10
        while alive(child) and time.monotonic() < deadline:
            time.sleep(0.05)
            if watch == "pass":
                break
        lives = alive(child)
        if lives:
            os.kill(child, signal.SIGKILL)
    return lives


def test_a_follower_ends_with_a_killed_parent(tmp_path):
    assert not outlives_a_killed_parent(tmp_path, "end_with_parent()")


def test_without_the_watch_it_would_live_on(tmp_path):
    assert outlives_a_killed_parent(tmp_path, "pass")
