"""How important words are to a token classifier of the LLMLingua-2 kind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from eval_math.errors import BadInput

WINDOW_TOKENS = 510
"""Tokens that the classifier sees at once, its two special tokens left out."""
KEEP_LABEL = 1


def classifier_importance(model: str, words: Sequence[str]) -> list[float]:
    """P(keep) of each word: the mean over its tokens, the text seen in windows of `WINDOW_TOKENS`.

    Args:
        model: folder or hub id of a token classifier with two labels, the second of which means keep.
        words: a text cut into words, blanks after them included.

    Raises:
        BadInput: no such model, or it is no classifier with two labels.
    """
    tokenizer, network = _load(model)
    pieces = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    flat = [token for piece in pieces for token in piece]
    kept: list[float] = []
    for start in range(0, len(flat), WINDOW_TOKENS):
        kept += _probabilities(tokenizer, network, flat[start : start + WINDOW_TOKENS])
    left = iter(kept)
    return [_mean([next(left) for _ in piece]) for piece in pieces]


@lru_cache(maxsize=1)
def _load(model: str) -> tuple[Any, Any]:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForTokenClassification.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"classifier {model!r}: cannot be loaded ({error}); give a folder or hub id") from error
    if network.config.num_labels != 2:
        raise BadInput(f"classifier {model!r} has {network.config.num_labels} labels; two, drop and keep, are expected")
    return tokenizer, network.eval()


def _probabilities(tokenizer: Any, network: Any, ids: list[int]) -> list[float]:
    import torch

    around = tokenizer.encode("")
    start = (len(around) + 1) // 2
    whole = [*around[:start], *ids, *around[start:]]
    with torch.inference_mode():
        logits = network(input_ids=torch.tensor([whole], device=network.device)).logits[0]
    return logits.float().softmax(-1)[start : start + len(ids), KEEP_LABEL].tolist()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
