"""The crash benchmark holds for a small job, and sees a job that does not survive."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.every_byte import cut_everywhere
from benchmarks.recorded_changes import Recorder, changed
from cot.journal import Journal
from eval_math.files import write_json

ROWS = 2


def test_a_job_killed_at_any_byte_ends_as_an_undisturbed_one(tmp_path):
    found = cut_everywhere(ROWS, 20, 0, tmp_path)
    assert found.holds
    assert found.bytes_tried > found.opened > 1000
    assert found.resumed_from > 40


def test_a_torn_line_left_in_place_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(Journal, "_mend", lambda *_: None)
    found = cut_everywhere(ROWS, 20, 0, tmp_path)
    assert found.wrongly_recovered == found.opened
    assert found.differing


def test_a_file_written_in_place_is_seen(tmp_path, monkeypatch):
    def in_place(path: Path, value: object) -> None:
        write_json(path.with_name(".elsewhere"), value)
        path.write_bytes(path.with_name(".elsewhere").read_bytes())

    monkeypatch.setattr("cot.datagen.manifest.write_json", in_place)
    found = cut_everywhere(1, 0, 0, tmp_path)
    assert found.differing > 1000
    assert not found.wrongly_recovered


def test_recorded_changes_lead_to_the_folder_as_it_is(tmp_path):
    with Recorder(tmp_path) as recorder:
        (tmp_path / "a").write_text("one\ntwo\n", "utf-8")
        with (tmp_path / "a").open("r+b") as handle:
            handle.seek(4)
            handle.write(b"TWO")
        with (tmp_path / "b").open("ab") as handle:
            handle.write(b"bytes")
        (tmp_path / "b").replace(tmp_path / "c")
        os.truncate(tmp_path / "c", 3)
        (tmp_path / "d").touch()
        (tmp_path / "d").unlink()
        (tmp_path / "c").read_bytes()
    files: dict[str, bytes] = {}
    for change in recorder.changes:
        files = changed(files, change)
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one\nTWO\n", "c": b"byt"}
    assert recorder.found == {"a", "c"}
