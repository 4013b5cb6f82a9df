"""The house rules that can be checked: import direction, light packages, instant help, one clear error."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RANK = {"eval_math": 0, "cot": 1, "steering": 2, "latent": 2, "rl": 3, "scripts": 4, "laconic_cli": 4}
PACKAGES = ("eval_math", "cot", "steering", "latent", "rl", "scripts")


def absolute_imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append(node.module.split(".")[0])
    return found


def against_direction(top: str, imported: str) -> bool:
    return imported in RANK and imported != top and RANK[imported] >= RANK[top]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    sources = list((ROOT / package).rglob("*.py"))
    wrong = [(str(p), name) for p in sources for name in absolute_imports(p) if against_direction(package, name)]
    assert sources and not wrong


def test_the_direction_check_sees_a_wrong_import():
    assert against_direction("eval_math", "cot") and against_direction("steering", "latent")
    assert not against_direction("rl", "cot")


def test_eval_math_never_imports_torch():
    names = {name for p in (ROOT / "eval_math").rglob("*.py") for name in absolute_imports(p)}
    assert not names & {"torch", "vllm", "transformers", "trl"}


def laconic(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("laconic")), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})})


def test_importing_any_package_leaves_vllm_alone():
    code = "import sys, eval_math, cot, steering, latent, rl, cot.engine, cot.method; print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def test_help_is_instant_and_lists_every_command():
    from laconic_cli.main import COMMANDS

    laconic("--help")
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = laconic("--help")
        seconds.append(time.perf_counter() - start)
    assert done.returncode == 0 and all(" ".join(name) in done.stdout for name in COMMANDS)
    assert min(seconds) < 0.5


def test_every_command_has_its_file_and_flags():
    from importlib import import_module

    from laconic_cli.main import COMMANDS

    for entry in COMMANDS.values():
        module = import_module(f"laconic_cli.{entry.module}")
        assert hasattr(module, entry.flags) and callable(module.run), entry


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("evall",), "did you mean 'eval'"),
        (("steer",), "steer pairs"),
        (("eval", "--no-such-flag", "1"), "no-such-flag"),
        (("eval", "--benchmark", "gsm9k"), "gsm8k"),
        (("eval", "--method", "nosuch"), "concise"),
        (("eval", "--engine", "nosuch"), "vllm"),
        (("eval", "--model", "/nonexistent/model", "--engine", "hf"), "/nonexistent/model"),
        (("grade", "/nonexistent.jsonl"), "/nonexistent.jsonl"),
        (("report", "/nonexistent/run"), "/nonexistent/run"),
        (("steer", "show", "/nonexistent.safetensors"), "/nonexistent.safetensors"),
        (("eval", "--config", "/nonexistent.json"), "/nonexistent.json"),
    ],
)
def test_bad_input_is_one_clear_error_with_code_2(words, said, tmp_path):
    done = subprocess.run(
        [str(Path(sys.executable).with_name("laconic")), *words],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_shadowed_package_is_named(tmp_path):
    (tmp_path / "rl.py").write_text("x = 1\n")
    done = laconic("eval", "--benchmark", "gsm8k", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and str(tmp_path / "rl.py") in done.stderr


def test_test_files_have_names_of_their_own():
    """pytest imports test files by their names alone: two of one name cannot be collected together."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
