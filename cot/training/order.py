"""The order in which rows are trained: a pure function of lengths, batch size, epochs and seed.

One list for the whole training, ``batch`` rows per update. The number of processes and the rows per forward pass do
not enter, so that an update sees the same rows however the work is shared out, and a resumed training goes on where
it stopped.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice


def update_count(rows: int, batch: int, epochs: float) -> int:
    """Updates of a training: every row is seen ``epochs`` times, and the last update is a full one."""
    return max(1, math.ceil(rows * epochs / batch - 1e-9))


def data_order(lengths: Sequence[int], batch: int, epochs: float, seed: int, pool: int = 1) -> list[int]:
    """Row numbers, ``batch`` for each update; within an update from short to long, so that passes pad little.

    Args:
        pool: rows are sorted by length within so many updates and dealt out from there, and those updates shuffled;
            1 leaves every update a random choice.
    """
    rows = len(lengths)
    updates = update_count(rows, batch, epochs)
    stream = list(islice(_passes(rows, seed), updates * batch))
    rng = random.Random(f"{seed}:updates")
    order: list[int] = []
    for start in range(0, len(stream), pool * batch):
        together = sorted(stream[start : start + pool * batch], key=lambda row: (lengths[row], row))
        groups = [together[at : at + batch] for at in range(0, len(together), batch)]
        rng.shuffle(groups)
        order += [row for group in groups for row in group]
    return order


def _passes(rows: int, seed: int) -> Iterator[int]:
    """Row numbers without end, each pass a new shuffle."""
    number = 0
    while True:
        shuffled = list(range(rows))
        random.Random(f"{seed}:{number}").shuffle(shuffled)
        yield from shuffled
        number += 1
