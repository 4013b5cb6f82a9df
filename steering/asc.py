"""ASC: activation-steered compression (arXiv 2507.04742).

h <- h + gamma * v at the output of one block, for every state that predicts a token of the chain of thought, with v
the mean difference of short and long traces (`extraction`).

Departures from the paper: steering stops at the end of thinking, so that the answer keeps its form (``until="eos"``
is the paper's); gamma comes from a sweep on a dev set, not from the paper's bound.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cot.engine import Engine, ModelAccess
from cot.method import Method
from eval_math.errors import BadInput
from eval_math.records import Json, unit_seed

from .counting import PromptTokens, Until, Window
from .gate import gate_texts, gate_tokens
from .operators import MODES, Mode
from .sums import add_up, parse_sum

if TYPE_CHECKING:
    import torch

    from .vector import SteeringVector

Direction = Literal["vector", "random", "negative"]


@dataclass(frozen=True)
class Asc(Method):
    """Adds a steering vector while the model thinks."""

    name: ClassVar[str] = "asc"
    summary: ClassVar[str] = "activation-steered compression: a vector added to the residual stream while thinking"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "score", "steer"})

    vector: str
    """Vector file (`laconic steer extract`), or several added up: a.safetensors*0.5;b.safetensors*-1 (a file without a
    weight has its own strength)."""
    block: int | None = None
    """Block to steer, from 0; None = the file's."""
    strength: float | None = None
    """Multiple of the direction, in the file's unit; None = the file's."""
    prompt: PromptTokens = "last"
    """Prompt tokens to steer: last (it predicts the first output token), all, none."""
    until: Until = "end_of_think"
    """Where steering stops: end_of_think, or eos."""
    mode: Mode = "add"
    """add, add_preserve_norm, ablate (strength = share taken out), clamp or replace (strength = projection)."""
    stop: int | None = None
    """Steer only the first so many output tokens."""
    fade: int | None = None
    """Let the strength fall to 0 over the first so many output tokens."""
    gate: str = ""
    """Steer only states whose fed token holds one of these texts, separated by ; (a line break is \\n); empty = all."""
    direction: Direction = "vector"
    """vector, or a null baseline: random (of equal norm) or negative."""
    seed: int = 0
    """Of the random direction."""

    def __post_init__(self) -> None:
        for field, known in (
            ("prompt", ("last", "all", "none")),
            ("until", ("end_of_think", "eos")),
            ("direction", ("vector", "random", "negative")),
            ("mode", MODES),
        ):
            if getattr(self, field) not in known:
                raise BadInput(f"asc: {field}={getattr(self, field)!r}, expected one of {', '.join(known)}")
        Window(0, self.stop, self.fade)

    def check(self, engine: Engine) -> None:
        """Refuse a vector that does not fit the model, or has no direction at the block.

        Raises:
            BadInput: the file cannot be used with this model.
        """
        self._steps(engine)
        self._gate(engine)

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Steer the engine for the length of a ``with`` block; yields a `SteerCount`.

        Raises:
            BadInput: the file cannot be used with this model, or the engine cannot be steered.
        """
        from .application import Steering, steer

        vector = self._load()
        window = Window(0, self.stop, self.fade)
        steering = Steering(
            self._steps(engine),
            self.prompt,
            self.until,
            self._strength(vector),
            self.mode,
            window,
            gate=self._gate(engine),
        )
        return steer(engine, steering)

    def fingerprint(self) -> dict[str, Json]:
        """Hyper-parameters with the file's defaults filled in, and a hash of the directions instead of the path."""
        vector = self._load()
        seed = {"seed": self.seed} if self.direction == "random" else {}
        return {
            "name": self.name,
            "vector": vector.digest(),
            "blocks": list(self._blocks(vector)),
            "strength": self._strength(vector),
            "prompt": self.prompt,
            "until": self.until,
            "direction": self.direction,
            **seed,
            **({"gate": list(self._gate_texts())} if self._gate_texts() else {}),
            **{
                name: getattr(self, name)
                for name in ("mode", "stop", "fade")
                if getattr(self, name) not in ("add", None)
            },
        }

    def label(self) -> str:
        """Name and the parameters that differ from their defaults; of the file, its name."""
        shown = [
            f"{f.name}={self._file_names() if f.name == 'vector' else getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}:{','.join(shown)}"

    def _file_names(self) -> str:
        parts = parse_sum(self.vector)
        return ";".join(path.stem + ("" if weight is None else f"*{weight:g}") for path, weight in parts)

    def _load(self) -> SteeringVector:
        parts = [(_load(path, _modified(path)), weight) for path, weight in parse_sum(self.vector)]
        return parts[0][0] if len(parts) == 1 and parts[0][1] is None else add_up(parts)

    def _gate_texts(self) -> tuple[str, ...]:
        return gate_texts(self.gate)

    def _gate(self, engine: Engine) -> frozenset[int] | None:
        texts = self._gate_texts()
        return gate_tokens(engine.identity.model, texts) if texts else None

    def _check_fit(self, vector: SteeringVector, engine: Engine) -> None:
        from .sites import model_shape
        from .vector import check_fit

        if isinstance(engine, ModelAccess):
            check_fit(vector, engine.apply_model(model_shape), engine.identity.model)

    def _steps(self, engine: Engine) -> dict[int, torch.Tensor]:
        vector = self._load()
        self._check_fit(vector, engine)
        return {block: self._step(vector, block) for block in self._blocks(vector)}

    def _blocks(self, vector: SteeringVector) -> tuple[int, ...]:
        return vector.info.apply_layers if self.block is None else (self.block,)

    def _strength(self, vector: SteeringVector) -> float:
        strength = vector.info.gamma if self.strength is None else self.strength
        if strength is None:
            raise BadInput(
                f"asc: {self.vector} names no strength; give strength=..., or find one with `laconic steer sweep`"
            )
        return float(strength)

    def _step(self, vector: SteeringVector, block: int) -> torch.Tensor:
        step = vector.step(block, 1.0)
        if self.direction == "random":
            return _random_like(step, unit_seed(self.seed, "random direction", block))
        return -step if self.direction == "negative" else step


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _load(path: Path, modified: int) -> SteeringVector:
    from .vector import load_vector

    return load_vector(path)


def _random_like(step: torch.Tensor, seed: int) -> torch.Tensor:
    """A random direction of the same norm, the same on every machine."""
    import torch

    drawn = torch.randn(step.shape, generator=torch.Generator().manual_seed(seed))
    return drawn * (step.norm() / drawn.norm())
