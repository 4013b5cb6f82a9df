"""A finished dataset in other forms: chat messages, arrow, parquet, the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval_math.errors import BadInput, EngineError
from eval_math.files import read_rows, write_atomic
from eval_math.records import Json

from .dataset import TRAIN, VALIDATION
from .manifest import SUCCESS

if TYPE_CHECKING:
    from datasets import DatasetDict

Form = Literal["messages", "arrow", "parquet"]
TURNS = ("prompt", "completion", "chosen", "rejected")
MESSAGES = "messages"


def export_dataset(folder: Path, forms: Sequence[Form]) -> list[Path]:
    """Write the dataset in ``folder`` in further forms; the paths that were made.

    messages: ``messages-SPLIT.jsonl``, prompt and completion as one conversation. arrow: a folder that
    `datasets.load_from_disk` reads. parquet: ``parquet/SPLIT.parquet``. Columns have fixed types, so that a value that
    is missing in the first rows changes none.

    Raises:
        BadInput: the folder holds no finished dataset.
    """
    made = []
    if "messages" in forms:
        made += [_write_messages(folder, name) for name in _splits(folder)]
    if "arrow" in forms:
        load_dataset(folder).save_to_disk(folder / "arrow")
        made.append(folder / "arrow")
    if "parquet" in forms:
        (folder / "parquet").mkdir(exist_ok=True)
        for split, rows in load_dataset(folder).items():
            path = folder / "parquet" / f"{split}.parquet"
            rows.to_parquet(path)
            made.append(path)
    return made


def load_dataset(folder: Path) -> DatasetDict:
    """The dataset as `datasets` holds it, one split per file; nested columns that differ by row are JSON text.

    Raises:
        BadInput: the folder holds no finished dataset.
    """
    from datasets import Dataset, DatasetDict

    return DatasetDict(
        {
            name.removesuffix(".jsonl"): Dataset.from_list(list(_flat_rows(folder / name)), features=_features(folder))
            for name in _splits(folder)
        }
    )


def push_dataset(folder: Path, name: str) -> None:
    """Upload the folder's files, card included, as the dataset ``name`` of the hub.

    Raises:
        BadInput: the folder holds no finished dataset.
        EngineError: the hub refused or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    _splits(folder)
    files = [TRAIN, VALIDATION, "README.md", "stats.json", "manifest.json"]
    try:
        hub = HfApi()
        hub.create_repo(name, repo_type="dataset", exist_ok=True)
        hub.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, allow_patterns=files)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise EngineError(
            f"dataset {name!r} was not uploaded ({error}); check the name, your token and access"
        ) from error


def _splits(folder: Path) -> list[str]:
    if not (folder / SUCCESS).exists():
        raise BadInput(f"{folder}: no finished dataset there; run the command that makes it to its end")
    return [name for name in (TRAIN, VALIDATION) if (folder / name).exists()]


def _write_messages(folder: Path, name: str) -> Path:
    lines = []
    for _, row in read_rows(folder / name):
        turns = [*row["prompt"], *row["completion"]]
        kept = {key: value for key, value in row.items() if key not in TURNS}
        lines.append(json.dumps({"messages": turns, **kept}, ensure_ascii=False) + "\n")
    path = folder / f"{MESSAGES}-{name}"
    write_atomic(path, "".join(lines))
    return path


def _flat_rows(path: Path) -> Iterator[dict[str, Json]]:
    for _, row in read_rows(path):
        yield {key: json.dumps(value, ensure_ascii=False) if _is_loose(value) else value for key, value in row.items()}


def _is_loose(value: Any) -> bool:
    return isinstance(value, dict)


def _features(folder: Path) -> Any:
    """Column types out of every row's names: text unless a name says that it is a number or a conversation."""
    from datasets import Features, Value

    names = dict.fromkeys(key for name in _splits(folder) for _, row in read_rows(folder / name) for key in row)
    turn = {"role": Value("string"), "content": Value("string")}
    types: dict[str, Any] = {}
    for name in names:
        if name in TURNS:
            types[name] = [turn]
        elif name.startswith("n_"):
            types[name] = Value("int64")
        else:
            types[name] = Value("float64") if name.startswith("ratio_") else Value("string")
    return Features(types)
