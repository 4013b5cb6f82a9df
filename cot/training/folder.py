"""The folder of a training: its record, its checkpoints, and the model it ends in.

training.json    what is trained on what (written first), its sessions, and in the end what came out
loss.jsonl       one line per update
evaluation.jsonl one line per evaluation; evaluation/step-N holds its run folder
checkpoints/     states to go on from
config.json, model.safetensors, tokenizer, README.md, loss.svg   the finished model, config.json last
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from eval_math.errors import BadInput, RunMismatch, StoreError
from eval_math.files import write_json
from eval_math.records import Json

from ..chat import TOKENIZER_FILES
from ..environment import environment
from ..locks import lock_folder
from ..runs import differences

INFO = "training.json"
LOSS = "loss.jsonl"
EVALUATIONS = "evaluation.jsonl"
RUNS = "evaluation"
CHECKPOINTS = "checkpoints"
STATE = "trainer_state.json"
SCHEMA = 1
PRODUCTS = (INFO, LOSS, EVALUATIONS, "README.md", "loss.svg", "config.json")
COMPANIONS = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Files of the source folder that the finished model takes over as they are."""


@dataclass(frozen=True)
class TrainingInfo:
    """training.json. ``config`` decides the result and must be equal to go on; ``finished`` is what came out."""

    kind: str
    config: Mapping[str, Json]
    data: Mapping[str, Json]
    sessions: Sequence[Mapping[str, Json]] = ()
    finished: Mapping[str, Json] = field(default_factory=dict)
    schema: int = SCHEMA


class TrainingFolder:
    """An open training folder, made by `open_training`; a context manager. One process writes, rank 0."""

    def __init__(self, path: Path, info: TrainingInfo, lock: int) -> None:
        self.path = path
        self.info = info
        self._lock = lock

    def __enter__(self) -> TrainingFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def finish(self, outcome: Mapping[str, Json]) -> None:
        """Note what came out: the training is done."""
        self.info = replace(self.info, finished=dict(outcome))
        write_json(self.path / INFO, asdict(self.info))


def open_training(path: Path, info: TrainingInfo, *, overwrite: bool = False) -> TrainingFolder:
    """Start a training in ``path``, or go on with the one that is there.

    Args:
        overwrite: delete a training of another configuration first; one of the same configuration goes on.

    Raises:
        RunMismatch: a training of another configuration; the text lists the differences.
        BadInput: the folder holds something else.
        StoreError: another process has it, or it cannot be written.
    """
    lock = lock_folder(path)
    try:
        earlier = _earlier(path, info, overwrite)
        finished = earlier.finished if earlier else {}
        sessions = [*(earlier.sessions if earlier else ()), _session()]
        info = replace(info, sessions=sessions, finished=finished)
        write_json(path / INFO, asdict(info))
        return TrainingFolder(path, info, lock)
    except BaseException:
        os.close(lock)
        raise


def read_training(path: Path) -> TrainingInfo:
    """The record of a training folder.

    Raises:
        BadInput: none there, or it is damaged.
    """
    file = path / INFO
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
        if row.get("schema") != SCHEMA:
            raise BadInput(
                f"{file}: schema {row.get('schema')!r} found, {SCHEMA} expected; written by another version?"
            )
        return TrainingInfo(**row)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no {INFO} in it, so it is no training folder") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise BadInput(f"{file}: cannot be read ({error}); restore it, or start anew with --overwrite") from error


def finished(path: Path, info: TrainingInfo) -> Mapping[str, Json]:
    """What came out of this very training, if it is done; else nothing."""
    return read_training(path).finished if (path / INFO).exists() and _same(path, info) else {}


def last_checkpoint(path: Path) -> Path | None:
    """The newest whole checkpoint; what a killed writer left unfinished is passed over."""
    found = [folder for folder in (path / CHECKPOINTS).glob("checkpoint-*") if _is_whole(folder)]
    return max(found, key=checkpoint_step, default=None)


def checkpoint_step(folder: Path) -> int:
    """Updates done when a checkpoint was written."""
    return int(folder.name.rpartition("-")[2])


def drop_broken_checkpoints(path: Path) -> None:
    """Delete checkpoints that were not written to their end, so that none is taken for a whole one later."""
    for folder in (path / CHECKPOINTS).glob("checkpoint-*"):
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


def export_model(model: Any, source: Path, path: Path, extras: Callable[[Path], None] | None = None) -> None:
    """Write ``model`` as a plain model folder, with tokenizer and generation config as in ``source``.

    Args:
        extras: writes into the folder what else belongs to the model.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path, prefix=".export-") as temporary:
            made = Path(temporary)
            model.save_pretrained(made)
            (made / "generation_config.json").unlink(missing_ok=True)
            for name in COMPANIONS:
                if (source / name).is_file():
                    shutil.copyfile(source / name, made / name)
            if extras is not None:
                extras(made)
            # A folder without config.json is no model yet: it comes last.
            for file in sorted(made.iterdir(), key=lambda file: (file.name == "config.json", file.name)):
                file.replace(path / file.name)
    except OSError as error:
        raise StoreError(f"{path}: the model cannot be written ({error}); free some space and run it again") from error


def package_versions() -> dict[str, Json]:
    """Versions of what trains."""
    names = ("laconic", "torch", "transformers", "trl", "accelerate", "peft", "datasets")
    found: dict[str, Json] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _session() -> dict[str, Json]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return {"started": started, "processes": size, **environment(), "versions": package_versions()}


def _earlier(path: Path, info: TrainingInfo, overwrite: bool) -> TrainingInfo | None:
    if overwrite and not _same(path, info):
        _discard(path)
    if not (path / INFO).exists():
        strangers = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
        if strangers:
            raise BadInput(f"{path}: not empty and no training ({', '.join(strangers[:3])}); choose another --out")
        return None
    earlier = read_training(path)
    changed = _changed(earlier, info)
    if not changed:
        return earlier
    if not earlier.finished and last_checkpoint(path) is None:
        _discard(path)
        return None
    listed = "".join(f"\n  {line}" for line in changed)
    raise RunMismatch(
        f"{path} holds a training of another configuration:{listed}\n"
        "Choose another folder with --out, or delete the old training with --overwrite."
    )


def _same(path: Path, info: TrainingInfo) -> bool:
    try:
        return not _changed(read_training(path), info)
    except BadInput:
        return False


def _changed(earlier: TrainingInfo, info: TrainingInfo) -> list[str]:
    def shown(each: TrainingInfo) -> dict[str, Any]:
        return json.loads(json.dumps({"kind": each.kind, "config": dict(each.config), "data": dict(each.data)}))

    return differences(shown(earlier), shown(info))


def _discard(path: Path) -> None:
    if not (path / INFO).exists():
        return
    for name in (*PRODUCTS, *COMPANIONS):
        (path / name).unlink(missing_ok=True)
    for file in path.glob("model*.safetensors*"):
        file.unlink()
    for name in (CHECKPOINTS, RUNS):
        shutil.rmtree(path / name, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    # The trainer writes its state last.
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return state["global_step"] == checkpoint_step(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
