"""What the objectives share: the blocks of a model without its output layer, and the loss of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .layout import IGNORED


def backbone(model: Any) -> Any:
    """The model without its output layer."""
    return model.get_decoder()


def token_loss(model: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy in nats of ``labels`` (B, T), each predicted one position before; logits only there."""
    wanted = labels[:, 1:]
    kept = wanted != IGNORED
    logits = model.get_output_embeddings()(hidden[:, :-1][kept])
    return torch.nn.functional.cross_entropy(logits.float(), wanted[kept], reduction="sum")
