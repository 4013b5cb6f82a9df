"""Do several processes, and a killed training that goes on, train what one undisturbed process trains? (CPU, gloo)

    python -m benchmarks.training_parity --updates 20
    python -m benchmarks.training_parity --kind dpo --rows pairs.jsonl --cases two moved

All cases take the same rows per update, so losses and weights may differ by the order of float additions alone.
`two` is two processes by torchrun; `killed` is one process ended by SIGKILL half-way and run again by the same command;
`killed-two` the same with two processes, of which rank 0 is killed; `moved` starts with two processes and goes on with
one. Each is compared to `one`: the largest relative difference of the loss over all updates, the
largest absolute difference of a weight, beside the largest change that training made to any weight, and whether the
weight files are equal byte for byte (`killed-two` to `two` as well). Exit code 1 if a difference is not small.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_math.files import write_json

LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4
RUN = """import sys
from laconic_cli.command import parse
from laconic_cli.train_{kind} import Train{name}, run
raise SystemExit(run(parse(Train{name}, sys.argv[1:], prog="train {kind}")))
"""
CASES = {"two": (2,), "killed": (1, 1), "killed-two": (2, 2), "moved": (2, 1)}
"""Processes of each session; all but the last are killed."""


@dataclass(frozen=True)
class Plan:
    """What is trained, by the script ``script``, in folders beside it."""

    script: Path
    rows: Path
    updates: int

    def out(self, case: str) -> Path:
        """Folder of a case."""
        return self.script.parent / case


def main() -> int:
    """Train all cases and print their figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("sft", "dpo"), default="sft")
    parser.add_argument("--rows", type=Path, help="training rows; default: made of problems of the embedded reasoner")
    parser.add_argument("--updates", type=int, default=20, help="of 8 rows")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        script = Path(temporary) / "train.py"
        script.write_text(RUN.format(kind=arguments.kind, name=arguments.kind.capitalize()))
        made = Path(temporary) / "rows.jsonl"
        rows = arguments.rows.absolute() if arguments.rows else write_rows(made, 8 * arguments.updates)
        figures = measure(Plan(script, rows, arguments.updates), arguments.cases)
    figures = {"kind": arguments.kind, **figures}
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_json(arguments.json, figures)
    cases = figures["cases"].values()
    small = all(
        case["loss_difference"] <= LOSS_TOLERANCE and case["weight_difference"] <= WEIGHT_TOLERANCE for case in cases
    )
    return int(not small)


def write_rows(path: Path, count: int) -> Path:
    """Rows for both kinds: equations only, preferred to a trace that checks and recaps."""
    from dataclasses import asdict

    from cot.embedded.problems import make_problems
    from cot.embedded.traces import ANSWER, write_trace
    from eval_math.prompts import prompt

    rng = random.Random(0)
    with path.open("w") as handle:
        for problem in make_problems("train", count, seed=7):
            texts = [
                f"<think>{write_trace(problem, level, rng)}</think>{ANSWER.format(answer=problem.answer)}"
                for level in (0, 3)
            ]
            short, long = ([{"role": "assistant", "content": text}] for text in texts)
            row = {"id": problem.id, "prompt": [asdict(turn) for turn in prompt(problem.record())],
                   "completion": short, "chosen": short, "rejected": long}  # fmt: skip
            handle.write(json.dumps(row) + "\n")
    return path


def measure(plan: Plan, cases: list[str]) -> dict[str, Any]:
    """Train `one` and the cases, and compare each of them to it."""
    finish(plan, "one", 1)
    for case in cases:
        for processes in CASES[case][:-1]:
            interrupt(plan, case, processes)
        finish(plan, case, CASES[case][-1])
    compared = {case: compare(plan.out("one"), plan.out(case)) for case in cases}
    if {"two", "killed-two"} <= compared.keys():
        compared["killed-two"]["bytes_equal_to_two"] = weights(plan.out("killed-two")) == weights(plan.out("two"))
    return {"cases": compared}


def launch(plan: Plan, case: str, processes: int) -> subprocess.Popen[str]:
    """Start a training in the folder of a case."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    flags = ["--data", str(plan.rows), "--out", str(plan.out(case)), "--batch-size", "8", "--micro-batch", "2",
             "--limit", str(8 * plan.updates), "--epochs", "1", "--eval-every", "0", "--learning-rate", "3e-4",
             "--save-every", "3"]  # fmt: skip
    command = [sys.executable, *(launcher if processes > 1 else []), str(plan.script), *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(plan: Plan, case: str, processes: int) -> None:
    """Run a training to its end."""
    process = launch(plan, case, processes)
    errors = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"{case}, {processes} process(es): {errors[-3000:]}")


def interrupt(plan: Plan, case: str, processes: int) -> None:
    """Start a training and end the process that writes by SIGKILL once half of the updates are done."""
    process = launch(plan, case, processes)
    losses = plan.out(case) / "loss.jsonl"
    while not losses.exists() or len(losses.read_bytes().splitlines()) < plan.updates // 2:
        if process.poll() is not None:
            raise SystemExit(f"{case}: ended before it could be killed: {process.communicate()[1][-3000:]}")
        time.sleep(0.005)
    os.kill(process.pid if processes == 1 else first_worker(process.pid), signal.SIGKILL)
    process.communicate()
    if not process.returncode or (plan.out(case) / "config.json").exists():
        raise SystemExit(f"{case}: ended before it was killed; give more --updates")


def first_worker(launcher: int) -> int:
    """The process of rank 0 among the children of torchrun (Linux)."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if b"RANK=0" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise SystemExit(f"torchrun ({launcher}) has no worker of rank 0 among its children {children}")


def weights(folder: Path) -> bytes:
    """The weight file of a finished training."""
    return (folder / "model.safetensors").read_bytes()


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Figures of one case against `one`."""
    from safetensors.torch import load_file

    from cot.embedded import embedded_model_path

    losses = [[json.loads(line)["loss"] for line in (folder / "loss.jsonl").open()] for folder in (one, other)]
    before, first, second = (load_file(f / "model.safetensors") for f in (embedded_model_path(), one, other))
    sessions = json.loads((other / "training.json").read_text())["sessions"]
    return {
        "processes": sessions[-1]["processes"],
        "sessions": len(sessions),
        "updates": len(losses[0]),
        "loss_difference": max(abs(a - b) / a for a, b in zip(*losses, strict=True)),
        "weight_difference": max(float((first[name] - second[name]).abs().max()) for name in first),
        "weight_change": max(float((first[name] - before[name]).abs().max()) for name in first),
        "bytes_equal": weights(one) == weights(other),
    }


if __name__ == "__main__":
    sys.exit(main())
