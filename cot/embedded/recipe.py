"""The recipe of the embedded reasoner: architecture, mix, optimiser and sizes, all as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eval_math.errors import BadInput

from .problems import LARGEST
from .traces import Verbosity

Size = Literal["test", "default", "large"]


@dataclass(frozen=True)
class Architecture:
    """Llama layout; `heads` query heads share no key-value heads."""

    hidden: int = 192
    layers: int = 4
    heads: int = 4
    head_dim: int = 64
    mlp: int = 512
    max_positions: int = 4096
    rope_theta: float = 10_000.0


@dataclass(frozen=True)
class Mix:
    """Shares of row kinds in the main phase (relative weights) and how prompts are worded.

    `drill` is the share of drills in the first phase, `drill_later` in the main phase; `suffix` is the share of prompts
    that end in a neutral instruction.
    """

    solve: float = 0.54
    concise: float = 0.13
    careful: float = 0.04
    no_think: float = 0.12
    forced: float = 0.05
    shorten: float = 0.12
    suffix: float = 0.35
    drill: float = 0.5
    drill_later: float = 0.18
    steps: tuple[int, int] = (1, 6)
    largest: int = LARGEST


@dataclass(frozen=True)
class Cycle:
    """One learning-rate cycle: warm-up, plateau, decay; `first_phase` is its share of drills and concise traces.

    `peak` scales the recipe's learning rates.
    """

    tokens: int = 18_000_000
    batch_tokens: int = 2_048
    decay_share: float = 0.4
    first_phase: float = 0.12
    peak: float = 1.0
    mix: Mix = field(default_factory=Mix)
    verbosity: Verbosity = field(default_factory=Verbosity)


POLISH = Cycle(
    tokens=2_500_000,
    decay_share=0.8,
    first_phase=0.0,
    peak=0.4,
    mix=Mix(solve=0.42, concise=0.1, careful=0.03, no_think=0.1, forced=0.05, shorten=0.3, drill_later=0.15),
)
"""A short second cycle: shortening needs more practice than the first leaves room for."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights; the same recipe on the same machine gives the same file."""

    size: Size = "default"
    seed: int = 0
    cycles: tuple[Cycle, ...] = (Cycle(), POLISH)
    batches_per_step: int = 2
    muon_lr: float = 4e-3
    adam_lr: float = 3e-3
    weight_decay: float = 0.02
    warmup_steps: int = 60
    ema: float = 0.99
    gradient_clip: float = 1.0
    architecture: Architecture = field(default_factory=Architecture)

    @property
    def tokens(self) -> int:
        """Training length over all cycles, in tokens."""
        return sum(cycle.tokens for cycle in self.cycles)


PLAIN_MIX = Mix(
    solve=1, concise=0, careful=0, no_think=0, forced=0, shorten=0, suffix=0, drill=0.2, steps=(1, 2), largest=20
)


def recipe_for(size: Size, seed: int = 0, length: float = 1.0) -> Recipe:
    """The recipe of one size; `length` scales the tokens of every cycle.

    `large` has never been trained: it is a start for a GPU, with 12 layers of 8 KV heads and five times the tokens.
    """
    recipe = Recipe(size=size, seed=seed)
    if size == "test":
        recipe = replace(
            recipe,
            cycles=(Cycle(tokens=600_000, batch_tokens=1_024, decay_share=0.4, first_phase=1.0, mix=PLAIN_MIX),),
            batches_per_step=1,
            warmup_steps=20,
            architecture=Architecture(hidden=128, layers=2, heads=2, mlp=256),
        )
    if size == "large":
        recipe = replace(
            recipe,
            cycles=(Cycle(tokens=90_000_000, batch_tokens=8_192),),
            architecture=Architecture(hidden=512, layers=12, heads=8, mlp=1536),
        )
    return replace(recipe, cycles=tuple(replace(each, tokens=int(each.tokens * length)) for each in recipe.cycles))


def read_recipe(path: Path) -> Recipe:
    """A recipe from a JSON file: the object `recipe` of a card.json, or that object alone; what it lacks is as here.

    Raises:
        BadInput: no such file, not JSON, an unknown name, or a value of another type.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error}); expected a card.json or its recipe") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: expected an object, found {type(found).__name__}")
    return _filled(Recipe(), found.get("recipe", found), str(path))


def _filled(default: Any, values: Mapping[str, Any], where: str) -> Any:
    """``default`` with the values of a JSON object, recursively.

    Cycles are read one by one, each against the default's first.
    """
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if not hasattr(default, name):
            raise BadInput(f"{where}: unknown name {name!r}; expected one of {', '.join(vars(default))}")
        current: Any = getattr(default, name)
        if name == "cycles" and isinstance(value, list):
            changes[name] = tuple(_filled(current[0], each, f"{where}, cycles") for each in value)
        elif is_dataclass(current) and isinstance(value, dict):
            changes[name] = _filled(current, value, f"{where}, {name}")
        else:
            changes[name] = _typed(current, value, f"{where}, {name}")
    return replace(default, **changes)


def _typed(current: Any, value: Any, where: str) -> Any:
    if isinstance(current, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(current):
        raise BadInput(f"{where}: {value!r} given, a value like {current!r} expected")
    return value
