"""A router on disk: router.json and weights.safetensors; loading gives the same decisions, to the bit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from eval_math.errors import BadInput
from eval_math.files import write_atomic, write_json

from .fitted import FittedRouter, LiveRouter, RouterConfig, Scale
from .heads import Linear
from .table import Floats

FORMAT = "laconic-router/1"
FILE, WEIGHTS = "router.json", "weights.safetensors"


def save_router(router: FittedRouter, folder: Path) -> None:
    """Write a folder, router.json last.

    Raises:
        StoreError: it cannot be written.
    """
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, save({name: np.ascontiguousarray(each) for name, each in _tensors(router).items()}))
    about = {
        "format": FORMAT,
        "config": asdict(router.config),
        "routes": list(router.routes),
        "methods": dict(router.methods),
        "categories": list(router.categories),
        "far": router.scale.far,
        "price": router.price,
        "dearest": router.dearest,
        "figures": dict(router.figures),
    }
    write_json(folder / FILE, about)


def read_router(folder: Path) -> FittedRouter:
    """Read a folder.

    Raises:
        BadInput: none there, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        if about["format"] != FORMAT:
            raise BadInput(f"{folder}: format {about['format']!r} found, {FORMAT} expected")
        scale = Scale(tensors["mean"], tensors["deviation"], tensors["middle"], float(about["far"]))
        return FittedRouter(
            RouterConfig(**about["config"]),
            tuple(about["routes"]),
            about["methods"],
            tuple(about["categories"]),
            scale,
            Linear(tensors["success.weights"], tensors["success.bias"]),
            tensors["platt"],
            Linear(tensors["tokens.weights"], tensors["tokens.bias"]),
            float(about["price"]),
            float(about["dearest"]),
            about["figures"],
        )
    except FileNotFoundError as error:
        raise BadInput(f"{folder}: no router there ({error.filename}); `laconic route fit` makes one") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadInput(f"{folder}: the router cannot be read ({error}); fit it anew") from error


def load_router(folder: Path) -> LiveRouter:
    """A router ready to decide.

    Raises:
        BadInput: see `read_router`; or its encoder is not the one that it was fitted with.
    """
    fitted = read_router(folder)
    known, found = fitted.figures.get("encoder"), fitted.encoder().fingerprint()
    if known != found:
        raise BadInput(
            f"{folder}: encoder {fitted.config.encoder!r} is not what the router was fitted with (another version?); "
            "fit it anew"
        )
    return LiveRouter(fitted)


def _tensors(router: FittedRouter) -> dict[str, Floats]:
    return {
        "mean": router.scale.mean,
        "deviation": router.scale.deviation,
        "middle": router.scale.middle,
        "success.weights": router.success.weights,
        "success.bias": router.success.bias,
        "platt": router.platt,
        "tokens.weights": router.log_tokens.weights,
        "tokens.bias": router.log_tokens.bias,
    }
