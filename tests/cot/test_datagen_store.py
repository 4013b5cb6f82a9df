"""What a job keeps: sealed lines, and an index that holds nothing in memory."""

from __future__ import annotations

import json

import pytest

from cot.datagen.index import DiskIndex
from cot.datagen.store import sealed, unsealed
from cot.journal import Span
from eval_math.errors import BadInput


def test_seal_tells_every_changed_character():
    line = sealed({"key": "a", "text": "ü \\ \ud800"})
    assert unsealed(json.loads(line)) == {"key": "a", "text": "ü \\ \ud800"}
    for at, letter in enumerate(line[:-1]):
        try:
            row = json.loads(line[:at] + ("1" if letter != "1" else "2") + line[at + 1 :])
        except ValueError:
            continue
        with pytest.raises(BadInput):
            unsealed(row if isinstance(row, dict) else {})


def test_disk_index_is_a_mapping_in_order():
    index = DiskIndex()
    for name in ("b", "a", "c"):
        index[name] = Span(len(index), 1)
    index["a"] = Span(9, 9)
    del index["b"]
    assert (list(index), index["a"], len(index), "b" in index) == (["a", "c"], Span(9, 9), 2, False)
    assert list(index.ordered()) == ["a", "c"]
    with pytest.raises(KeyError):
        index["b"]
    index.clear()
    assert not index
