"""What a latent reasoner is besides its weights: `latent.json` in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eval_math.errors import BadInput
from eval_math.files import write_json

FILE = "latent.json"
HEAD_FILE = "latent_head.safetensors"
FORMAT = "laconic-latent/1"

RuleName = Literal["gaussian", "mixture", "hidden"]
StopName = Literal["likeliest", "sample", "half", "count"]


@dataclass(frozen=True)
class LatentConfig:
    """How a reasoner thinks between the token ``start_id``, which its prompt ends with, and ``end_id``."""

    method: str
    """The training that made it: colar, latent-sft, coconut, ..."""
    rule: RuleName
    """Where the next input comes from: a Gaussian head, a mixture of token embeddings, or the hidden state itself."""
    start_id: int
    end_id: int
    rates: tuple[int, ...] = (1,)
    """Tokens per latent that it was trained for."""
    speed_text: str = ""
    """Said after the question, with the rate in place of ``{rate}``."""
    top_k: int = 10
    """Tokens of a mixture."""
    embedding_std: float = 1.0
    """Standard deviation of the embedding table's entries: the unit of the Gaussian head."""
    head_width: int = 0
    """Width of the head's hidden layers; 0 = there is no head."""
    deterministic_head: bool = False
    """The head has no spread."""
    stop: StopName = "likeliest"
    """Thinking ends when ``end_id`` is the likeliest token, when it is drawn, when its probability reaches one half,
    or after ``max_steps``."""
    least_steps: int = 0
    max_steps: int = 128
    temperature: float = 1.0
    """Factor of the spread, or of the Gumbel noise, when latents are drawn; 0 draws none."""
    template_hash: str = ""
    """Of tokenizer and chat template."""

    def __post_init__(self) -> None:
        checks = {
            "rates": bool(self.rates) and all(rate >= 1 for rate in self.rates),
            "top_k": self.top_k >= 1,
            "embedding_std": self.embedding_std > 0,
            "head_width": self.head_width >= 0 and (self.head_width > 0) == (self.rule == "gaussian"),
            "least_steps": 0 <= self.least_steps <= self.max_steps,
            "max_steps": self.max_steps >= 1,
            "temperature": 0 <= self.temperature <= 5,
            "start_id": self.start_id >= 0 and self.start_id != self.end_id,
        }
        wrong = next((name for name, good in checks.items() if not good), None)
        if wrong:
            raise BadInput(f"latent reasoner: {wrong}={getattr(self, wrong)!r} is out of range")

    def changed(self, **changes: Any) -> LatentConfig:
        """A copy with those fields whose value is not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def speed(self, rate: int | None) -> str:
        """What the question is followed by; without a rate the smallest of the training that merges tokens.

        Raises:
            BadInput: a rate outside those of the training.
        """
        if rate is None:
            rate = min((each for each in self.rates if each > 1), default=1)
        low, high = min(self.rates), max(self.rates)
        if not low <= rate <= high:
            raise BadInput(f"rate {rate}: this reasoner was trained for {low} to {high} tokens per latent")
        return self.speed_text.replace("{rate}", str(rate))


def write_config(config: LatentConfig, folder: Path) -> None:
    """Write latent.json."""
    write_json(folder / FILE, {"format": FORMAT, **asdict(config), "rates": list(config.rates)})


def is_latent(folder: Path) -> bool:
    """Whether a model folder holds a latent reasoner."""
    return (folder / FILE).is_file()


def read_config(folder: Path) -> LatentConfig:
    """The configuration in a model folder.

    Raises:
        BadInput: none there, damaged, or of another version.
    """
    path = folder / FILE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        found = row.pop("format", None)
        if found != FORMAT:
            raise BadInput(f"{path}: format {found!r} found, {FORMAT} expected; written by another version?")
        return LatentConfig(**{**row, "rates": tuple(row["rates"])})
    except FileNotFoundError as error:
        raise BadInput(
            f"{folder}: no {FILE}, so it is no latent reasoner; `laconic train colar` or `latent-sft` makes one"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); take it anew from the trained model") from error
