"""Do two processes train what one trains? The same rows, once in one process and once in two (CPU, gloo).

    python -m benchmarks.training_parity --rows rows.jsonl --updates 20

Both take the same rows per update, so losses and weights differ by the order of float additions alone. Prints the
largest relative difference of the loss over all updates and the largest absolute difference of a weight beside the
largest change that training made to any weight; exit code 1 if they are not small.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from eval_math.files import write_json

LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4
RUN = """import sys
from laconic_cli.command import parse
from laconic_cli.train_sft import TrainSft, run
raise SystemExit(run(parse(TrainSft, sys.argv[1:], prog="train sft")))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "train.py").write_text(RUN)
        for processes in (1, 2):
            train(folder, arguments.rows.absolute(), arguments.updates, processes)
        figures = compare(folder / "out-1", folder / "out-2")
    print(json.dumps(figures, indent=2))
    if arguments.json:
        write_json(arguments.json, figures)
    return int(figures["loss_difference"] > LOSS_TOLERANCE or figures["weight_difference"] > WEIGHT_TOLERANCE)


def train(folder: Path, rows: Path, updates: int, processes: int) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    flags = ["--data", str(rows), "--out", str(folder / f"out-{processes}"), "--batch-size", "8", "--micro-batch", "2",
             "--limit", str(8 * updates), "--epochs", "1", "--eval-every", "0", "--learning-rate", "3e-4"]  # fmt: skip
    command = [sys.executable, *(launcher if processes > 1 else []), str(folder / "train.py"), *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{processes} process(es): {done.stderr[-3000:]}")


def compare(one: Path, two: Path) -> dict[str, float | int]:
    from safetensors.torch import load_file

    from cot.embedded import embedded_model_path

    losses = [[json.loads(line)["loss"] for line in (folder / "loss.jsonl").open()] for folder in (one, two)]
    before, first, second = (load_file(f / "model.safetensors") for f in (embedded_model_path(), one, two))
    sessions = json.loads((two / "training.json").read_text())["sessions"]
    return {
        "processes": sessions[-1]["processes"],
        "updates": len(losses[0]),
        "loss_difference": max(abs(a - b) / a for a, b in zip(*losses, strict=True)),
        "weight_difference": max(float((first[name] - second[name]).abs().max()) for name in first),
        "weight_change": max(float((first[name] - before[name]).abs().max()) for name in first),
    }


if __name__ == "__main__":
    sys.exit(main())
