"""What a job keeps: sealed lines, and an index that holds nothing in memory."""

from __future__ import annotations

import pytest

from cot.datagen.index import DiskIndex
from cot.datagen.store import sealed, unsealed
from cot.journal import Span
from eval_math.errors import BadInput, StoreError


def test_seal_tells_every_changed_character():
    text = sealed({"key": "a", "text": "ü \\ \ud800"})
    line = text.encode("utf-8", "surrogatepass")
    assert unsealed(line) == unsealed(line[:-1]) == {"key": "a", "text": "ü \\ \ud800"}
    for at in range(len(line) - 1):
        for other in (b"1", b"2", b" "):
            changed = line[:at] + other + line[at + 1 :]
            if changed != line:
                with pytest.raises(BadInput):
                    unsealed(changed)
        with pytest.raises(BadInput):
            unsealed(line[:at])


def test_disk_index_is_a_mapping_in_order():
    index = DiskIndex()
    for name in ("b", "a", "c"):
        index[name] = Span(len(index), 1)
    index["a"] = Span(9, 9)
    del index["b"]
    assert (list(index), index["a"], len(index), "b" in index) == (["a", "c"], Span(9, 9), 2, False)
    assert list(index.ordered()) == ["a", "c"]
    assert index.setdefault("a", Span(1, 1)) == Span(9, 9)
    assert (index.setdefault("d", Span(1, 1)), len(index)) == (Span(1, 1), 3)
    with pytest.raises(KeyError):
        index["b"]
    index.clear()
    assert not index


def test_no_room_for_the_index_is_an_error_of_the_store():
    index = DiskIndex(most_pages=4)
    with pytest.raises(StoreError, match="TMPDIR"):
        for at in range(10_000):
            index[str(at)] = Span(at, 1)
