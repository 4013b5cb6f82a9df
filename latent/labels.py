"""Soft labels on disk: for each latent the ids and weights of its likeliest tokens, memory-mapped, appended by row.

labels.json    what they were made of, and how many tokens each latent has
ids.bin        int32 (latents, k)
weights.bin    float16 (latents, k)
ends.bin       int64 (rows,), latents up to and including the row; a row counts once it stands here
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput, RunMismatch, StoreError
from eval_math.files import write_json
from eval_math.records import Json

HEADER = "labels.json"
FORMAT = "laconic-soft-labels/1"
FILES = ("ids.bin", "weights.bin", "ends.bin")
ID_BYTES, WEIGHT_BYTES, END_BYTES = 4, 2, 8


@dataclass(frozen=True)
class SoftLabels:
    """Labels to be read: row ``n`` has latents ``ends[n - 1]`` to ``ends[n]``."""

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float16]
    ends: npt.NDArray[np.int64]
    made_of: Mapping[str, Json]

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Ids and weights (N, k) of a row; the weights sum to 1 again."""
        start = int(self.ends[number - 1]) if number else 0
        stop = int(self.ends[number])
        weights = self.weights[start:stop].astype(np.float32)
        return self.ids[start:stop].astype(np.int64), weights / weights.sum(-1, keepdims=True)


class LabelWriter:
    """Appends rows; a folder of the same making is gone on with, what a killed writer left of a row is cut off.

    Raises:
        RunMismatch: the folder's labels were made of something else.
        StoreError: it cannot be written.
    """

    def __init__(self, folder: Path, top_k: int, made_of: Mapping[str, Json]) -> None:
        self._folder, self._k = folder, top_k
        header = {"format": FORMAT, "top_k": top_k, "made_of": dict(made_of)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._check(header)
            self.rows = self._recovered()
            self._files: list[IO[bytes]] = [(folder / name).open("ab") for name in FILES]
        except OSError as error:
            raise StoreError(f"{folder}: soft labels cannot be written ({error}); free some space") from error

    def append(self, ids: npt.NDArray[Any], weights: npt.NDArray[Any]) -> None:
        """One row's ids and weights (N, k)."""
        self._latents += len(ids)
        arrays = (ids.astype(np.int32), weights.astype(np.float16), np.array([self._latents], np.int64))
        try:
            for file, array in zip(self._files, arrays, strict=True):
                file.write(array.tobytes())
        except OSError as error:
            raise StoreError(f"{self._folder}: soft labels cannot be written ({error}); free some space") from error
        self.rows += 1

    def close(self) -> None:
        """Write what is buffered, the row ends last."""
        for file in self._files:
            file.close()

    def _check(self, header: Mapping[str, Any]) -> None:
        path = self._folder / HEADER
        if not path.exists():
            write_json(path, dict(header))
        elif json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(header)):
            raise RunMismatch(
                f"{self._folder} holds soft labels of another making; delete it, or choose another folder"
            )

    def _recovered(self) -> int:
        """Whole rows; the files are cut to them."""
        for name in FILES:
            (self._folder / name).touch()
        sizes = (ID_BYTES * self._k, WEIGHT_BYTES * self._k, END_BYTES)
        found = [(self._folder / name).stat().st_size // size for name, size in zip(FILES, sizes, strict=True)]
        ends = np.fromfile(self._folder / FILES[2], np.int64, count=found[2])
        rows = int(np.searchsorted(ends, min(found[:2]), side="right"))
        self._latents = int(ends[rows - 1]) if rows else 0
        for name, size, count in zip(FILES, sizes, (self._latents, self._latents, rows), strict=True):
            os.truncate(self._folder / name, size * count)
        return rows


def read_labels(folder: Path) -> SoftLabels:
    """The labels of a folder, memory-mapped.

    Raises:
        BadInput: none there, or files that do not fit together.
    """
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        k = int(header["top_k"])
        ends = np.fromfile(folder / FILES[2], np.int64)
        shape = (int(ends[-1]), k)
        ids = np.memmap(folder / FILES[0], np.int32, "r", shape=shape)
        weights = np.memmap(folder / FILES[1], np.float16, "r", shape=shape)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadInput(f"{folder}: no soft labels that can be read ({error}); make them anew") from error
    return SoftLabels(ids, weights, ends, header["made_of"])


def store_bytes(rows: int, latents_per_row: float, top_k: int) -> float:
    """Bytes of a store by formula: ids, weights and row ends."""
    return rows * (latents_per_row * top_k * (ID_BYTES + WEIGHT_BYTES) + END_BYTES)
