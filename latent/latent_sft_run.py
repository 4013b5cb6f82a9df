"""All of Latent-SFT one after the other: encoder and decoder, soft labels, the model that thinks by itself.

OUT-stage1/encoder, decoder, union   trainings of stage 1, each a plain model folder with its encoder
OUT-stage1/labels                    the soft labels, and in compression.json how much of the thoughts they hold
OUT                                  the finished reasoner
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cot.chat import model_hash, open_chat
from cot.progress import Progress
from cot.training.data import Encoder
from cot.training.rows import find_data, read_sft_rows
from cot.training.session import Outcome, Session
from cot.training.student import load_model
from eval_math.files import write_json
from eval_math.records import Json

from .compression import effective_rates
from .labels import LabelWriter, read_labels
from .latent_sft_task import LatentChains, LatentVocabulary, load_encoder, soft_chains
from .layout import Parts
from .rows import latent_row
from .settings import LatentSftConfig

FIGURES = "compression.json"
Run = Callable[[Session], Outcome]
"""Runs a session with whatever words around it."""


def stage_one(config: LatentSftConfig, data: Path, out: Path, run: Run) -> Path:
    """Train the parts of stage 1 in order; returns the folder of the last one."""
    model, encoder = Path(config.model), None
    for part in config.stages:
        folder = out.with_name(f"{out.name}-stage1") / part
        settings = replace(config, model=str(model), epochs=config.stage_epochs, eval_every=0)
        run(Session(LatentVocabulary(settings, part, encoder), settings, data, folder))
        model = encoder = folder
    return model


def make_labels(config: LatentSftConfig, data: Path, out: Path, stage: Path) -> Path:
    """Write the soft labels of all rows, going on where an earlier call stopped; returns their folder."""
    found = find_data(data)
    folder = out.with_name(f"{out.name}-stage1") / "labels"
    made_of: dict[str, Json] = {
        "data": found.sha256(),
        "limit": config.limit,
        "model": model_hash(stage),
        "rate": config.rate,
        "projection": config.projection,
    }
    encoder = Encoder(open_chat(stage))
    rows = [latent_row(encoder, row, (1,), "").parts(1) for row in read_sft_rows(found, config.limit)]
    writer = LabelWriter(folder, config.top_k, made_of)
    try:
        _write(writer, config, rows, stage)
    finally:
        writer.close()
    write_json(folder / FIGURES, effective_rates(read_labels(folder), rows, config.rate))
    return folder


def _write(writer: LabelWriter, config: LatentSftConfig, rows: Sequence[Parts], stage: Path) -> None:
    waiting = rows[writer.rows :]
    if not waiting:
        return
    model = load_model(stage, replace(config, tuning="full"))
    model.eval()
    with Progress("soft labels", len(rows), writer.rows) as progress:
        for ids, weights in soft_chains(model, load_encoder(model, stage).eval(), waiting, config):
            writer.append(ids, weights)
            progress.answered(len(ids))


def train_latent_sft(config: LatentSftConfig, data: Path, out: Path, run: Run, *, overwrite: bool = False) -> Outcome:
    """Everything; what is finished is left alone.

    Args:
        overwrite: delete an earlier stage 1 first.
    """
    if overwrite:
        shutil.rmtree(out.with_name(f"{out.name}-stage1"), ignore_errors=True)
    stage = stage_one(config, data, out, run)
    labels = read_labels(make_labels(config, data, out, stage))
    settings = replace(config, model=str(stage), eval_benchmark=config.benchmark)
    return run(Session(LatentChains(settings, labels), settings, data, out))
