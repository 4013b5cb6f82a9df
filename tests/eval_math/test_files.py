"""Atomic writes: all or nothing, whatever the target is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from eval_math.errors import BadInput, StoreError
from eval_math.files import read_rows, refuse_special, write_atomic, write_json


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": 2})
    assert [row for _, row in read_rows(_one_line(path))] == [{"b": 2}] and [p.name for p in tmp_path.iterdir()] == [
        "a.json"
    ]


def test_half_a_surrogate_pair_is_written_and_read_back(tmp_path):
    path = tmp_path / "a.jsonl"
    write_atomic(path, '{"text":"\ud83d"}\n')
    assert [row["text"] for _, row in read_rows(path)] == ["\ud83d"]


def test_a_folder_that_is_not_there_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        write_atomic(tmp_path / "none" / "a", "x")


def test_a_device_is_written_to_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, "told")
        assert os.read(reader, 100) == b"told"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_no_room_is_a_store_error():
    with pytest.raises(StoreError, match="No space left"):
        write_atomic(Path("/dev/full"), "x")
    assert Path("/dev/full").is_char_device()


def test_only_a_file_may_be_renamed_over(tmp_path):
    refuse_special(tmp_path / "new")
    with pytest.raises(BadInput, match="folder, device or pipe"):
        refuse_special(tmp_path)


def _one_line(path: Path) -> Path:
    path.write_text(path.read_text().replace("\n", "") + "\n")
    return path
