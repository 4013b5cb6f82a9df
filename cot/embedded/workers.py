"""Data-parallel training on CPU: one single-threaded process per batch of a step.

On busy machines two processes that meet once per step are much faster than two threads that meet in every operation.
Every process holds the whole model, averages gradients through shared memory and makes the same update.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import threading
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from .recipe import Recipe
from .training import Evaluate, Schedule, Trainer

WAIT_SECONDS = 1800.0


class SharedExchange:
    """Averages one flat tensor over processes; buffers alternate, so one meeting per step is enough."""

    def __init__(self, processes: int, size: int, context: SpawnContext) -> None:
        self.buffers = torch.zeros(2, processes, size).share_memory_()
        self.barrier = context.Barrier(processes)
        self.turn = 0

    def mean(self, rank: int, values: torch.Tensor) -> torch.Tensor:
        """Mean of `values` (size,) over all processes."""
        buffer = self.buffers[self.turn]
        buffer[rank] = values
        self.barrier.wait(WAIT_SECONDS)
        self.turn = 1 - self.turn
        return buffer.mean(0)


def train_in_processes(trainer: Trainer, evaluate: Evaluate | None = None) -> None:
    """Run `trainer` as rank 0 and one more process for every further batch of a step."""
    processes = trainer.recipe.batches_per_step
    context = mp.get_context("spawn")
    exchange = SharedExchange(processes, trainer.exchange_size(), context)
    followers = [
        Follower(rank, trainer.recipe, trainer.tokenizer.name_or_path, trainer.folder) for rank in range(1, processes)
    ]
    others = [context.Process(target=follower.run, args=(exchange,), daemon=True) for follower in followers]
    for process in others:
        process.start()
    trainer.join_exchange(0, exchange)
    try:
        trainer.run(evaluate)
    finally:
        for process in others:
            process.join(5)
            process.terminate()


@dataclass(frozen=True)
class Follower:
    """A further process: the same run, without reports and checkpoints."""

    rank: int
    recipe: Recipe
    tokenizer: str
    folder: Path

    def run(self, exchange: SharedExchange) -> None:
        """Body of the process."""
        end_with_parent()
        torch.set_num_threads(1)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.tokenizer)
        trainer = Trainer(self.recipe, tokenizer, self.folder, Schedule(evaluate_every=0))
        trainer.join_exchange(self.rank, exchange)
        trainer.run()


def end_with_parent() -> None:
    """Make this process end as soon as the one that started it is gone, even if that one was killed."""
    parent = mp.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        # A barrier may be holding the main thread for half an hour: only this ends the process at once.
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
