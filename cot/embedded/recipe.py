"""The recipe of the embedded reasoner: architecture, mix, optimiser and sizes, all as data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from .problems import LARGEST
from .traces import Verbosity

Size = Literal["test", "default"]


@dataclass(frozen=True)
class Architecture:
    """Llama layout; `heads` query heads share no key-value heads."""

    hidden: int = 192
    layers: int = 4
    heads: int = 3
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

    solve: float = 0.72
    concise: float = 0.10
    careful: float = 0.05
    no_think: float = 0.04
    forced: float = 0.06
    shorten: float = 0.03
    suffix: float = 0.35
    drill: float = 0.5
    drill_later: float = 0.04
    steps: tuple[int, int] = (1, 6)
    largest: int = LARGEST


@dataclass(frozen=True)
class Cycle:
    """One learning-rate cycle: warm-up, plateau, decay; `first_phase` is its share of drills and concise traces."""

    tokens: int = 8_000_000
    batch_tokens: int = 6_144
    decay_share: float = 0.25
    first_phase: float = 0.15
    mix: Mix = field(default_factory=Mix)
    verbosity: Verbosity = field(default_factory=lambda: Verbosity(most_again=0))


LATER_MIX = Mix(solve=0.64, concise=0.14, careful=0.04, no_think=0.02, forced=0.05, shorten=0.03, drill_later=0.2)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights; the same recipe on the same machine gives the same file."""

    size: Size = "default"
    seed: int = 0
    cycles: tuple[Cycle, ...] = (
        Cycle(),
        Cycle(10_000_000, 4_096, decay_share=0.35, first_phase=0.0, mix=LATER_MIX, verbosity=Verbosity()),
    )
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


def recipe_for(size: Size, seed: int = 0, length: float = 1.0) -> Recipe:
    """The recipe of one size; `length` scales the tokens of every cycle."""
    recipe = Recipe(seed=seed)
    if size == "test":
        plain = Mix(
            solve=1,
            concise=0,
            careful=0,
            no_think=0,
            forced=0,
            shorten=0,
            suffix=0,
            drill=0.2,
            steps=(1, 2),
            largest=20,
        )
        recipe = replace(
            recipe,
            size="test",
            cycles=(Cycle(tokens=600_000, batch_tokens=1_024, decay_share=0.4, first_phase=1.0, mix=plain),),
            batches_per_step=1,
            warmup_steps=20,
            architecture=Architecture(hidden=128, layers=2, heads=2, mlp=256),
        )
    return replace(recipe, cycles=tuple(replace(each, tokens=int(each.tokens * length)) for each in recipe.cycles))
