"""Latent objectives on TRL's SFTTrainer: our batches, our losses, its loop.

The trainer's model learns to answer one more argument of its forward pass, ``latent_batch``, with the sums of an
objective, so that data-parallel wrappers and adapters see every parameter used. TRL is imported here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from trl.trainer.sft_config import SFTConfig as TrlConfig
from trl.trainer.sft_trainer import SFTTrainer

from cot.training.quiet import QuietTrainer
from cot.training.task import Stage

from .reasoner import HEAD

Objective = Callable[[Any, Mapping[str, Tensor]], Mapping[str, Any]]
"""From model and batch to ``tokens`` and ``latents`` (sums with gradient), ``n_latents``, and figures to be logged."""


def answer_batches(model: Any, objective: Objective) -> None:
    """Let ``model(latent_batch=...)`` give what ``objective`` makes of a batch; other calls are as before."""
    plain = model.forward

    def forward(self: Any, *args: Any, latent_batch: Mapping[str, Tensor] | None = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if latent_batch is None else objective(self, latent_batch)

    model.forward = MethodType(forward, model)


class LatentTrainer(QuietTrainer, SFTTrainer):
    """Cross-entropy averaged over the labels of an update, plus the latent loss averaged over the latents of a pass."""

    latent_weight: float = 1.0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one pass; see the class."""
        found = model(latent_batch=inputs)
        steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"] != -100).sum()
        tokens = found["tokens"] / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            tokens = tokens * self.accelerator.num_processes
        latents = found["latents"] / max(1, found["n_latents"])
        self._note({"token_loss": tokens * steps, "latent_loss": latents, **found["figures"]})
        return tokens + self.latent_weight * latents / steps

    def _note(self, figures: Mapping[str, Any]) -> None:
        metrics = self._metrics["train" if self.is_in_train else "eval"]
        for name, value in figures.items():
            local = torch.as_tensor(value, device=self.args.device).detach().float()
            gathered: Any = self.accelerator.gather_for_metrics(local)
            metrics[name].append(float(gathered.mean()))


def latent_trainer(
    stage: Stage, arguments: Mapping[str, Any], collator: Any, objective: Objective, weight: float
) -> LatentTrainer:
    """The trainer, ready to train ``stage.model`` on ``objective``."""
    answer_batches(stage.model, objective)
    settings = TrlConfig(
        **arguments, packing=False, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}
    )
    trainer = LatentTrainer(
        model=stage.model,
        args=settings,
        train_dataset=stage.dataset,
        processing_class=stage.chat.tokenizer,
        data_collator=collator,
        peft_config=_with_head(stage.adapters),
    )
    trainer.latent_weight = weight
    return trainer


def take_head(model: Any) -> Any:
    """The trained head, taken off ``model`` (adapters' wrapper included); None if there is none."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = getattr(inner, HEAD, None)
    if head is None:
        return None
    delattr(inner, HEAD)
    return head.modules_to_save["default"] if hasattr(head, "modules_to_save") else head


def _with_head(adapters: Any) -> Any:
    """Adapters that leave the head alone and carry it along whole."""
    if adapters is not None:
        adapters.modules_to_save = [HEAD]
        adapters.exclude_modules = rf".*\b{HEAD}\b.*"
    return adapters
