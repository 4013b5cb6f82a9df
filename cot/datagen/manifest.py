"""What a dataset folder was made of: written first, compared on every later start, told in its card at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval_math.errors import BadInput, RunMismatch
from eval_math.files import write_json
from eval_math.records import Json

from ..environment import environment
from ..runs import differences
from .card import write_card
from .driver import Counts
from .source import SourceFile
from .stats import JobStats

MANIFEST, SUCCESS = "manifest.json", "_SUCCESS"
SCHEMA = 1


@dataclass(frozen=True)
class Manifest:
    """``config`` holds all that decides the dataset, the sources by their content; the rest informs."""

    config: Mapping[str, Json]
    sources: tuple[SourceFile, ...]
    writer: Mapping[str, Json]
    """The engine's identity; empty where none was needed."""


def describe_dataset(sources: Sequence[SourceFile], config: Mapping[str, Json], writer: Mapping[str, Json]) -> Manifest:
    """The manifest of a dataset made of ``sources`` under ``config``."""
    listed: list[Json] = [{"kind": each.kind, "rows": each.rows, "sha256": each.sha256} for each in sources]
    return Manifest({**config, "sources": listed}, tuple(sources), writer)


def begin_dataset(folder: Path, manifest: Manifest, *, update: bool = False) -> None:
    """Make the folder, or go on in it; the manifest is written before anything else.

    Args:
        update: go on where the configuration changed: the dataset is made anew, out of what can be used again.

    Raises:
        BadInput: the folder holds something else, or was cut into another number of shards.
        RunMismatch: it was made by another configuration; the text lists the differences.
    """
    folder.mkdir(parents=True, exist_ok=True)
    session: dict[str, Json] = {"started": datetime.now(UTC).isoformat(timespec="seconds"), **environment()}
    sessions: list[Json] = [session]
    if (folder / MANIFEST).exists():
        earlier = read_manifest(folder)
        if _compare(folder, earlier["config"], manifest.config, update):
            (folder / SUCCESS).unlink(missing_ok=True)
        sessions = [*earlier["sessions"], session]
    else:
        strangers = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if strangers:
            raise BadInput(f"{folder}: not empty and not a dataset of laconic ({', '.join(strangers[:3])})")
    write_json(folder / MANIFEST, {"schema": SCHEMA, **asdict(manifest), "sessions": sessions})


def finish_dataset(folder: Path, stats: JobStats, counts: Counts) -> None:
    """Write the card, then the mark that says that the dataset is whole."""
    write_card(folder, read_manifest(folder), stats, counts)
    write_json(folder / SUCCESS, {"rows": dict(stats.splits), "statuses": dict(stats.statuses)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a dataset folder as JSON.

    Raises:
        BadInput: there is none, it is damaged, or another version wrote it.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        schema = found.get("schema")
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); restore it or choose another folder") from error
    if schema != SCHEMA:
        raise BadInput(f"{path}: schema {schema!r} found, {SCHEMA} expected; written by another version?")
    return found


def _compare(folder: Path, earlier: Mapping[str, Any], asked: Mapping[str, Json], update: bool) -> bool:
    """True if the configuration changed and that is wanted."""
    # JSON has no tuples: what was asked is compared as it would be read back.
    changed = differences(earlier, json.loads(json.dumps(dict(asked))))
    if changed and not update:
        listed = "".join(f"\n  {line}" for line in changed)
        raise RunMismatch(
            f"{folder} was made by another configuration:{listed}\nChoose another folder with --out, or go on with "
            "--update: answers to unchanged requests are kept, the dataset is made anew."
        )
    if earlier.get("shards") != asked.get("shards"):
        raise BadInput(f"{folder} has {earlier.get('shards')} shard(s), {asked.get('shards')} asked; give the same")
    return bool(changed)
