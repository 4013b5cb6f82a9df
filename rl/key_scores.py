"""How much keys are asked for: attention of the newest queries, pooled over neighbours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d


def attention_of(queries: Tensor, keys: Tensor) -> Tensor:
    """Softmax in float32 over ``keys`` (KV heads, n, width) for each of ``queries`` (query heads, r, width).

    Returns:
        (KV heads, queries of a group, r, n); every row sums to 1.
    """
    group = queries.shape[0] // keys.shape[0]
    grouped = queries.float().unflatten(0, (keys.shape[0], group))
    return (grouped @ keys.float().mT[:, None] / keys.shape[-1] ** 0.5).softmax(-1)


def averaged(scores: Tensor, width: int) -> Tensor:
    """Mean over ``width`` neighbours of (heads, n); zeros beyond the ends count."""
    return avg_pool1d(scores, width, 1, width // 2, count_include_pad=True)[..., : scores.shape[-1]]


def strongest(scores: Tensor, width: int) -> Tensor:
    """Maximum over ``width`` neighbours of (heads, n)."""
    return max_pool1d(scores, width, 1, width // 2)[..., : scores.shape[-1]]


def best(scores: Tensor, count: int) -> Tensor:
    """Ascending indices (..., count) of the highest scores (..., n); ties go to the older one."""
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)[..., :count]
    return order.sort(-1).values


def around(first: int, chosen: Tensor, last: int, total: int) -> Tensor:
    """Indices of the first so many, of ``chosen`` (..., n) after them, and of the last of ``total``."""
    shape = (*chosen.shape[:-1], -1)
    head = torch.arange(first, device=chosen.device).expand(shape)
    tail = torch.arange(total - last, total, device=chosen.device).expand(shape)
    return torch.cat([head, chosen + first, tail], -1)
