"""What `laconic train sft` costs over a plain loop: tokens/s on the same batches, interleaved.

    python -m benchmarks.training_speed [--updates 20] [--pairs 7] [--json FILE]

The plain loop is what one would write: the same loader, the model's logits, cross-entropy of the labels, AdamW, clipped
gradients, no checkpoints, no loss file. Ours is a whole training without evaluations. Both clocks run from the first
batch to the last update, so that collation and, on our side, metrics, logs and callbacks count; loading the model and
writing it do not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.interleaved import measure, show


@dataclass(frozen=True)
class TrainingSpeed:
    """Tokens per second of a training over those of a plain loop."""

    updates: int = 20
    batch_size: int = 32
    pairs: int = 7
    """Interleaved pairs."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: TrainingSpeed) -> int:
    """Measure and print."""
    from benchmarks.training_parity import write_rows

    with tempfile.TemporaryDirectory() as temporary:
        rows = write_rows(Path(temporary) / "rows.jsonl", command.updates * command.batch_size)
        session = _session(command, rows, Path(temporary) / "batches")
        loader = session.trainer().get_train_dataloader()
        tokens = sum(session.update_tokens())
        ratio = measure(
            "sft over a plain loop",
            lambda: tokens / _trained(command, rows),
            lambda: tokens / _plain(loader),
            pairs=command.pairs,
            goal=0.85,
        )
    return show(ratio, command.json)


def _session(command: TrainingSpeed, rows: Path, out: Path) -> Any:
    from cot.training.config import SftConfig
    from cot.training.session import Session
    from cot.training.sft import Sft

    size = command.batch_size
    config = SftConfig(batch_size=size, micro_batch=size, epochs=1, eval_every=0, save_every=10**6)
    return Session(Sft(), config, rows, out)


def _trained(command: TrainingSpeed, rows: Path) -> float:
    """Seconds of the loop of one training."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        started = ended = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_log(self, *args: Any, **kwargs: Any) -> None:
            if "loss" in kwargs["logs"]:
                self.ended = time.perf_counter()

    clock = Clock()
    with tempfile.TemporaryDirectory() as temporary:
        session = _session(command, rows, Path(temporary) / "out")
        build = session.trainer

        def with_clock() -> Any:
            trainer = build()
            trainer.add_callback(clock)
            return trainer

        session.trainer = with_clock
        session.run()
    return clock.ended - clock.started


def _plain(loader: Iterable[Any]) -> float:
    """Seconds of the loop."""
    import torch
    from transformers import AutoModelForCausalLM

    from cot.chat import resolve_model

    model: Any = AutoModelForCausalLM.from_pretrained(resolve_model("embedded"), dtype=torch.float32).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    started = time.perf_counter()
    for batch in loader:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        wanted = batch["labels"][:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(run(tyro.cli(TrainingSpeed, description=__doc__)))
