"""A router on disk: router.json and weights.safetensors; loading gives the same decisions, to the bit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput
from eval_math.files import write_atomic, write_json

from .calibration import Calibration
from .fitted import FittedRouter, LiveRouter, RouterConfig, Scale
from .heads import Linear
from .table import Floats

FORMAT = "laconic-router/2"
FILE, WEIGHTS = "router.json", "weights.safetensors"


def save_router(router: FittedRouter, folder: Path) -> None:
    """Write a folder, router.json last.

    Raises:
        StoreError: it cannot be written.
    """
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: np.ascontiguousarray(each) for name, each in _tensors(router).items()})
    write_atomic(folder / WEIGHTS, weights)
    about = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
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
        BadInput: none there, damaged, or of two fits.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r} found, {FORMAT} expected")
        weights = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != about["weights_sha256"]:
            raise ValueError(f"{WEIGHTS} is not the file that {FILE} belongs to")
        return _router(about, load(weights))
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


def _tensors(router: FittedRouter) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "mean": router.scale.mean,
        "deviation": router.scale.deviation,
        "shares": router.scale.shares,
        "middle": router.scale.middle,
        "success.weights": router.success.weights,
        "success.bias": router.success.bias,
        "calibration": router.calibration.numbers,
        "tokens.weights": router.log_tokens.weights,
        "tokens.bias": router.log_tokens.bias,
        "by_category": router.by_category,
        "seen": router.seen,
    }


def _router(about: dict[str, Any], tensors: dict[str, Any]) -> FittedRouter:
    config, price = RouterConfig(**about["config"]), about["price"]
    middle: Floats = tensors["middle"]
    return FittedRouter(
        config,
        tuple(about["routes"]),
        about["methods"],
        tuple(about["categories"]),
        Scale(tensors["mean"], tensors["deviation"], tensors["shares"], middle, float(about["far"])),
        Linear(tensors["success.weights"], tensors["success.bias"]),
        Calibration(config.calibration, tensors["calibration"]),
        Linear(tensors["tokens.weights"], tensors["tokens.bias"]),
        tensors["by_category"],
        tensors["seen"],
        None if price is None else float(price),
        float(about["dearest"]),
        about["figures"],
    )
