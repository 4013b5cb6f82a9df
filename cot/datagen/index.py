"""Where the rows of a large file stand, kept on disk: memory stays the same however many rows there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, MutableMapping

from ..journal import Span

CACHE_KIB = 4096


class DiskIndex(MutableMapping[str, Span]):
    """Key -> `Span` in the order of insertion, in an unnamed temporary database that goes with the process.

    It is derived from the file that it indexes and made anew whenever that file is opened, so it cannot be stale.
    """

    def __init__(self) -> None:
        # One thread reads while another writes only under the caller's lock; "" is a private temporary file.
        self._data = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._data.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._data.execute("PRAGMA journal_mode = OFF")
        self._data.execute("PRAGMA synchronous = OFF")
        self._data.execute("CREATE TABLE spans (at INTEGER PRIMARY KEY, key TEXT UNIQUE, start INTEGER, size INTEGER)")
        self._data.execute("BEGIN")
        self._count = 0

    def __getitem__(self, key: str) -> Span:
        found = self._data.execute("SELECT start, size FROM spans WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return Span(*found)

    def __setitem__(self, key: str, span: Span) -> None:
        # Nearly every key is new: one statement for it.
        if not self._add(key, span):
            self._data.execute("UPDATE spans SET start = ?, size = ? WHERE key = ?", (*span, key))

    def setdefault(self, key: str, default: Span) -> Span:  # type: ignore[override]
        """The span of ``key``, which is ``default`` if the key is new."""
        if self._add(key, default):
            return default
        return self[key]

    def __delitem__(self, key: str) -> None:
        if not self._data.execute("DELETE FROM spans WHERE key = ?", (key,)).rowcount:
            raise KeyError(key)
        self._count -= 1

    def __contains__(self, key: object) -> bool:
        return self._data.execute("SELECT 1 FROM spans WHERE key = ?", (key,)).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        return (key for (key,) in self._data.execute("SELECT key FROM spans ORDER BY at"))

    def __len__(self) -> int:
        return self._count

    def ordered(self) -> Iterator[str]:
        """Keys in alphabetical order; nothing may be changed while they are read."""
        return (key for (key,) in self._data.execute("SELECT key FROM spans ORDER BY key"))

    def _add(self, key: str, span: Span) -> bool:
        """False, and nothing changed, if the key is known."""
        new = "INSERT OR IGNORE INTO spans (key, start, size) VALUES (?, ?, ?)"
        added = self._data.execute(new, (key, *span)).rowcount
        self._count += added
        return bool(added)

    def clear(self) -> None:
        """Forget everything."""
        self._data.execute("DELETE FROM spans")
        self._count = 0
