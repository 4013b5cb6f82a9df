"""A rewriting job killed at every byte that it writes; part of `benchmarks.datagen_crash`, which tells what is checked.

Why it is enough to open the store at each byte, and to resume the job at each whole change:

- What a resumed job does is decided by the files it finds with their content. Files whose name starts with a dot are
  never among them: each resumption notes what it opens, and one that opens such a file without emptying it is counted
  as wrong. So all kills inside one hidden file end like the kill before its first byte, from which a job is resumed.
- Other files come into being by a rename, at once, but for the two journals. Should one be written in place, the job is
  resumed from each byte of it.
- At each byte of a journal the store is opened. If that leaves the same bytes on the disk as the last whole line did,
  or, where nothing but the newline was missing, as this line does, and has found nothing else to mend, then the job
  goes on from there as from that line; it is resumed from each line.

From bytes chosen at random the job is resumed as well, without any of this reasoning.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from unittest import mock

from cot.c3ot import C3ot
from cot.datagen import store
from cot.datagen.job import Job, JobConfig, run_job
from cot.datagen.store import CALLS, OUTCOMES, Shard
from cot.datagen.student import Student
from cot.datagen.supply import Supply
from cot.journal import Repairs
from cot.locks import LOCK
from eval_math.errors import LaconicError

from .recorded_changes import Change, Files, Put, Recorder, changed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cot"))
from writer import ScriptedWriter, sums, write_rows  # pyright: ignore[reportMissingImports]

SAME = ("train.jsonl", "rejected.jsonl", "stats.json", "_SUCCESS")
JOURNALS = (CALLS, OUTCOMES)


@dataclass
class Found:
    """Kills by where they fell, and what went wrong after them."""

    bytes_tried: int = 0
    """Every byte written, to whatever file."""
    opened: int = 0
    """Of these the ones inside a line of a journal: the store was opened."""
    wrongly_recovered: int = 0
    resumed_from: int = 0
    differing: int = 0
    leftovers_read: int = 0
    """Resumptions that used what a hidden file held."""

    @property
    def holds(self) -> bool:
        """True if nothing went wrong."""
        return not (self.wrongly_recovered or self.differing or self.leftovers_read)


def cut_everywhere(rows: int, literal: int, seed: int, folder: Path) -> Found:
    """Record a job of ``rows`` source rows, kill it at every byte; ``literal`` bytes are chosen at random."""
    source = write_rows(folder / "source.jsonl", sums(rows))
    job = Job(JobConfig((source,), folder / "calm"), C3ot(compressor="embedded"), Student.named("embedded"))
    with Recorder(job.config.out) as recorder:
        _run(job)
    trial = _Trial(job, folder, recorder.changes)
    trial.kill_everywhere()
    trial.kill_at_random(literal, random.Random(seed))
    return trial.found


class _Trial:
    def __init__(self, job: Job, folder: Path, changes: list[Change]) -> None:
        self.found = Found()
        self._job = job
        self._opened, self._resumed = folder / "opened", folder / "resumed"
        self._changes = changes
        self._goal = _finished(_read(job.config.out))
        if _replayed(changes) != _read(job.config.out):
            raise AssertionError("the job changed its folder in a way that was not recorded")

    def kill_everywhere(self) -> None:
        """Open the store at every byte of a line; resume after every change."""
        files: Files = {}
        self._resume(files)
        for change in self._changes:
            if isinstance(change, Put):
                self.found.bytes_tried += len(change.data)
                self._tear(files, change)
            files = changed(files, change)
            self._resume(files)

    def kill_at_random(self, count: int, rng: random.Random) -> None:
        """Resume from ``count`` bytes, each as likely."""
        chosen = sorted(rng.choices(range(self.found.bytes_tried), k=count))
        files: Files = {}
        at = 0
        for change in self._changes:
            size = len(change.data) if isinstance(change, Put) else 0
            while isinstance(change, Put) and chosen and chosen[0] < at + size:
                self._resume(changed(files, replace(change, data=change.data[: chosen.pop(0) - at])))
            at += size
            files = changed(files, change)

    def _tear(self, files: Files, change: Put) -> None:
        """All kills inside one write."""
        if _is_hidden(change.name):
            return
        if Path(change.name).name not in JOURNALS:
            for n in range(1, len(change.data)):
                self._resume(changed(files, replace(change, data=change.data[:n])))
            return
        with _quick_opening():
            self._open_torn({name: files[name] for name in files if Path(name).name in JOURNALS}, change)

    def _open_torn(self, journals: Files, change: Put) -> None:
        path = self._opened / change.name
        _put(self._opened, journals)
        for n in range(1, len(change.data)):
            with path.open("ab") as handle:
                handle.write(change.data[:n])
            is_whole = n == len(change.data) - 1
            self.found.opened += 1
            mended = self._open(Path(change.name).name)
            right = changed(journals, change) if is_whole else journals
            if mended != Repairs(0 if is_whole else n) or _read(self._opened) != right:
                self.found.wrongly_recovered += 1
                _put(self._opened, journals)

    def _open(self, name: str) -> Repairs | None:
        """What opening the store mended in one journal; None if it mended the other one too."""
        with Shard(self._opened, 0, 1, "recipe") as shard:
            calls, outcomes = shard.repairs
        mended, other = (calls, outcomes) if name == CALLS else (outcomes, calls)
        return mended if other == Repairs() else None

    def _resume(self, files: Files) -> None:
        _put(self._resumed, files)
        with Recorder(self._resumed) as recorder, contextlib.suppress(LaconicError):
            _run(replace(self._job, config=replace(self._job.config, out=self._resumed)))
        self.found.resumed_from += 1
        self.found.differing += _finished(_read(self._resumed)) != self._goal
        # A lock's content is for messages alone: what holds it is the open file.
        self.found.leftovers_read += any(_is_hidden(name) and Path(name).name != LOCK for name in recorder.found)


def _run(job: Job) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        run_job(job, Supply(ScriptedWriter))


@contextlib.contextmanager
def _quick_opening() -> Iterator[None]:
    """Nobody waits for the disk, and no line is parsed twice: parsing is a pure function of its bytes."""
    with mock.patch.object(store, "unsealed", _parse_once), mock.patch("os.fsync", lambda handle: None):
        yield


_parse_once = lru_cache(maxsize=4096)(store.unsealed)


def _is_hidden(name: str) -> bool:
    return Path(name).name.startswith(".")


def _replayed(changes: list[Change]) -> Files:
    files: Files = {}
    for change in changes:
        files = changed(files, change)
    return {name: data for name, data in files.items() if Path(name).name != LOCK}


def _read(folder: Path) -> Files:
    """All files but locks."""
    found: Files = {}
    for where, _, names in os.walk(folder):
        for name in names:
            if name != LOCK:
                path = f"{where}/{name}"
                with open(path, "rb") as handle:
                    found[path[len(str(folder)) + 1 :]] = handle.read()
    return found


def _put(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _finished(files: Files) -> dict[str, bytes | list[bytes]]:
    """What must be the same: the dataset and its mark, the stored lines in any order, and which files there are.

    Card and manifest tell how often the job was started, so only their presence counts.
    """
    shown: dict[str, bytes | list[bytes]] = {name: b"" for name in files if not _is_hidden(name)}
    for name in shown:
        if name in SAME:
            shown[name] = files[name]
        elif Path(name).name in JOURNALS:
            shown[name] = sorted(files[name].splitlines())
    return shown
