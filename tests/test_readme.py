"""Every command in the README is run, in order, in an empty folder; the demo with fewer problems."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALLER = {"demo": ["--pairs", "24", "--dev", "12", "--test", "24", "--blocks", "3", "--strengths", "0.25"]}


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("laconic ")]


def test_the_reader_finds_commands_and_joins_lines():
    text = "```sh\nmake demo\nlaconic eval \\\n  --n 1   # note\n```\n```python\nlaconic\n```"
    assert commands(text) == [["laconic", "eval", "--n", "1"]]


@pytest.mark.slow
def test_readme_commands_run(tmp_path):
    found = commands((ROOT / "README.md").read_text())
    assert found
    program = str(Path(sys.executable).with_name("laconic"))
    for words in found:
        done = subprocess.run(
            [program, *words[1:], *SMALLER.get(words[1], [])],
            cwd=tmp_path, capture_output=True, text=True, timeout=600,
            env={**os.environ, "COLUMNS": "120"},
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_tree_in_the_readme_is_the_tree():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"^([a-z_]+)/ ", text, flags=re.MULTILINE)
    assert set(named) >= {"eval_math", "cot", "steering", "latent", "rl", "scripts", "benchmarks", "docs", "tests"}
    assert all((ROOT / name).is_dir() for name in named)
