"""`laconic compress adapt`: each trace at the highest compression that a student still learns from (C3oT_Adapt)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CompressAdapt:
    """Choose a level for each trace of a mixed dataset by training students on the others.

    Costs up to levels x folds x seeds trainings.
    """

    mixed: Path
    """Dataset of `laconic compress c3ot --levels mixed`."""
    out: Path = Path("adapted")
    """Folder: train.jsonl to train on, and the students of the folds, which a second call finds again."""
    levels: tuple[str, ...] = ("level-5", "level-3", "level-1")
    """Highest compression first; what none solves gets the last."""
    folds: int = 2
    """Parts of the samples; a student is trained on all but one."""
    seeds: tuple[int, ...] = (0,)
    """Passes; solved in one is enough."""
    model: str = "embedded"
    """Student: model folder, hub id, or embedded."""
    epochs: float = 2.0
    """Passes of each training over its rows."""
    engine: str = "auto"
    """hf, vllm, or auto; answers for the students."""
    batch_size: int = 32
    """Requests at once."""
    limit: int | None = None
    """Only so many samples."""
    json: str | None = None
    """Write the counts as one JSON object to this file, - for standard output."""


def run(command: CompressAdapt) -> int:
    """Assign levels, write the dataset, print how many samples got which."""
    import json
    import sys

    from cot.c3ot_adapt import Adapt, TrainedPredictor, adapted_rows, assign_levels
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from cot.training.config import SftConfig
    from eval_math.files import read_rows, write_atomic

    from .command import write_figures

    how = Adapt(command.levels, command.folds, command.seeds)
    rows = [row for _, row in read_rows(command.mixed / "train.jsonl")]
    keys = list(dict.fromkeys(row["row_key"] for row in rows))[: command.limit]
    rows = [row for row in rows if row["row_key"] in set(keys)]
    config = SftConfig(model=command.model, epochs=command.epochs, eval_every=0)
    predict = TrainedPredictor(
        rows,
        command.out / "folds",
        config,
        lambda folder: open_engine(EngineConfig(str(folder), command.engine, batch_size=command.batch_size)),
    )
    assigned = assign_levels(predict.available, predict, how)
    made = list(adapted_rows(rows, assigned))
    write_atomic(command.out / "train.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
    counts = Counter(assigned.values())
    shown = sys.stderr if command.json == "-" else sys.stdout
    for level in command.levels:
        print(f"{level:<10}{counts[level]:>7}", file=shown)
    print(f"dataset: {command.out / 'train.jsonl'} ({len(made)} rows)", file=shown)
    write_figures(command.json, {"levels": dict(counts), "rows": len(made), "out": str(command.out)})
    return 0
