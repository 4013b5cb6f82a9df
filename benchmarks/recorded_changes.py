"""Every change that this process makes to the files of a folder, in order, so that a kill at any byte can be played.

A kill loses nothing that was written: the state at a kill is that of all changes before it, with the one that was under
way done up to some byte. Waiting for the disk (fsync) is left out, as it decides what a power cut leaves, not a kill.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

Files = dict[str, bytes]
"""Content by path relative to the folder."""


@dataclass(frozen=True)
class Put:
    """Bytes written at ``offset`` of a file: the one change that a kill can cut in two."""

    name: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Cut:
    """A file made empty, or brought to ``size`` bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Move:
    """A file renamed, over another one if there is one."""

    name: str
    target: str


@dataclass(frozen=True)
class Drop:
    """A file removed."""

    name: str


Change = Put | Cut | Move | Drop
Data = bytes | memoryview


def changed(files: Files, change: Change) -> Files:
    """``files`` after ``change``."""
    rest = {name: data for name, data in files.items() if name != change.name}
    before = files.get(change.name, b"")
    match change:
        case Put(name, offset, data):
            return {**rest, name: before[:offset] + data + before[offset + len(data) :]}
        case Cut(name, size):
            return {**rest, name: before[:size].ljust(size, b"\0")}
        case Move(_, target):
            return {**rest, target: before}
        case Drop():
            return rest


class Recorder:
    """Notes the changes while its `with` block runs. One at a time, in a process without other threads at the folder.

    ``changes`` are in order; ``found`` names the files that were opened with what was in them.
    """

    def __init__(self, folder: Path) -> None:
        self.changes: list[Change] = []
        self.found: set[str] = set()
        self._folder = folder.resolve()
        self._names: dict[int, str] = {}
        self._patches = ExitStack()

    def __enter__(self) -> Recorder:
        opening = self._opening(io.open)
        patched = [(builtins, "open", opening), (io, "open", opening), (os, "fsync", lambda handle: None)]
        for name in ("open", "close", "write", "pwrite", "truncate", "ftruncate", "replace", "unlink"):
            patched.append((os, name, getattr(self, f"_{name}")(getattr(os, name))))
        for module, name, stand_in in patched:
            self._patches.enter_context(mock.patch.object(module, name, stand_in))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def name(self, path: Any) -> str | None:
        """The path relative to the folder; None for another place, or a file descriptor that is not in it."""
        if isinstance(path, int):
            return self._names.get(path)
        full = Path(os.fsdecode(path)).resolve()
        return full.relative_to(self._folder).as_posix() if full.is_relative_to(self._folder) else None

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
            name = self.name(file)
            if name is None:
                return real(file, mode, buffering, *more, **named)
            if "w" not in mode and Path(file).exists():
                self.found.add(name)
            if not set(mode) & set("wax+"):
                return real(file, mode, buffering, *more, **named)
            return self._noted_file(file, name, mode, *more, **named)

        return opening

    def _noted_file(self, file: Any, name: str, mode: str, *more: Any, **named: Any) -> Any:
        if "w" in mode or not Path(file).exists():
            self.changes.append(Cut(name, 0))
        raw = _NotedFile(file, mode.replace("b", "").replace("t", ""))
        raw.note = lambda offset, data: self.changes.append(Put(name, offset, data))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **named)

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def opening(path: Any, flags: int, *more: Any, **named: Any) -> int:
            name = self.name(path)
            is_new = name is not None and not Path(path).exists()
            handle = real(path, flags, *more, **named)
            if name is not None:
                self._names[handle] = name
                if is_new or flags & os.O_TRUNC:
                    self.changes.append(Cut(name, 0))
                else:
                    self.found.add(name)
            return handle

        return opening

    def _close(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def closing(handle: int) -> None:
            self._names.pop(handle, None)
            real(handle)

        return closing

    def _write(self, real: Callable[[int, Data], int]) -> Callable[[int, Data], int]:
        def writing(handle: int, data: Data) -> int:
            # Only journals are written this way, and they append.
            name = self.name(handle)
            offset = os.fstat(handle).st_size if name is not None else 0
            count = real(handle, data)
            if name is not None:
                self.changes.append(Put(name, offset, bytes(data)[:count]))
            return count

        return writing

    def _pwrite(self, real: Callable[[int, Data, int], int]) -> Callable[[int, Data, int], int]:
        def writing(handle: int, data: Data, offset: int) -> int:
            count = real(handle, data, offset)
            if (name := self.name(handle)) is not None:
                self.changes.append(Put(name, offset, bytes(data)[:count]))
            return count

        return writing

    def _truncate(self, real: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
        def cutting(path: Any, size: int) -> None:
            real(path, size)
            if (name := self.name(path)) is not None:
                self.changes.append(Cut(name, size))

        return cutting

    _ftruncate = _truncate

    def _replace(self, real: Callable[..., None]) -> Callable[..., None]:
        def moving(source: Any, target: Any, **named: Any) -> None:
            real(source, target, **named)
            if (name := self.name(source)) is not None:
                self.changes.append(Move(name, str(self.name(target))))

        return moving

    def _unlink(self, real: Callable[..., None]) -> Callable[..., None]:
        def removing(path: Any, **named: Any) -> None:
            real(path, **named)
            if (name := self.name(path)) is not None:
                self.changes.append(Drop(name))

        return removing


class _NotedFile(io.FileIO):
    """A file that tells what is written to it."""

    note: Callable[[int, bytes], None]

    def write(self, data: Any, /) -> int:
        offset = os.fstat(self.fileno()).st_size if "a" in self.mode else self.tell()
        count = super().write(data)
        self.note(offset, bytes(data)[:count])
        return count
