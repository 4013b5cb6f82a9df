"""One process at a time in a folder: a lock that the system frees when the process ends, however it ends."""

from __future__ import annotations

import os
from pathlib import Path

from eval_math.errors import StoreError

LOCK = ".lock"


def lock_folder(folder: Path) -> int:
    """Make ``folder`` if need be and lock it; the file descriptor that holds the lock, to be closed at the end.

    Raises:
        StoreError: another process has it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be made or written ({error.strerror}); choose another folder") from error
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(
            f"{folder}: in use by another process (pid {owner}); wait for it or choose another folder"
        ) from error
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(lock)
        raise StoreError(f"{folder}: cannot be written ({error.strerror}); free some space") from error
    return lock
