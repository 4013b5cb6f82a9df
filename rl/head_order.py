"""KV heads in another order: those that keep everything first, so that both groups are slices and nothing is gathered.

Rows of the query, key and value projections and columns of the output projection move together, so that the model says
the same up to the order of float sums (RLKV, arXiv 2510.08525, section 8). Per-head norms (Qwen3) are shared by all
heads and stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from eval_math.errors import BadInput
from steering.sites import find_blocks

from .head_table import Kept


@contextmanager
def reordered(model: Any, kept: Kept) -> Iterator[Kept]:
    """The model with whole heads first in every layer, as long as the block lasts; gives ``kept`` in the new order.

    The weights are then put back bit for bit.

    Raises:
        BadInput: another number of layers or heads, or projections that are no plain matrices.
    """
    modules: list[Any] = [block.self_attn for block in find_blocks(model)]
    config = model.config.get_text_config()
    if len(kept) != len(modules) or any(len(row) != config.num_key_value_heads for row in kept):
        raise BadInput(
            f"{len(kept)} layers of heads given; the model has {len(modules)} x {config.num_key_value_heads}"
        )
    orders = [sorted(range(len(row)), key=lambda head, row=row: not row[head]) for row in kept]
    for module in modules:
        _check(module)
    try:
        for module, order in zip(modules, orders, strict=True):
            _permute(module, order, config.num_attention_heads // config.num_key_value_heads)
        yield tuple(tuple(sorted(row, reverse=True)) for row in kept)
    finally:
        for module, order in zip(modules, orders, strict=True):
            back = sorted(range(len(order)), key=order.__getitem__)
            _permute(module, back, config.num_attention_heads // config.num_key_value_heads)


def _permute(module: Any, order: Sequence[int], group: int) -> None:
    width = module.head_dim
    single = _blocks(order, width)
    grouped = _blocks([head * group + each for head in order for each in range(group)], width)
    with torch.no_grad():
        for name, rows in (("q_proj", grouped), ("k_proj", single), ("v_proj", single)):
            projection = getattr(module, name)
            projection.weight.copy_(projection.weight[rows])
            if projection.bias is not None:
                projection.bias.copy_(projection.bias[rows])
        module.o_proj.weight.copy_(module.o_proj.weight[:, grouped])


def _blocks(heads: Sequence[int], width: int) -> Tensor:
    return torch.tensor([head * width + at for head in heads for at in range(width)])


def _check(module: Any) -> None:
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        weight = getattr(getattr(module, name, None), "weight", None)
        if not isinstance(weight, torch.nn.Parameter) or not weight.is_floating_point():
            raise BadInput(f"{type(module).__name__}.{name} is no plain matrix (fused or quantised); leave the order")
