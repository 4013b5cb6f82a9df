"""kill -9 during a real run: the folder it leaves in the end is that of an undisturbed one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(random_model, tmp_path):
    flags = [
        "--model",
        str(random_model),
        "--problems",
        "60",
        "--kills",
        "5",
        "--max-tokens",
        "40",
        "--batch-size",
        "3",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill_test", *flags, "--json", str(tmp_path / "figures.json")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["holds"]
    assert figures["same_content"]
    assert (figures["kills"], figures["missing"], figures["doubled"]) == (5, 0, 0)
    assert any(0 < stored < 60 for stored in figures["stored_at_kill"])
