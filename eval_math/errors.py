"""The errors a user of laconic can cause or meet; each is a standard exception too."""

from __future__ import annotations


class LaconicError(Exception):
    """Base of all errors raised on purpose; the text says what was given, what was expected and what to do."""


class BadInput(LaconicError, ValueError):
    """A value, file or flag that cannot be used; the command exits with code 2 and nothing was written or lost."""


class MissingPart(LaconicError, ImportError):
    """An optional package is not installed; the text names the extra that brings it."""


class RunMismatch(LaconicError, ValueError):
    """A run folder holds results of another configuration; the text lists what differs."""


class StoreError(LaconicError, OSError):
    """A result could not be written or read back; what was written before is intact."""


class EngineError(LaconicError, RuntimeError):
    """An engine could not start or gave up; finished traces are already stored."""
