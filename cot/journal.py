"""An append-only file of JSON lines that survives a kill at any byte.

A row is one line, written by one system call and synced every few seconds. Opening a journal repairs what a killed
writer left: a torn last line is cut off before anything is appended (else the next row would be glued to it), a bad
line in the middle is moved to a quarantine file, a second row with a known key is dropped. Only keys and byte offsets
are held in memory, or not even those where an `index` on disk is given.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from eval_math.errors import BadInput, StoreError

logger = logging.getLogger(__name__)

SYNC_ROWS = 256
SYNC_SECONDS = 5.0

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Repairs:
    """What opening a journal had to mend."""

    torn_bytes: int = 0
    quarantined: int = 0
    duplicates: int = 0


class Span(NamedTuple):
    """Where a row stands in the file, in bytes; the newline is part of it."""

    offset: int
    length: int


class Journal(Generic[K]):
    """Rows by key in one file. One process at a time may hold it open; the caller sees to that.

    Args:
        path: the file; made if it does not exist.
        key: key of a row; raises `BadInput`, `KeyError`, `TypeError` or `ValueError` for a row that is not valid.
        index: an empty mapping that keeps the order of insertion; default: a dictionary.
        parse: row in the bytes of a line, with or without its newline; raises like ``key``.

    Raises:
        StoreError: the file cannot be read or repaired.
    """

    def __init__(
        self,
        path: Path,
        key: Callable[[dict[str, Any]], K],
        *,
        index: MutableMapping[K, Span] | None = None,
        parse: Callable[[bytes], dict[str, Any]] | None = None,
    ) -> None:
        self.path = path
        self._key = key
        self._parse = parse or _parsed
        self._spans: MutableMapping[K, Span] = {} if index is None else index
        self._unsynced = 0
        self._synced_at = time.monotonic()
        try:
            self.repairs = self._recover()
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise _failed(path, error) from error

    def __contains__(self, key: object) -> bool:
        return key in self._spans

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[K]:
        """Keys in file order."""
        return iter(self._spans)

    def append(self, key: K, line: str) -> bool:
        """Add one line (newline included); False, and nothing written, if ``key`` is already there.

        Raises:
            StoreError: disk full or not writable; what was there before is intact.
        """
        if key in self._spans:
            return False
        data = line.encode("utf-8", "surrogatepass")
        offset = os.fstat(self._file).st_size
        self._write(data, offset)
        self._spans[key] = Span(offset, len(data))
        self._unsynced += 1
        if self._unsynced >= SYNC_ROWS or time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self.sync()
        return True

    def _write(self, data: bytes, offset: int) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, offset)
            raise _failed(self.path, error) from error

    def read(self, key: K) -> dict[str, Any]:
        """The row stored under ``key``."""
        return json.loads(self.line(key))

    def line(self, key: K) -> bytes:
        """The bytes of one row, newline included."""
        span = self._spans[key]
        return os.pread(self._file, span.length, span.offset)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows in file order."""
        for key in list(self._spans):
            yield self.read(key)

    def rewrite(self, keys: Iterable[K]) -> None:
        """Keep only the rows of ``keys``, in that order; readers see the old file or the new one, never a part.

        Raises:
            StoreError: disk full or not writable; the old file is intact.
        """
        wanted = [key for key in keys if key in self._spans]
        if wanted == list(self._spans):
            return
        spans: dict[K, Span] = {}
        _replace(self.path, ((key, self.line(key)) for key in wanted), spans)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
        self._spans.clear()
        self._spans.update(spans)

    def sync(self) -> None:
        """Wait until everything appended so far is on the disk.

        Raises:
            StoreError: the disk refused.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise _failed(self.path, error) from error
        self._unsynced = 0
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        if self._file >= 0:
            try:
                self.sync()
            finally:
                os.close(self._file)
                self._file = -1

    def _recover(self) -> Repairs:
        if not self.path.exists():
            return Repairs()
        bad: list[bytes] = []
        repairs, size = self._scan(bad)
        if repairs != Repairs() or self._ends_open(size):
            self._mend(repairs, bad)
        return repairs

    def _scan(self, bad: list[bytes]) -> tuple[Repairs, int]:
        """Fill the index; what must be mended and the file's size. Unreadable lines go to ``bad``."""
        torn = duplicates = offset = 0
        with self.path.open("rb") as handle:
            for raw in handle:
                key = self._key_of(raw)
                if key is None and not raw.endswith(b"\n"):
                    torn = len(raw)
                elif key is None:
                    bad.append(raw)
                elif self._spans.setdefault(key, span := Span(offset, len(raw))) is not span:
                    duplicates += 1
                offset += len(raw)
        return Repairs(torn, len(bad), duplicates), offset

    def _key_of(self, raw: bytes) -> K | None:
        try:
            return self._key(self._parse(raw))
        except (BadInput, KeyError, TypeError, ValueError, AttributeError, RecursionError):
            return None

    def _ends_open(self, size: int) -> bool:
        """True if the last row is whole but lacks its newline."""
        if not size:
            return False
        with self.path.open("rb") as handle:
            handle.seek(size - 1)
            return handle.read(1) != b"\n"

    def _mend(self, repairs: Repairs, bad: list[bytes]) -> None:
        if bad:
            quarantine = self.path.with_name(f"{self.path.stem}.quarantine{self.path.suffix}")
            with quarantine.open("ab") as handle:
                handle.writelines(bad)
                handle.flush()
                os.fsync(handle.fileno())
            logger.warning("%s: %d unreadable line(s) moved to %s", self.path, len(bad), quarantine.name)
        if repairs.duplicates:
            logger.warning("%s: %d row(s) with a known key dropped, the first kept", self.path, repairs.duplicates)
        if repairs.torn_bytes:
            logger.info("%s: torn last line of %d bytes cut off", self.path, repairs.torn_bytes)
        if repairs == Repairs(repairs.torn_bytes) and repairs.torn_bytes:
            os.truncate(self.path, self.path.stat().st_size - repairs.torn_bytes)
            return
        _replace(self.path, self._kept_lines())
        self._spans.clear()
        self._scan([])

    def _kept_lines(self) -> Iterator[tuple[K, bytes]]:
        with self.path.open("rb") as handle:
            for key, span in self._spans.items():
                handle.seek(span.offset)
                yield key, handle.read(span.length)


def _parsed(raw: bytes) -> dict[str, Any]:
    return json.loads(raw.decode("utf-8", "surrogatepass"))


def _replace(path: Path, lines: Iterable[tuple[K, bytes]], spans: dict[K, Span] | None = None) -> None:
    """Write ``lines`` over ``path`` in one step, and note in ``spans`` where each stands."""
    temporary = path.with_name(f".{path.name}.tmp")
    offset = 0
    try:
        with temporary.open("wb") as handle:
            for key, line in lines:
                whole = line if line.endswith(b"\n") else line + b"\n"
                handle.write(whole)
                if spans is not None:
                    spans[key] = Span(offset, len(whole))
                offset += len(whole)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _failed(path, error) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path}: cannot be written or read ({error.strerror or error}); what was stored before is intact: "
        "free some space or mend the folder, then run the same command again"
    )
