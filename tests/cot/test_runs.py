"""The run folder: what a kill, a full disk, a second process or another configuration may and may not do to it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cot.journal import Journal
from cot.runs import GRADES, INFO, TRACES, RunInfo, content_hash, open_run, read_info, read_problems
from eval_math.errors import BadInput, RunMismatch, StoreError
from eval_math.records import Grade, Problem, Trace, to_line

PROBLEMS = [Problem(f"p/{i}", "toy", f"{i}+1?", str(i + 1)) for i in range(4)]
INFO_RECORD = RunInfo("toy", "none", "tiny", {"samples": 1, "sampling": {"temperature": 0.0}})


def trace(index: int, **changes: object) -> Trace:
    base = Trace(f"p/{index}", 0, "none", "so\u2028\n\x85 \u00e9", "so", "1", 3, 2, 1, "stop", key=f"k{index}")
    return replace(base, **changes)  # type: ignore[arg-type]


def grade(index: int) -> Grade:
    return Grade(f"p/{index}", 0, "correct", extracted="1")


def units(*indices: int) -> list[tuple[str, int]]:
    return [(f"p/{i}", 0) for i in indices]


def start(folder: Path, info: RunInfo = INFO_RECORD, *, overwrite: bool = False):
    return open_run(folder, info, PROBLEMS, overwrite=overwrite)


def fill(folder: Path, *indices: int) -> None:
    with start(folder) as run:
        for index in indices:
            run.add_trace(trace(index))
            run.add_grade(grade(index))


def test_what_is_stored_is_read_back(tmp_path):
    fill(tmp_path / "run", 0, 1)
    with start(tmp_path / "run") as run:
        assert run.trace(("p/0", 0)) == trace(0)
        assert list(run.stored) == units(0, 1)
        assert list(run.grades()) == [grade(0), grade(1)]
    assert read_problems(tmp_path / "run") == PROBLEMS
    info = read_info(tmp_path / "run")
    assert len(info.sessions) == 2
    assert "python" in info.sessions[0]["versions"]


def test_a_row_cut_at_any_byte_is_dropped_and_never_glued_to_the_next(tmp_path):
    line = to_line(trace(1)).encode()
    folder = tmp_path / "run"
    fill(folder, 0)
    before = (folder / TRACES).read_bytes()
    for cut in [*range(0, len(line) - 2, 11), len(line) - 2, len(line) - 1]:
        (folder / TRACES).write_bytes(before + line[:cut])
        with start(folder) as run:
            kept = ("p/1", 0) in run.stored
            assert kept == (cut == len(line) - 1)
            run.add_trace(trace(2))
        rows = [json.loads(raw)["problem_id"] for raw in (folder / TRACES).read_bytes().splitlines()]
        assert rows == ["p/0", "p/1", "p/2"] if kept else rows == ["p/0", "p/2"]


def test_a_bad_line_in_the_middle_is_quarantined_and_its_unit_is_open_again(tmp_path, caplog):
    folder = tmp_path / "run"
    fill(folder, 0, 1, 2)
    lines = (folder / TRACES).read_bytes().splitlines(keepends=True)
    lines[1] = b'{"schema":1,"problem_id":"p/1"\x00\xff\n'
    (folder / TRACES).write_bytes(b"".join(lines))
    with start(folder) as run:
        assert list(run.stored) == units(0, 2)
        assert run.add_trace(trace(1))
        run.finalise(units(0, 1, 2))
    assert (folder / "traces.quarantine.jsonl").read_bytes() == lines[1]
    assert "1 unreadable line(s)" in caplog.text


def test_the_first_of_two_rows_for_a_unit_wins(tmp_path):
    folder = tmp_path / "run"
    fill(folder, 0)
    with (folder / TRACES).open("a", encoding="utf-8") as handle:
        handle.write(to_line(trace(0, text="late")))
    with start(folder) as run:
        assert run.trace(("p/0", 0)).text == trace(0).text
        assert not run.add_trace(trace(0, text="later"))
    assert (folder / TRACES).read_text(encoding="utf-8") == to_line(trace(0))


def test_order_of_arrival_and_times_do_not_change_the_content(tmp_path):
    fill(tmp_path / "a", 0, 1, 2)
    with start(tmp_path / "b") as run:
        for index in (2, 0, 1):
            run.add_trace(trace(index, seconds=9.5, n_forward=index, provenance={"seconds": index}))
            run.add_grade(grade(index))
        run.finalise(units(0, 1, 2))
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    names = [json.loads(line)["problem_id"] for line in (tmp_path / "b" / GRADES).open(encoding="utf-8")]
    assert names == ["p/0", "p/1", "p/2"]
    with start(tmp_path / "b") as run:
        run.drop(units(1))
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_failed_traces_are_counted_and_can_be_done_again(tmp_path):
    with start(tmp_path / "run") as run:
        run.add_trace(trace(0, finish="error", error="too long"))
        run.add_trace(trace(1))
        assert run.failed == units(0)
        assert run.ungraded == units(0, 1)
        run.drop(run.failed)
        assert run.add_trace(trace(0))
        assert run.failed == []


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    fill(tmp_path / "run", 0)
    stored = (tmp_path / "run" / TRACES).read_bytes()
    other = replace(INFO_RECORD, config={"samples": 4, "sampling": {"temperature": 0.6}})
    with pytest.raises(RunMismatch) as caught:
        start(tmp_path / "run", other)
    assert "samples: 1 stored, 4 asked" in str(caught.value)
    assert "sampling.temperature: 0.0 stored, 0.6 asked" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert (tmp_path / "run" / TRACES).read_bytes() == stored
    with start(tmp_path / "run", other, overwrite=True) as run:
        assert run.stored == {}


def test_overwrite_goes_on_with_a_run_of_the_same_configuration(tmp_path):
    fill(tmp_path / "run", 0, 1)
    with start(tmp_path / "run", overwrite=True) as run:
        assert list(run.stored) == units(0, 1)
    (tmp_path / "run" / INFO).write_text("damaged")
    with start(tmp_path / "run", overwrite=True) as run:
        assert run.stored == {}


def test_other_problems_are_another_configuration(tmp_path):
    fill(tmp_path / "run", 0)
    changed = [replace(PROBLEMS[0], question="2+2?"), *PROBLEMS[1:]]
    with pytest.raises(RunMismatch, match=r"problems\.hash: "):
        open_run(tmp_path / "run", INFO_RECORD, changed)


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    code = "import sys; sys.path.insert(0, '.'); from tests.cot.test_runs import *; start(Path(sys.argv[1]))"
    with start(tmp_path / "run"):
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], cwd=root, capture_output=True, text=True)
        assert done.returncode != 0
        assert f"in use by another process (pid {os.getpid()})" in done.stderr
    start(tmp_path / "run").close()


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match=r"not empty and not a run \(thesis.tex\)"):
        start(tmp_path)
    with pytest.raises(BadInput, match="not empty and not a run"):
        start(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_damaged_run_json_is_named(tmp_path):
    fill(tmp_path / "run", 0)
    (tmp_path / "run" / INFO).write_text('{"schema": 1, "config"')
    with pytest.raises(BadInput, match=r"run\.json: cannot be read"):
        start(tmp_path / "run")
    (tmp_path / "run" / INFO).write_text('{"schema": 99}')
    with pytest.raises(BadInput, match="schema 99 found"):
        start(tmp_path / "run")


def test_a_full_disk_is_one_clear_error_and_leaves_whole_rows(tmp_path):
    """The limit cuts the write of the second row in half; the half must go."""
    path = tmp_path / "rows.jsonl"
    journal: Journal[str] = Journal(path, lambda row: row["id"])
    row = json.dumps({"id": "a", "text": "x" * 100}) + "\n"
    journal.append("a", row)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(row) + 40, hard))
    try:
        with pytest.raises(StoreError, match="free some space"):
            journal.append("b", row.replace('"a"', '"b"'))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == row
    assert journal.append("b", row.replace('"a"', '"b"'))
    journal.close()
    assert list(Journal(path, lambda row: row["id"])) == ["a", "b"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_space_left_is_a_store_error(tmp_path):
    journal: Journal[str] = Journal(tmp_path / "rows.jsonl", lambda row: row["id"])
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._file)
    os.close(full)
    with pytest.raises(StoreError, match="No space left"):
        journal.append("a", '{"id":"a"}\n')


def test_an_unwritable_place_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another folder"):
        start(tmp_path / "file" / "run")
