"""Short names of methods for figures and tables: only what tells them apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

LONGEST_NAME = 44

_NEXT_METHOD = re.compile(r"\+(?=[a-z][\w-]*(?:[:+]|$))")
_NEXT_PARAMETER = re.compile(r",(?=\w+=)")


def short_names(labels: Sequence[str]) -> list[str]:
    """One name per method label (``name:key=value,...``, several joined by +), in the same order.

    A method that occurs once goes by its name alone. Others add the parameters in which they differ, files without
    their folders. Equal labels give equal names.
    """
    heads = [_head(label) for label in labels]
    count = Counter(dict(zip(labels, heads, strict=True)).values())
    names = []
    for label, head in zip(labels, heads, strict=True):
        if count[head] == 1:
            names.append(_shortened(head))
            continue
        rivals = [_parameters(other) for other, name in zip(labels, heads, strict=True) if name == head]
        own = [p for p in _parameters(label) if not all(p in rival for rival in rivals)]
        names.append(_shortened(f"{head} {', '.join(map(_without_folder, own))}".rstrip()))
    return names


def model_name(model: str) -> str:
    """A model folder's last part; hub ids as they are."""
    return PurePath(model).name if PurePath(model).is_absolute() else model


def _head(label: str) -> str:
    return "+".join(part.partition(":")[0] for part in _NEXT_METHOD.split(label))


def _parameters(label: str) -> list[str]:
    return [p for part in _NEXT_METHOD.split(label) for p in _NEXT_PARAMETER.split(part.partition(":")[2]) if p]


def _without_folder(parameter: str) -> str:
    key, _, value = parameter.partition("=")
    if "/" in value or value.endswith((".safetensors", ".json", ".jsonl")):
        value = PurePath(value).stem
    return f"{key}={value}"


def _shortened(name: str) -> str:
    half = (LONGEST_NAME - 1) // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"
