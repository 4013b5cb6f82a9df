"""The embedded reasoner: a two-million-parameter model that over-thinks, shipped with the package.

It is the default model of every command and the fixture of the tests. This module imports neither torch nor
transformers; `problems` and `traces` are pure Python.
"""

from __future__ import annotations

from pathlib import Path

from eval_math.errors import BadInput

from .problems import EmbeddedProblem, make_problems

MODEL_PATH: Path = Path(__file__).resolve().parent / "model"
MODEL_NAME = "embedded"

__all__ = ["MODEL_NAME", "MODEL_PATH", "EmbeddedProblem", "embedded_model_path", "make_problems"]


def embedded_model_path() -> Path:
    """Folder of the shipped checkpoint, ready for `from_pretrained` and for vLLM."""
    if not (MODEL_PATH / "model.safetensors").is_file():
        raise BadInput(
            f"no embedded checkpoint in {MODEL_PATH}; train one with `laconic train embedded --out {MODEL_PATH}`"
        )
    return MODEL_PATH
