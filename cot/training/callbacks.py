"""What happens between updates: the loss on disk, a line of progress, evaluations."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eval_math.errors import EngineError

from ..journal import Journal
from .evaluation import Evaluation
from .folder import LOSS

LINE_SECONDS = 15.0


class LossFile(TrainerCallback):
    """loss.jsonl: one line per update, each update once, also after a resumption.

    ``seconds`` counts the updates alone, over all sessions: neither evaluations nor checkpoints.

    Args:
        tokens: of each update, prompt and completion.
        rows: per pass over the data, to count epochs by.
    """

    def __init__(self, folder: Path, tokens: Sequence[int], rows: int, batch: int) -> None:
        self._journal: Journal[int] = Journal(folder / LOSS, lambda row: int(row["step"]))
        self._tokens = list(accumulate(tokens))
        self._rows, self._batch = rows, batch
        self._folder = folder
        self._seconds = 0.0
        self._started = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget updates that were done after the checkpoint from which the training goes on."""
        self._journal.rewrite([step for step in self._journal if step <= state.global_step])
        kept = self.rows()
        self._seconds = float(kept[-1]["seconds"]) if kept else 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop the clock, on a GPU once its work is done: the launches alone return at once."""
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        self._seconds += time.monotonic() - self._started

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Store the figures of one update.

        Raises:
            EngineError: loss or gradient is no number; no checkpoint holds such an update.
        """
        if not logs or "loss" not in logs:
            return
        step = state.global_step
        self._refuse_lost(step, logs)
        left_out = {"epoch", "num_tokens"}
        figures = {name: value for name, value in logs.items() if name not in left_out}
        line = {"step": step, **figures, "epoch": step * self._batch / self._rows, "tokens": self._tokens[step - 1],
                "seconds": round(self._seconds, 3)}  # fmt: skip
        self._journal.append(step, json.dumps(line) + "\n")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The lines up to a checkpoint outlive it."""
        self._journal.sync()

    def rows(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return list(self._journal.rows())

    def _refuse_lost(self, step: int, logs: dict[str, Any]) -> None:
        for name, value in (("loss", logs["loss"]), ("norm of the gradient", logs.get("grad_norm", 0.0))):
            if not math.isfinite(value):
                raise EngineError(
                    f"{self._folder}: the {name} of update {step} is {value}, so the weights are lost; start anew "
                    "with --overwrite and a lower --learning-rate, or in float32"
                )


class ProgressLine(TrainerCallback):
    """Updates done, loss, speed and time left: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, label: str, tokens: Sequence[int], *, stream: TextIO | None = None) -> None:
        self._label = label
        self._tokens = list(accumulate(tokens))
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._first = 0
        self._started = self._shown = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._first = state.global_step
        self._started = self._shown = time.monotonic()
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=state.max_steps, initial=self._first, desc=self._label, file=self._stream)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the figures of one update."""
        if not logs or "loss" not in logs:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures(state.global_step, logs), refresh=False)
            self._bar.update(state.global_step - self._bar.n)
        elif time.monotonic() - self._shown >= LINE_SECONDS or state.global_step == state.max_steps:
            self._shown = time.monotonic()
            left = (self._shown - self._started) / (state.global_step - self._first)
            left *= state.max_steps - state.global_step
            figures = self._figures(state.global_step, logs)
            done = f"{self._label}: update {state.global_step}/{state.max_steps}"
            self._stream.write(f"{done}, {figures}, {left / 60:.1f} minutes left\n")
            self._stream.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _figures(self, step: int, logs: dict[str, Any]) -> str:
        before = self._tokens[self._first - 1] if self._first else 0
        speed = (self._tokens[step - 1] - before) / max(time.monotonic() - self._started, 1e-9)
        return f"loss {logs['loss']:.4f}, {speed:,.0f} tokens/s"


class Evaluate(TrainerCallback):
    """Runs an evaluation before the first, after every so many and after the last update; rank 0 does, others wait."""

    def __init__(self, evaluation: Evaluation | None, every: int, trainer: Any) -> None:
        self._evaluation = evaluation
        self._every = every
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Where the model stands before it is trained."""
        if state.global_step == 0:
            self._run(0, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluate where it is due."""
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            self._run(state.global_step, control)

    def _run(self, step: int, control: TrainerControl) -> None:
        trainer = self._trainer
        if self._evaluation is not None:
            line = self._evaluation.run(inner_model(trainer.model), step)
            if line is not None:
                # In evaluation mode, so that TRL does not close the books of its training metrics; and a log of ours
                # must not take the place of the one that is due for this update.
                training, due = trainer.model.training, control.should_log
                trainer.model.eval()
                trainer.log({f"eval_{name}": value for name, value in line.items() if name != "step"})
                trainer.model.train(training)
                control.should_log = due
        trainer.accelerator.wait_for_everyone()


def inner_model(model: Any) -> Any:
    """The transformers model, adapters in place, without the wrapper of peft."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
