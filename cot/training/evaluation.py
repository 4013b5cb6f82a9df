"""Answering a benchmark with the weights of the moment: the live model in the hf engine, our grader, one run folder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval_math.errors import BadInput
from eval_math.records import Json, Problem, Sampling, digest
from eval_math.summary import SummaryRow

from ..benchmarks import load
from ..chat import Chat, template_hash
from ..engine import EngineIdentity
from ..engines.hf import HfEngine
from ..engines.work import Desk
from ..evaluate import EvalConfig, check, evaluate_into
from ..journal import Journal
from ..method import Method
from ..methods import parse_method
from .config import TrainingConfig
from .folder import EVALUATIONS, RUNS


@dataclass(frozen=True)
class Student:
    """The model that is trained: its chat, the most tokens it takes, a hash of the training, and its autocast dtype."""

    chat: Chat
    max_length: int
    hash: str
    autocast: torch.dtype | None


class Evaluation:
    """The benchmark of a training; `run` may be called at any update.

    Raises:
        BadInput: unknown benchmark or method, or one the hf engine cannot run.
    """

    def __init__(self, config: TrainingConfig, folder: Path, student: Student) -> None:
        benchmark = config.benchmark
        if benchmark is None:
            raise BadInput("no benchmark to evaluate on: give eval_benchmark, or eval_every=0 for no evaluation")
        split = config.eval_split or ("dev" if benchmark.partition(":")[0] == "embedded" else "test")
        self.problems: Sequence[Problem] = load(benchmark, split=split, limit=config.eval_limit)
        self.method: Method = parse_method(config.eval_method)
        room = min(config.eval_max_tokens, student.max_length)
        self.config = EvalConfig(benchmark, sampling=Sampling(max_tokens=room))
        self._folder = folder
        self._student = student
        self._batch = config.eval_batch
        self._journal: Journal[int] | None = None

    def check(self, model: Any) -> None:
        """Refuse at start what could not be evaluated later."""
        check(self.problems, self.method, self._engine(model, 0), self.config)

    def run(self, model: Any, step: int) -> Mapping[str, Json] | None:
        """Answer and grade; one line in evaluation.jsonl. None if that line was there already."""
        journal = self._lines()
        if step in journal:
            return None
        with _resting(model, self._student.autocast):
            folder = self._folder / RUNS / f"step-{step:06d}"
            row = evaluate_into(folder, self.problems, self.method, self._engine(model, step), self.config)
        line = evaluation_line(step, row)
        journal.append(step, json.dumps(line) + "\n")
        journal.sync()
        return line

    def rows(self) -> list[dict[str, Any]]:
        """All evaluations so far."""
        return sorted(self._lines().rows(), key=lambda row: row["step"])

    def _lines(self) -> Journal[int]:
        if self._journal is None:
            self._journal = Journal(self._folder / EVALUATIONS, lambda row: int(row["step"]))
        return self._journal

    def _engine(self, model: Any, step: int) -> HfEngine:
        student = self._student
        identity = EngineIdentity(
            engine="hf",
            model=self._folder.name,
            model_hash=digest([student.hash, step]),
            template_hash=template_hash(student.chat.tokenizer),
            dtype=str(student.autocast or model.dtype).removeprefix("torch."),
            settings={"batch_size": self._batch, "max_model_len": student.max_length, "training_step": step},
        )
        desk = Desk(student.chat, student.max_length, {"engine": "hf", "model": self._folder.name, "step": step})
        return HfEngine(model, desk, identity, self._batch)


def evaluation_line(step: int, row: SummaryRow) -> dict[str, Json]:
    """The figures of one evaluation: shares and tokens with 95% intervals."""
    return {
        "step": step,
        "n": row.n,
        "accuracy": row.accuracy,
        "accuracy_low": row.accuracy_low,
        "accuracy_high": row.accuracy_high,
        "thinking_tokens": row.thinking_tokens_mean,
        "thinking_tokens_low": row.thinking_tokens_low,
        "thinking_tokens_high": row.thinking_tokens_high,
        "truncated": row.truncated,
        "seconds": round(row.seconds, 2),
    }


@contextmanager
def _resting(model: Any, autocast: torch.dtype | None) -> Iterator[None]:
    """The model in evaluation mode, and every source of chance as it was before."""
    training, state = model.training, random.getstate()
    kind = model.device.type
    model.eval()
    try:
        with torch.random.fork_rng(), torch.autocast(kind, dtype=autocast, enabled=autocast is not None):
            yield
    finally:
        random.setstate(state)
        model.train(training)
