"""Training in two processes: the losses and weights of one process, also after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the process to be killed is found through /proc")
def test_two_processes_killed_and_gone_on_train_what_one_trains(embedded_model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_parity", "--updates", "8", "--cases", "killed-two",
         "--json", str(tmp_path / "figures.json")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["cases"]["killed-two"]
    assert figures["processes"] == 2 and figures["updates"] == 8 and figures["sessions"] == 2
    assert figures["loss_difference"] < 1e-5 and figures["weight_difference"] < 1e-4 < figures["weight_change"]
