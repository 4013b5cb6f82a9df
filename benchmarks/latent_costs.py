"""What latents cost: a training step of CoLaR beside explicit fine-tuning, and the store of soft labels.

    python -m benchmarks.latent_costs [--pairs 7] [--json FILE]

Step time: seconds per update on the same rows, the same number of positions (CoLaR at rate 1, which has as many as
explicit fine-tuning and a head besides; and at rate 2, which has fewer), interleaved; goal: at most 1.3 times. Store:
bytes written for 20,000 rows against the formula, and the formula for 385,000.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.interleaved import measure

MOST = 1.3


@dataclass(frozen=True)
class LatentCosts:
    """Step times and bytes."""

    updates: int = 10
    batch_size: int = 32
    pairs: int = 7
    """Interleaved pairs."""
    labels: int = 20_000
    """Rows of the store that is written."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: LatentCosts) -> int:
    """Measure and print; exit code 1 where a goal is missed."""
    from benchmarks.latents import write_rows
    from scripts.command import write_figures

    found: dict[str, Any] = {"store": store(command.labels)}
    print(f"store: {found['store']}")
    holds = True
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary) / "rows.jsonl"
        write_rows(rows, command.updates * command.batch_size)
        for rate in (1, 2):
            ratio = measure(
                f"explicit updates/s over CoLaR's at rate {rate}",
                lambda: 1 / _seconds(command, rows, 0),
                lambda rate=rate: 1 / _seconds(command, rows, rate),
                pairs=command.pairs,
                goal=0.0,
            )
            holds = holds and ratio.ratio <= MOST
            print(f"{ratio.name}: {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], at most {MOST}")
            found[f"rate {rate}"] = asdict(ratio)
    write_figures(command.json, found)
    return int(not holds)


def store(rows: int, latents: int = 13, top_k: int = 10) -> dict[str, float]:
    """Bytes of ``rows`` rows of ``latents`` latents, written and by formula, and the formula at GSM8K-Aug's size."""
    from latent.labels import FILES, LabelWriter, store_bytes

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        writer = LabelWriter(folder, top_k, {})
        for _ in range(rows):
            writer.append(rng.integers(0, 128_000, (latents, top_k)), rng.dirichlet(np.ones(top_k), latents))
        writer.close()
        written = sum((folder / name).stat().st_size for name in FILES)
    return {
        "rows": rows,
        "bytes": written,
        "bytes_by_formula": store_bytes(rows, latents, top_k),
        "gigabytes_of_385k_rows": store_bytes(385_000, latents, top_k) / 1e9,
    }


def _seconds(command: LatentCosts, rows: Path, rate: int) -> float:
    """Seconds per update of a training: explicit at rate 0."""
    from cot.training.config import SftConfig
    from cot.training.session import Session
    from cot.training.sft import Sft
    from latent.colar_task import Colar
    from latent.settings import ColarConfig

    size = command.batch_size
    usual: dict[str, Any] = {"batch_size": size, "micro_batch": size, "epochs": 1, "eval_every": 0, "save_every": 10**6}
    config = ColarConfig(rates=(rate,), **usual) if rate else SftConfig(**usual)
    task = Colar(config) if isinstance(config, ColarConfig) else Sft()
    with tempfile.TemporaryDirectory() as temporary:
        outcome = Session(task, config, rows, Path(temporary) / "out").run()
    return float(str(outcome.figures["seconds"])) / outcome.updates


if __name__ == "__main__":
    sys.exit(run(tyro.cli(LatentCosts, description=__doc__)))
