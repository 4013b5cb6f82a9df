"""Where steering happens: the output of a decoder block, in any decoder model.

Blocks are counted from 0. The output of block ``b`` is the residual stream after it: entry ``b + 1`` of
transformers' ``hidden_states``, except for the last block, whose entry there is taken after the final norm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cot.engine import Engine, ModelAccess
from eval_math.errors import BadInput

if TYPE_CHECKING:
    import torch

BLOCK_LISTS = (
    "model.layers",
    "model.decoder.layers",
    "model.language_model.layers",
    "transformer.h",
    "gpt_neox.layers",
)


@dataclass(frozen=True)
class ModelShape:
    """What a vector must fit: width of the residual stream, number of blocks, kind of model."""

    hidden_size: int
    num_layers: int
    model_type: str


def find_blocks(model: Any) -> torch.nn.ModuleList:
    """The list of decoder blocks of ``model``.

    Raises:
        BadInput: none of the usual places (`BLOCK_LISTS`) holds a list of modules.
    """
    import torch

    for path in BLOCK_LISTS:
        found = _at(model, path)
        if isinstance(found, torch.nn.ModuleList) and len(found):
            return found
    raise BadInput(f"{type(model).__name__}: no decoder blocks found; looked for {', '.join(BLOCK_LISTS)}")


def model_shape(model: Any) -> ModelShape:
    """Width, depth and kind of a torch model.

    Raises:
        BadInput: the model's configuration does not tell its hidden size.
    """
    config = getattr(model, "config", None)
    get_text = getattr(config, "get_text_config", None)
    text = get_text() if get_text is not None else config
    width = getattr(text, "hidden_size", None)
    if not isinstance(width, int):
        raise BadInput(
            f"{type(model).__name__}: its configuration has no hidden_size, so no vector can be fitted to it"
        )
    return ModelShape(width, len(find_blocks(model)), str(getattr(text, "model_type", "unknown")))


def engine_shape(engine: Engine) -> ModelShape:
    """`model_shape` of an engine's model.

    Raises:
        BadInput: the engine's model is not in this process.
    """
    if not isinstance(engine, ModelAccess):
        raise BadInput(f"engine {engine.identity.engine!r}: its model is not in this process; use hf or vllm")
    return engine.apply_model(model_shape)


def check_blocks(blocks: Iterable[int], num_layers: int) -> tuple[int, ...]:
    """``blocks`` sorted, without repeats.

    Raises:
        BadInput: none given, or one outside 0 ... ``num_layers - 1``.
    """
    chosen = tuple(sorted(set(blocks)))
    wrong = [b for b in chosen if not 0 <= b < num_layers]
    if wrong or not chosen:
        given = ", ".join(map(str, wrong)) or "none"
        raise BadInput(f"blocks: {given} given, 0 ... {num_layers - 1} expected (counted from 0)")
    return chosen


def parse_blocks(text: str, num_layers: int) -> tuple[int, ...]:
    """Blocks out of ``all``, ``3``, ``1,2,5`` or ``8-12``.

    Raises:
        BadInput: not of that form, or out of range.
    """
    if text == "all":
        return tuple(range(num_layers))
    chosen: set[int] = set()
    for piece in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", piece)
        if found is None:
            raise BadInput(f"blocks: {text!r} given; expected all, a number, a list 1,2,5 or a range 8-12")
        chosen |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    return check_blocks(chosen, num_layers)


def block_output(output: Any) -> torch.Tensor:
    """The residual stream in what a block returned: (batch, time, hidden) or, in vLLM, (tokens, hidden).

    transformers blocks return it alone or first in a tuple; vLLM blocks return a pair whose sum it is.
    """
    if not isinstance(output, tuple):
        return output
    return output[0] + output[1] if _is_residual_pair(output) else output[0]


def replace_output(output: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """What the block returned with ``change`` applied to its additive part; tuples keep their other entries."""
    if not isinstance(output, tuple):
        return change(output)
    return (change(output[0]), *output[1:])


def _is_residual_pair(output: tuple[Any, ...]) -> bool:
    return len(output) == 2 and getattr(output[1], "shape", None) == output[0].shape


def _at(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name, None)
    return model
