"""What a rewriting job keeps: every answer of the engine, and what became of every source row.

    OUT/shard-00000-of-00001/calls.jsonl      one line per call, in the order of arrival: the dear part
    OUT/shard-00000-of-00001/outcomes.jsonl   one line per source row, made from the calls; cheap to make again

A line ends in the checksum of the rest of it. Calls are found by the hash of all that decides them (rendered request,
model, sampling), so that whatever did not change is not asked again; outcomes also by the recipe that made them.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from eval_math.errors import BadInput
from eval_math.records import Trace, from_json, to_json

from ..journal import Journal, Repairs
from ..locks import lock_folder
from .index import DiskIndex
from .records import Outcome, Reply, outcome_from_json, outcome_to_json

CALLS, OUTCOMES = "calls.jsonl", "outcomes.jsonl"


class Shard:
    """One shard of a job, held open by one process.

    Args:
        folder: the job's folder.
        number, count: which of how many shards; a source row belongs to the shard that its key names.
        recipe: hash of what makes outcomes from calls; outcomes of another recipe are made again.

    Raises:
        StoreError: another process has it open, or it cannot be read or written.
    """

    def __init__(self, folder: Path, number: int, count: int, recipe: str) -> None:
        self.folder = shard_folder(folder, number, count)
        self.number, self.count = number, count
        self.recipe = recipe
        self._lock = lock_folder(self.folder)
        try:
            self._calls = self._journal(CALLS, self._call_key)
            self._outcomes = self._journal(OUTCOMES, self._outcome_key)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def repairs(self) -> tuple[Repairs, Repairs]:
        """What opening had to mend, of calls and of outcomes."""
        return self._calls.repairs, self._outcomes.repairs

    @property
    def n_calls(self) -> int:
        """Calls stored."""
        return len(self._calls)

    def owns(self, row_key: str) -> bool:
        """True if the source row of that key belongs to this shard."""
        return int(row_key[:8], 16) % self.count == self.number

    def reply(self, key: str) -> Reply | None:
        """The stored answer to a call."""
        if key not in self._calls:
            return None
        row = self._calls.read(key)
        if "scores" in row:
            return tuple(row["scores"])
        return from_json(Trace, row["trace"])

    def add_reply(self, key: str, row_key: str, reply: Reply) -> None:
        """Store an answer; the first of a key stays.

        Raises:
            StoreError: disk full or not writable; what was stored before is intact.
        """
        if isinstance(reply, Trace):
            body: dict[str, Any] = {"trace": to_json(replace(reply, token_ids=None))}
        else:
            body = {"scores": list(reply)}
        self._calls.append(key, sealed({"key": key, "row": row_key, **body}))

    def outcome(self, row_key: str) -> Outcome | None:
        """The stored outcome of a source row under this recipe."""
        name = self._outcome_name(row_key, self.recipe)
        return outcome_from_json(self._outcomes.read(name)["outcome"]) if name in self._outcomes else None

    def find_outcome(self, start: str) -> Outcome | None:
        """The latest outcome, under whatever recipe, of the first source row whose key starts with ``start``."""
        names = [name for name in self._outcomes if name.startswith(start)]
        return outcome_from_json(self._outcomes.read(names[-1])["outcome"]) if names else None

    def has_outcome(self, row_key: str) -> bool:
        """True if the row is done."""
        return self._outcome_name(row_key, self.recipe) in self._outcomes

    def add_outcome(self, row_key: str, outcome: Outcome) -> None:
        """Store what became of a row.

        Raises:
            StoreError: disk full or not writable; what was stored before is intact.
        """
        row = {"row": row_key, "recipe": self.recipe, "outcome": outcome_to_json(outcome)}
        self._outcomes.append(self._outcome_name(row_key, self.recipe), sealed(row))

    def forget_errors(self) -> int:
        """Drop the calls on which the engine failed, and the outcomes that an error or such a call is part of."""
        failed = {key for key in self._calls if _failed_call(self._calls.read(key))}
        touched = {self._calls.read(key)["row"] for key in failed}
        keep = [n for n in self._outcomes if not self._is_failed(n, touched)]
        count = len(self._outcomes) - len(keep)
        if failed:
            self._calls.rewrite([key for key in self._calls if key not in failed])
        if count:
            self._outcomes.rewrite(keep)
        return count

    def sync(self) -> None:
        """Wait until everything stored is on the disk."""
        self._calls.sync()
        self._outcomes.sync()

    def close(self) -> None:
        """Sync, close and give the shard free."""
        try:
            self._calls.close()
            self._outcomes.close()
        finally:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _is_failed(self, name: str, touched: set[str]) -> bool:
        row = self._outcomes.read(name)
        return row["row"] in touched or row["outcome"]["status"] == "error"

    def _journal(self, name: str, key: Callable[[dict[str, Any]], str]) -> Journal[str]:
        return Journal(self.folder / name, key, index=DiskIndex(), parse=unsealed)

    def _call_key(self, row: dict[str, Any]) -> str:
        self._check_owner(row["row"])
        return str(row["key"])

    def _outcome_key(self, row: dict[str, Any]) -> str:
        self._check_owner(row["row"])
        return self._outcome_name(row["row"], row["recipe"])

    def _check_owner(self, row_key: str) -> None:
        if not self.owns(row_key):
            raise BadInput(f"row {row_key} belongs to another shard")

    @staticmethod
    def _outcome_name(row_key: str, recipe: str) -> str:
        return f"{row_key}/{recipe}"


def shard_folder(folder: Path, number: int, count: int) -> Path:
    """Where a shard is kept."""
    return folder / f"shard-{number:05}-of-{count:05}"


def sealed(row: Mapping[str, Any]) -> str:
    """One JSON line with the checksum of the rest of it as its last field."""
    body = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    return f'{body[:-1]},"crc":{zlib.crc32(body.encode("utf-8", "surrogatepass"))}}}\n'


def unsealed(line: bytes) -> dict[str, Any]:
    """The row without its checksum; the line may lack its newline.

    Raises:
        BadInput: the checksum is missing or does not fit.
        ValueError: the line is no JSON.
    """
    start, _, seal = line.rpartition(b',"crc":')
    body = start + b"}"
    if seal.removesuffix(b"\n") != b"%d}" % zlib.crc32(body):
        raise BadInput("the checksum does not fit the line")
    return json.loads(body.decode("utf-8", "surrogatepass"))


def _failed_call(row: Mapping[str, Any]) -> bool:
    return row.get("trace", {}).get("finish") == "error"
