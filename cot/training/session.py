"""One training from the rows to the finished folder; what is taught, and by which of TRL's trainers, is a `Task`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval_math.errors import BadInput
from eval_math.records import Json, digest

from ..chat import max_length, model_hash, open_chat, resolve_model, template_hash
from .callbacks import Evaluate, LossFile, ProgressLine, inner_model
from .card import write_card
from .config import TrainingConfig, World, resolved
from .contract import check_peft, check_trl
from .evaluation import Evaluation, Student
from .folder import (
    CHECKPOINTS,
    TrainingFolder,
    TrainingInfo,
    checkpoint_step,
    drop_broken_checkpoints,
    export_model,
    finished,
    last_checkpoint,
    open_training,
)
from .order import data_order
from .rows import find_data
from .student import adapters, count_parameters, finished_model, load_model
from .task import Stage, Task, prepare

BARRIER_SECONDS = 24 * 3600
"""How long processes wait for rank 0 while it evaluates."""


@dataclass(frozen=True)
class Outcome:
    """What a training came to. ``resumed`` is the update it went on from; ``updates`` 0 if it was finished before."""

    folder: Path
    updates: int
    resumed: int
    figures: Mapping[str, Json]


class Session:
    """A training about to run.

    Raises:
        MissingPart: TRL (or peft, for LoRA) is missing or another than expected.
        BadInput: model, rows, or a setting that cannot work.
    """

    def __init__(self, task: Task, config: TrainingConfig, data: Path, out: Path) -> None:
        check_trl()
        self.task, self.world, self.out = task, World.from_environment(), out
        self.accumulation = self.world.accumulation(config)
        self.on_gpu = _on_gpu(config)
        self.source = resolve_model(config.model)
        self.chat = open_chat(self.source)
        self.longest = max_length(self.source, config.max_length)
        self.prepared = prepare(task, find_data(data), self.chat, self.longest, config.limit)
        self.config = resolved(config, count_parameters(self.source), self.on_gpu)
        if self.config.tuning == "lora":
            check_peft()
        self.order = data_order(
            self.prepared.lengths, config.batch_size, config.epochs, config.seed, pool=config.length_pool
        )

    def info(self) -> TrainingInfo:
        """What the training is."""
        decisive = {
            **self.config.decisive(),
            "model_hash": model_hash(self.source),
            "template_hash": template_hash(self.chat.tokenizer),
        }
        # Where the rows lie does not decide what is learnt.
        data = {name: value for name, value in self.prepared.facts.items() if name != "path"}
        return TrainingInfo(self.task.name, decisive, data)

    @property
    def updates(self) -> int:
        """Updates of the whole training."""
        return len(self.order) // self.config.batch_size

    def update_tokens(self) -> list[int]:
        """Tokens of each update."""
        batch = self.config.batch_size
        each = [self.prepared.tokens[row] for row in self.order]
        return [sum(each[at : at + batch]) for at in range(0, len(each), batch)]

    def run(self, *, overwrite: bool = False) -> Outcome:
        """Train to the end, from the last checkpoint if there is one, and write the model.

        Raises:
            RunMismatch, StoreError: see `open_training`.
            EngineError: a loss is no number, or the model cannot be loaded.
            BadInput: the processes are those of FSDP or DeepSpeed.
        """
        info = self.info()
        done = finished(self.out, info)
        if done:
            return Outcome(self.out, 0, self.updates, done)
        if self.world.rank:
            return self._train(None)
        with open_training(self.out, info, overwrite=overwrite) as folder, _without_bars():
            drop_broken_checkpoints(self.out)
            return self._train(folder)

    def trainer(self) -> Any:
        """The trainer, with nothing of ours attached; sets the seed of all sources of chance."""
        config = self.config
        model = load_model(self.source, config)
        stage = Stage(config, self.source, self.chat, model, self.dataset(), adapters(config))
        return self.task.trainer(stage, self.arguments())

    def dataset(self) -> Any:
        """All rows in training order, as the library datasets holds them."""
        import numpy
        from datasets import Dataset

        columns = self.task.columns(self.prepared.rows)
        arrays = {name: [numpy.asarray(ids, numpy.int64) for ids in column] for name, column in columns.items()}
        ordered = Dataset.from_dict(arrays).select(self.order)
        if not self.task.numbered:
            return ordered
        return ordered.add_column("visit", numpy.arange(len(self.order)))  # type: ignore[call-arg]

    def arguments(self) -> dict[str, Any]:
        """Settings of every trainer of TRL."""
        config = self.config
        return {
            "output_dir": str(self.out / CHECKPOINTS),
            "num_train_epochs": 1,
            "max_steps": self.updates,
            "per_device_train_batch_size": config.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "train_sampling_strategy": "sequential",
            "learning_rate": config.learning_rate,
            "lr_scheduler_type": config.schedule if config.schedule != "constant" else "constant_with_warmup",
            "warmup_steps": round(config.warmup * self.updates),
            "weight_decay": config.weight_decay,
            "max_grad_norm": config.gradient_clip,
            "seed": config.seed,
            "use_cpu": not self.on_gpu,
            "bf16": config.dtype == "bfloat16",
            "gradient_checkpointing": config.gradient_checkpointing == "on",
            "save_strategy": "steps",
            "save_steps": config.save_every,
            "save_total_limit": config.keep_checkpoints,
            "eval_strategy": "no",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "disable_tqdm": True,
            "report_to": config.report_to,
            "ddp_backend": "gloo" if self.world.size > 1 and not self.on_gpu else None,
            "ddp_timeout": BARRIER_SECONDS,
            "ddp_find_unused_parameters": False,
            "average_tokens_across_devices": True,
            "dataloader_pin_memory": self.on_gpu,
            "max_length": None,
        }

    def student(self) -> Student:
        """The model as evaluations see it."""
        autocast = torch.bfloat16 if self.config.dtype == "bfloat16" else None
        info = self.info()
        return Student(self.chat, self.longest_output(), digest([dict(info.config), dict(info.data)]), autocast)

    def longest_output(self) -> int:
        """Most tokens of prompt and output."""
        return max_length(self.source, None)

    def _train(self, folder: TrainingFolder | None) -> Outcome:
        evaluation = Evaluation(self.config, self.out, self.student()) if folder and self.config.benchmark else None
        trainer = self.trainer()
        _refuse_sharded(trainer)
        losses = self._attach(trainer, evaluation)
        start = last_checkpoint(self.out)
        resumed = checkpoint_step(start) if start else 0
        trainer.train(resume_from_checkpoint=str(start) if start else None)
        if folder is None or losses is None:
            return Outcome(self.out, self.updates - resumed, resumed, {})
        rows = losses.rows()
        extras = self.task.take_extras(trainer.model)
        export_model(finished_model(trainer.model, self.source), self.source, self.out, extras)
        figures = write_card(folder, self, rows, evaluation.rows() if evaluation else [])
        folder.finish(figures)
        return Outcome(self.out, self.updates - resumed, resumed, figures)

    def _attach(self, trainer: Any, evaluation: Evaluation | None) -> LossFile | None:
        """Give the trainer our callbacks in place of its printing; the loss file on rank 0."""
        from transformers.trainer_callback import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        tokens = self.update_tokens()
        losses = None
        if self.world.rank == 0:
            losses = LossFile(self.out, tokens, len(self.prepared.rows), self.config.batch_size)
            trainer.add_callback(losses)
            trainer.add_callback(ProgressLine(f"{self.task.name} {self.out.name}", tokens))
        if self.config.benchmark:
            if evaluation:
                evaluation.check(inner_model(trainer.model))
            trainer.add_callback(Evaluate(evaluation, self.config.eval_every, trainer))
        return losses


def leave_group() -> None:
    """Wait for the other processes of a training, and end what they share: none is torn down while another speaks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _on_gpu(config: TrainingConfig) -> bool:
    found = torch.cuda.is_available()
    if config.device == "cuda" and not found:
        raise BadInput("device 'cuda': torch sees no GPU here; use cpu, or a CUDA build of torch")
    if found and config.device != "cpu" and torch.cuda.device_count() > 1 and World.from_environment().size == 1:
        raise BadInput(
            f"one process sees {torch.cuda.device_count()} GPUs; start it with `accelerate launch --multi_gpu "
            "--num_processes N`, or show it one GPU by CUDA_VISIBLE_DEVICES=0"
        )
    return found and config.device != "cpu"


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bar of transformers for every file that it reads or writes."""
    from transformers.utils import logging as logging_of_transformers

    shown = logging_of_transformers.is_progress_bar_enabled()
    logging_of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging_of_transformers.enable_progress_bar()


def _refuse_sharded(trainer: Any) -> None:
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise BadInput(
            "FSDP and DeepSpeed spread one model over processes, and laconic writes and evaluates the model of one "
            "process: start it by torchrun or `accelerate launch --multi_gpu` without them, and train a model that is "
            "too large for one GPU by --tuning lora"
        )
