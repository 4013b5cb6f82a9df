"""Training rows out of JSON lines or a saved dataset, checked one by one.

    {"id": ..., "prompt": [{"role", "content"}, ...], "completion": [{"role": "assistant", "content": ...}]}
    {"id": ..., "prompt": [...], "chosen": [{"role": "assistant", ...}], "rejected": [{"role": "assistant", ...}]}

``id`` and ``condition`` are optional, other columns are ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from eval_math.errors import BadInput
from eval_math.files import read_rows
from eval_math.records import Message

from ..datagen.manifest import MANIFEST, SUCCESS

ROLES = ("system", "user", "assistant")
HELD_OUT = frozenset({"validation", "valid", "val", "dev", "test", "eval"})
"""A file with one of these words in its name is not trained on."""
DATASET_MARKS = ("dataset_info.json", "dataset_dict.json", "state.json")
FORMAT = "a row is {prompt: [{role, content}, ...], completion: [{role: assistant, content}]}, see docs/training.md"
PAIR_FORMAT = (
    "a pair is {prompt: [{role, content}, ...], chosen: [{role: assistant, content}], rejected: [...]}, as in the file "
    "pairs.jsonl of `laconic compress shortest`, see docs/training.md"
)


@dataclass(frozen=True)
class SftRow:
    """A conversation and the answer to be learnt. ``where`` names file and line."""

    id: str
    prompt: tuple[Message, ...]
    completion: str
    condition: str | None
    where: str


@dataclass(frozen=True)
class PairRow:
    """A conversation and two answers, the first to be preferred."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    where: str


@dataclass(frozen=True)
class DataFiles:
    """The files of one data set, in reading order; ``arrow`` for a folder that the library datasets saved."""

    path: Path
    files: tuple[Path, ...]
    arrow: bool

    def sha256(self) -> str:
        """Hash of the contents, file after file."""
        total = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as handle:
                while chunk := handle.read(1 << 20):
                    total.update(chunk)
        return total.hexdigest()

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(where, row), in order."""
        if self.arrow:
            return _arrow_rows(self.path)
        return ((f"{file}, line {n}", row) for file in self.files for n, row in read_rows(file))


def find_data(path: Path) -> DataFiles:
    """The data set behind a file or a folder: JSON lines (also gzipped), ``train*.jsonl`` or ``data*.jsonl`` in a
    folder (only those with ``train`` in their name if there are such, and none that is named for what is held out),
    or a folder saved by ``Dataset.save_to_disk``, also as a subfolder ``datasets``.

    Raises:
        BadInput: nothing of the kind is there, or `laconic compress` has not finished the folder.
    """
    if path.is_file():
        return DataFiles(path, (path,), arrow=False)
    if not path.is_dir():
        raise BadInput(f"{path}: no such file or folder; give training rows as JSON lines, or a folder of them")
    if (path / MANIFEST).is_file() and not (path / SUCCESS).is_file():
        raise BadInput(f"{path}: this dataset is not finished; run the `laconic compress` command to its end first")
    lines = sorted(file for start in ("train", "data") for file in path.glob(f"{start}*.jsonl*") if _is_lines(file))
    if lines:
        return DataFiles(path, tuple([f for f in lines if "train" in f.name] or lines), arrow=False)
    for folder in (path, path / "datasets"):
        if any((folder / mark).is_file() for mark in DATASET_MARKS):
            return DataFiles(folder, tuple(sorted(folder.rglob("*.arrow"))), arrow=True)
    raise BadInput(f"{path}: neither train*.jsonl, data*.jsonl nor a saved dataset in it; {FORMAT}")


def _is_lines(file: Path) -> bool:
    held_out = HELD_OUT & set(re.split(r"[^a-z]+", file.name.lower()))
    return file.name.endswith((".jsonl", ".jsonl.gz")) and not held_out


def read_sft_rows(data: DataFiles, limit: int | None = None) -> list[SftRow]:
    """Rows for supervised training.

    Raises:
        BadInput: a malformed row, by file and line, or no row at all.
    """
    return _some([_sft_row(where, row) for where, row in islice(data.rows(), limit)], data)


def read_pair_rows(data: DataFiles, limit: int | None = None) -> list[PairRow]:
    """Rows for preference training.

    Raises:
        BadInput: a malformed row, by file and line, or no row at all.
    """
    return _some([_pair_row(where, row) for where, row in islice(data.rows(), limit)], data)


def _some(rows: list[Any], data: DataFiles) -> list[Any]:
    if not rows:
        raise BadInput(f"{data.path}: no rows in it; {FORMAT}")
    return rows


def _sft_row(where: str, row: Mapping[str, Any]) -> SftRow:
    condition = row.get("condition")
    if condition is not None and not isinstance(condition, str):
        raise BadInput(f"{where}: condition {condition!r}; a text or nothing is expected")
    return SftRow(_id(where, row), _prompt(where, row), _answer(where, row, "completion"), condition, where)


def _pair_row(where: str, row: Mapping[str, Any]) -> PairRow:
    chosen, rejected = _answer(where, row, "chosen"), _answer(where, row, "rejected")
    if chosen == rejected:
        raise BadInput(f"{where}: chosen and rejected are the same text; drop the row")
    return PairRow(_id(where, row), _prompt(where, row), chosen, rejected, where)


def _id(where: str, row: Mapping[str, Any]) -> str:
    found = row.get("id")
    return where if found is None else str(found)


def _prompt(where: str, row: Mapping[str, Any]) -> tuple[Message, ...]:
    messages = _messages(where, row, "prompt")
    if messages[-1].role == "assistant":
        raise BadInput(f"{where}: prompt ends with a turn of the assistant; its last turn must be answered")
    return tuple(messages)


def _answer(where: str, row: Mapping[str, Any], column: str) -> str:
    messages = _messages(where, row, column)
    if len(messages) != 1 or messages[0].role != "assistant":
        roles = ", ".join(message.role for message in messages)
        raise BadInput(f"{where}: {column} has the turns {roles}; one turn of the assistant is expected")
    if not messages[0].content.strip():
        raise BadInput(f"{where}: {column} is empty; there is nothing to learn from it")
    return messages[0].content


def _messages(where: str, row: Mapping[str, Any], column: str) -> list[Message]:
    found = row.get(column)
    if found is None:
        raise BadInput(f"{where}: no column {column}; found {', '.join(sorted(row)) or 'none'}: {_form(column)}")
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise BadInput(f"{where}: {column} is no list of turns; {_form(column)}")
    return [_message(where, column, turn) for turn in found]


def _form(column: str) -> str:
    return PAIR_FORMAT if column in ("chosen", "rejected") else FORMAT


def _message(where: str, column: str, turn: object) -> Message:
    role = turn.get("role") if isinstance(turn, Mapping) else None
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if role not in ROLES or not isinstance(content, str):
        raise BadInput(
            f"{where}: a turn of {column} is no {{role: {'|'.join(ROLES)}, content: text}}, but {str(turn)[:80]!r}"
        )
    return Message(cast(Any, role), content)


def _arrow_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: cannot be read as a saved dataset ({error}); save it anew") from error
    if isinstance(found, DatasetDict):
        if "train" not in found:
            raise BadInput(f"{folder}: no split train, only {', '.join(map(str, found))}; save that split alone")
        found = found["train"]
    for number, row in enumerate(found, 1):
        yield f"{folder}, row {number}", dict(cast(Any, row))
