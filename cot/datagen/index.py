"""Where the rows of a large file stand, kept on disk: memory stays the same however many rows there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, MutableMapping

from eval_math.errors import StoreError

from ..journal import Span

CACHE_KIB = 4096


class DiskIndex(MutableMapping[str, Span]):
    """Key -> `Span` in the order of insertion, in an unnamed temporary database that goes with the process.

    It is derived from the file that it indexes and made anew whenever that file is opened, so it cannot be stale.

    Args:
        most_pages: most pages of 4 KiB that it may take; 0 for as many as there is room for.

    Raises:
        StoreError: no room for it, here or whenever something is added.
    """

    def __init__(self, most_pages: int = 0) -> None:
        # One thread reads while another writes only under the caller's lock; "" is a private temporary file.
        self._data = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        settings = {"cache_size": -CACHE_KIB, "journal_mode": "OFF", "synchronous": "OFF"}
        for name, value in (settings | ({"max_page_count": most_pages} if most_pages else {})).items():
            self._run(f"PRAGMA {name} = {value}")
        self._run("CREATE TABLE spans (at INTEGER PRIMARY KEY, key TEXT UNIQUE, start INTEGER, size INTEGER)")
        self._run("BEGIN")
        self._count = 0

    def __getitem__(self, key: str) -> Span:
        found = self._run("SELECT start, size FROM spans WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return Span(*found)

    def __setitem__(self, key: str, span: Span) -> None:
        # Nearly every key is new: one statement for it.
        if not self._add(key, span):
            self._run("UPDATE spans SET start = ?, size = ? WHERE key = ?", (*span, key))

    def setdefault(self, key: str, default: Span) -> Span:  # type: ignore[override]
        """The span of ``key``, which is ``default`` if the key is new."""
        if self._add(key, default):
            return default
        return self[key]

    def __delitem__(self, key: str) -> None:
        if not self._run("DELETE FROM spans WHERE key = ?", (key,)).rowcount:
            raise KeyError(key)
        self._count -= 1

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._run("SELECT 1 FROM spans WHERE key = ?", (key,)).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        return (key for (key,) in self._run("SELECT key FROM spans ORDER BY at"))

    def __len__(self) -> int:
        return self._count

    def ordered(self) -> Iterator[str]:
        """Keys in alphabetical order; nothing may be changed while they are read."""
        return (key for (key,) in self._run("SELECT key FROM spans ORDER BY key"))

    def clear(self) -> None:
        """Forget everything."""
        self._run("DELETE FROM spans")
        self._count = 0

    def _add(self, key: str, span: Span) -> bool:
        """False, and nothing changed, if the key is known."""
        new = "INSERT OR IGNORE INTO spans (key, start, size) VALUES (?, ?, ?)"
        added = self._run(new, (key, *span)).rowcount
        self._count += added
        return bool(added)

    def _run(self, statement: str, values: tuple[str | int, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._data.execute(statement, values)
        except sqlite3.OperationalError as error:
            advice = "free some space in the folder for temporary files, or name another one with TMPDIR"
            raise StoreError(f"index of what is stored: {error}; {advice}") from error
