"""JSON lines on disk: read with line numbers, append and flush, replace atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from .errors import BadInput, StoreError
from .records import R, from_json


def read_rows(path: Path, *, torn_tail: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for each non-empty line; ``.gz`` is read as such.

    Args:
        torn_tail: end quietly at a last line without newline that does not parse (a writer was killed there).

    Raises:
        BadInput: the file is missing, not UTF-8, or a line is not a JSON object; names file and line.
    """
    with _open(path) as handle:
        number = 0
        try:
            for number, raw in enumerate(handle, 1):
                if not raw.strip():
                    continue
                row = _parse(raw, path, number, torn_tail)
                if row is None:
                    return
                yield number, row
        except (EOFError, OSError) as error:
            raise BadInput(f"{path}, after line {number}: cannot be read ({error})") from error


def _open(path: Path) -> IO[bytes]:
    import gzip

    try:
        if path.suffix == ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        return open(path, "rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be opened ({error.strerror}); expected a JSON-lines file") from error


def _parse(raw: bytes, path: Path, number: int, torn_tail: bool) -> dict[str, Any] | None:
    try:
        # A model can emit half of a surrogate pair; it is stored, and read back, as it came.
        row = json.loads(raw.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        if torn_tail and not raw.endswith(b"\n"):
            return None
        if isinstance(error, json.JSONDecodeError):
            raise BadInput(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from error
        raise BadInput(f"{path}, line {number}: not UTF-8 ({error})") from error
    if not isinstance(row, dict):
        raise BadInput(f"{path}, line {number}: a JSON object is expected, found {type(row).__name__}")
    return row


def read_records(kind: type[R], path: Path, *, torn_tail: bool = False) -> Iterator[R]:
    """Yield the records of class ``kind`` in ``path``; errors name the line."""
    for number, row in read_rows(path, torn_tail=torn_tail):
        try:
            yield from_json(kind, row)
        except BadInput as error:
            raise BadInput(f"{path}, line {number}: {error}") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` in one step: readers see the old file or the new one.

    Raises:
        StoreError: disk full or not writable; the old file is intact.
    """
    # A device or pipe is no file to be replaced: it takes the text as it comes.
    special = path.exists() and not path.is_file()
    target = path if special else path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(target, "wb") as handle:
            handle.write(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
            handle.flush()
            if not special:
                os.fsync(handle.fileno())
        if not special:
            target.replace(path)
    except OSError as error:
        if not special:
            target.unlink(missing_ok=True)
        advice = "make the folder first" if isinstance(error, FileNotFoundError) else "free some space"
        raise StoreError(f"{path}: cannot be written ({error.strerror}); {advice} or choose another one") from error


def refuse_special(path: Path) -> None:
    """Refuse a target that is there and no file, before something is renamed over it.

    Raises:
        BadInput: ``path`` is a folder, device or pipe.
    """
    if path.exists() and not path.is_file():
        raise BadInput(f"{path}: is a folder, device or pipe, and a file is expected; choose another name")


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """`write_atomic` of indented JSON."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
