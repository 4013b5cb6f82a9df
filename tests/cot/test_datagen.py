"""A rewriting job keeps what it has, asks only what changed, and puts rows out in an order of its own."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from writer import ScriptedWriter, sums, write_rows

from cot.c3ot import C3ot
from cot.datagen.dataset import Layout, split_of
from cot.datagen.gates import GateSettings
from cot.datagen.job import Job, JobConfig, read_outcome, run_job
from cot.datagen.records import DataRow, Generate, Outcome, Score, SourceRow
from cot.datagen.rewriter import Bench, Work
from cot.datagen.source import read_source
from cot.datagen.store import Shard
from cot.datagen.student import Student
from cot.datagen.supply import Supply
from eval_math.errors import BadInput, EngineError, RunMismatch, StoreError
from eval_math.records import Message, Sampling

DATA_FILES = ("train.jsonl", "rejected.jsonl", "stats.json")


@dataclass(frozen=True)
class Echo:
    """The least a rewriter can do: one call, one row."""

    name: ClassVar[str] = "echo"
    note: str = ""
    scored: bool = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"generate", "score"})

    def fingerprint(self) -> dict[str, object]:
        return {"name": self.name, "note": self.note, "scored": self.scored}

    def rewrite(self, row: SourceRow, bench: Bench) -> Work:
        (trace,) = yield [Generate("whole", 0, (Message("user", f"Shorten: {row.output}"),), Sampling())]
        if trace.error:
            return Outcome("error", error=trace.error)
        if self.scored:
            yield [Score((1,), tuple(bench.engine.encode(row.problem.question)))]
        return Outcome("kept", (DataRow((Message("user", row.problem.question),), trace.text),))


@pytest.fixture(scope="session")
def student() -> Student:
    return Student.named("embedded")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "source.jsonl", sums(30))


def make(job: Job, engine: ScriptedWriter, deaths: int = 2):
    return run_job(job, Supply(lambda: engine, deaths))


def job(source: Path, out: Path, student: Student, rewriter=Echo(), **config) -> Job:
    return Job(JobConfig((source,), out, **config), rewriter, student)


def dataset(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in DATA_FILES}


def test_same_dataset_whatever_the_batches_shards_and_order_of_answers(tmp_path, source, student):
    first = make(job(source, tmp_path / "a", student), ScriptedWriter(batch_size=1))
    make(job(source, tmp_path / "b", student), ScriptedWriter(batch_size=7))
    make(job(source, tmp_path / "c", student, shards=4), ScriptedWriter(batch_size=100))
    assert first.stats.rows.total() == 30
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b") == dataset(tmp_path / "c")


def test_a_second_call_asks_nothing_and_writes_the_same(tmp_path, source, student):
    make(job(source, tmp_path / "a", student), ScriptedWriter())
    before, again = dataset(tmp_path / "a"), ScriptedWriter()
    result = make(job(source, tmp_path / "a", student), again)
    assert (again.asked, result.counts.rows_found) == ([], 30)
    assert dataset(tmp_path / "a") == before


def test_changed_gates_need_no_engine_and_a_changed_prompt_needs_it_for_every_row(tmp_path, source, student):
    started = job(source, tmp_path / "a", student, C3ot(compressor="embedded"))
    make(started, ScriptedWriter())
    stricter = replace(started, gates=GateSettings(most_ratio=0.1), config=replace(started.config, update=True))
    engine = ScriptedWriter()
    result = make(stricter, engine)
    # The first try is stored; two more tries of each row are new.
    assert len(engine.asked) == 60
    assert result.stats.gates["shorter"] == 90
    looser = replace(started, gates=GateSettings(most_ratio=0.94), config=replace(started.config, update=True))
    engine = ScriptedWriter()
    assert make(looser, engine).stats.rows["short"] == 30
    assert engine.asked == []
    other = ScriptedWriter()
    make(replace(started, rewriter=C3ot(compressor="general"), config=replace(started.config, update=True)), other)
    assert len(other.asked) == 30


def test_another_model_or_seed_is_asked_anew(tmp_path, source, student):
    started = job(source, tmp_path / "a", student)
    make(started, ScriptedWriter())
    for engine, seed in ((ScriptedWriter(model_hash="other"), 0), (ScriptedWriter(), 1)):
        changed = replace(started, config=replace(started.config, update=True, seed=seed))
        make(changed, engine)
        assert len(engine.asked) == 30


def test_an_edited_row_costs_one_call(tmp_path, source, student):
    make(job(source, tmp_path / "a", student), ScriptedWriter())
    rows = sums(30)
    rows[7] = sums(1, 500)[0]
    write_rows(source, rows)
    with pytest.raises(RunMismatch, match="sha256"):
        make(job(source, tmp_path / "a", student), ScriptedWriter())
    engine = ScriptedWriter()
    make(job(source, tmp_path / "a", student, update=True), engine)
    assert len(engine.asked) == 1
    make(job(source, tmp_path / "b", student), ScriptedWriter())
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_order_of_the_source_decides_the_order_of_rows_only_if_asked(tmp_path, student):
    rows = sums(30)
    forth, back = write_rows(tmp_path / "1.jsonl", rows), write_rows(tmp_path / "2.jsonl", rows[::-1])
    in_order = {"layout": Layout("source")}
    make(job(forth, tmp_path / "a", student, **in_order), ScriptedWriter())
    make(job(back, tmp_path / "b", student, **in_order), ScriptedWriter())
    names = [[row["source_id"] for row in lines(tmp_path / out)] for out in "ab"]
    assert names[0] == [row["id"] for row in rows] == names[1][::-1]
    make(job(forth, tmp_path / "c", student), ScriptedWriter())
    make(job(forth, tmp_path / "d", student, layout=Layout(seed=1)), ScriptedWriter())
    shuffled, other = ([row["id"] for row in lines(tmp_path / out)] for out in "cd")
    assert shuffled != other
    assert sorted(shuffled) == sorted(other)


def lines(out: Path, name: str = "train.jsonl") -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text("utf-8").splitlines()]


def test_counts_reconcile_and_duplicates_are_counted_once(tmp_path, student):
    source = write_rows(tmp_path / "s.jsonl", [*sums(10), *sums(3), *sums(2, 700)])
    engine = ScriptedWriter()
    stats = make(job(source, tmp_path / "a", student), engine).stats
    assert (stats.sources, stats.duplicates, stats.statuses.total()) == (15, 3, 12)
    assert len(engine.asked) == 12


def test_a_row_that_cannot_be_asked_fails_alone(tmp_path, source, student):
    @dataclass(frozen=True)
    class Picky(Echo):
        def rewrite(self, row, bench):
            if row.problem.id == "sum-3":
                raise BadInput("row is too long: 9 tokens")
            return (yield from super().rewrite(row, bench))

    stats = make(job(source, tmp_path / "a", student, Picky()), ScriptedWriter()).stats
    assert dict(stats.statuses) == {"kept": 29, "error": 1}
    assert dict(stats.errors) == {"row is too long": 1}


def test_the_engine_may_die_twice(tmp_path, source, student):
    @dataclass
    class Mortal(ScriptedWriter):
        left: int = 10

        def generate(self, requests, *, on_trace=None):
            for trace in super().generate(requests):
                self.left -= 1
                if self.left < 0:
                    raise EngineError("out of memory")
                yield trace

    opened: list[Mortal] = []

    def open_engine():
        opened.append(Mortal(left=1000 if len(opened) == 2 else 10))
        return opened[-1]

    result = run_job(job(source, tmp_path / "a", student), Supply(open_engine))
    assert (len(opened), result.counts.engine_deaths) == (3, 2)
    assert opened[0].closed and opened[1].closed
    make(job(source, tmp_path / "b", student), ScriptedWriter())
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")
    with pytest.raises(EngineError, match="out of memory"):
        run_job(job(source, tmp_path / "c", student), Supply(lambda: Mortal(left=2), 3))
    stored = ScriptedWriter()
    make(job(source, tmp_path / "c", student), stored)
    assert len(stored.asked) == 30 - 4 * 2


def test_requests_on_which_the_engine_failed_are_asked_again_if_wanted(tmp_path, source, student):
    @dataclass
    class Failing(ScriptedWriter):
        def generate(self, requests, *, on_trace=None):
            for trace in super().generate(requests):
                bad = "Shorten: Okay, let me see. So 5+" in self.asked[-1].messages[0].content
                yield replace(trace, finish="error", error="refused") if bad else trace

    failed = make(job(source, tmp_path / "a", student), Failing()).stats
    assert dict(failed.statuses) == {"kept": 29, "error": 1}
    untouched = ScriptedWriter()
    make(job(source, tmp_path / "a", student), untouched)
    assert untouched.asked == []
    mended = ScriptedWriter()
    stats = make(job(source, tmp_path / "a", student, retry_errors=True), mended).stats
    assert (len(mended.asked), dict(stats.statuses)) == (1, {"kept": 30})


def test_one_process_per_shard(tmp_path, source, student):
    make(job(source, tmp_path / "a", student), ScriptedWriter())
    with Shard(tmp_path / "a", 0, 1, "recipe"), pytest.raises(StoreError, match="in use by another process"):
        make(job(source, tmp_path / "a", student), ScriptedWriter())


def test_shards_are_done_apart_and_joined(tmp_path, source, student):
    for number in (1, 0):
        assert make(job(source, tmp_path / "a", student, shards=2, shard=number), ScriptedWriter()).stats is None
    last = ScriptedWriter()
    assert make(job(source, tmp_path / "a", student, shards=2), last).stats.rows.total() == 30
    assert last.asked == []
    with pytest.raises(BadInput, match=r"has 2 shard\(s\), 3 asked"):
        make(job(source, tmp_path / "a", student, shards=3, update=True), ScriptedWriter())


def test_scores_are_stored_too(tmp_path, source, student):
    make(job(source, tmp_path / "a", student, Echo(scored=True)), ScriptedWriter())
    again = ScriptedWriter()
    changed = job(source, tmp_path / "a", student, Echo("changed", scored=True), update=True)
    make(changed, again)
    assert (again.asked, again.scored) == ([], [])


def test_what_cannot_be_scored_is_an_error_of_its_row(tmp_path, source, student):
    @dataclass(frozen=True)
    class Long(Echo):
        def rewrite(self, row, bench):
            yield [Score((1,), (2,) * (200_000 if row.problem.id == "sum-4" else 2))]
            return Outcome("kept")

    stats = make(job(source, tmp_path / "a", student, Long()), ScriptedWriter()).stats
    assert dict(stats.statuses) == {"kept": 29, "error": 1}


def test_full_disk_ends_the_job_and_loses_nothing(tmp_path, source, student, monkeypatch):
    room = [4000]
    write = os.write

    def stingy(handle: int, data: bytes) -> int:
        if len(data) > room[0]:
            raise OSError(28, "No space left on device")
        room[0] -= len(data)
        return write(handle, data)

    monkeypatch.setattr("cot.journal.os.write", stingy)
    with pytest.raises(StoreError, match="No space left"):
        make(job(source, tmp_path / "a", student), ScriptedWriter())
    monkeypatch.undo()
    engine = ScriptedWriter()
    make(job(source, tmp_path / "a", student), engine)
    assert 0 < len(engine.asked) < 30
    make(job(source, tmp_path / "b", student), ScriptedWriter())
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_a_flipped_bit_is_noticed_and_its_row_done_again(tmp_path, source, student):
    make(job(source, tmp_path / "a", student), ScriptedWriter())
    before = dataset(tmp_path / "a")
    path = tmp_path / "a" / "shard-00000-of-00001" / "calls.jsonl"
    (tmp_path / "a" / "shard-00000-of-00001" / "outcomes.jsonl").unlink()
    text = path.read_text("utf-8")
    path.write_text(text.replace("The answer", "The answen", 1), "utf-8")
    engine = ScriptedWriter()
    make(job(source, tmp_path / "a", student), engine)
    assert len(engine.asked) == 1
    assert dataset(tmp_path / "a") == before
    assert (path.parent / "calls.quarantine.jsonl").read_text("utf-8").count("\n") == 1


def test_a_shard_doubled_by_hand_changes_nothing(tmp_path, source, student):
    make(job(source, tmp_path / "a", student), ScriptedWriter())
    before = dataset(tmp_path / "a")
    for name in ("calls.jsonl", "outcomes.jsonl"):
        path = tmp_path / "a" / "shard-00000-of-00001" / name
        path.write_bytes(path.read_bytes() * 2)
    engine = ScriptedWriter()
    make(job(source, tmp_path / "a", student), engine)
    assert engine.asked == []
    assert dataset(tmp_path / "a") == before


def test_lines_of_another_shard_are_not_taken(tmp_path, source, student):
    make(job(source, tmp_path / "a", student, shards=2), ScriptedWriter())
    one, two = (tmp_path / "a" / f"shard-0000{n}-of-00002" / "calls.jsonl" for n in (0, 1))
    whole = one.read_bytes()
    one.write_bytes(whole + two.read_bytes())
    with Shard(tmp_path / "a", 0, 2, "recipe") as shard:
        assert shard.repairs[0].quarantined == two.read_bytes().count(b"\n")
    assert one.read_bytes() == whole


def test_all_versions_of_a_question_stand_in_one_split(tmp_path, source, student):
    make(
        job(source, tmp_path / "a", student, C3ot(compressor="embedded"), layout=Layout(validation=0.3)),
        ScriptedWriter(),
    )
    splits = [{row["source_id"] for row in lines(tmp_path / "a", name)} for name in ("train.jsonl", "validation.jsonl")]
    assert not splits[0] & splits[1]
    assert len(splits[0] | splits[1]) == 30
    assert len(splits[1]) == sum(split_of(str(row["question"]), 0.3) == "validation.jsonl" for row in sums(30)) > 3


def test_a_folder_of_something_else_is_refused(tmp_path, source, student):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"not empty and not a dataset"):
        make(job(source, tmp_path / "a", student), ScriptedWriter())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "1?", "answer": "1"}, "no field output or trace or long"),
        ({"question": "1?", "answer": "1", "output": 3}, "field output is no text"),
        ({"question": "1?", "answer": "1", "output": "x\0"}, "NUL"),
        ({"question": "1?", "answer": "1", "output": "x", "correct": "yes"}, "correct 'yes'"),
        ({"question": "1?", "answer": "1", "output": "x", "finish": "error"}, "finish 'error'"),
    ],
)
def test_malformed_rows_are_named(tmp_path, row, message):
    path = write_rows(tmp_path / "s.jsonl", [*sums(1), row])
    with pytest.raises(BadInput, match=rf"line 2: .*{message}"):
        list(read_source(path))


def test_every_rewrite_can_be_read_with_its_reasons(tmp_path, source, student):
    made = job(source, tmp_path / "a", student, C3ot(compressor="embedded", tries=1))
    make(made, ScriptedWriter(answer=lambda text: "So 1+1=3."))
    first = lines(tmp_path / "a", "rejected.jsonl")[0]
    outcome = read_outcome(tmp_path / "a", first["row_key"][:12])
    assert outcome.status == "part"
    assert "numeric_facts" in {rejection.gate for rejection in outcome.attempts[0].rejections}
    with pytest.raises(BadInput, match="no source row 'zz'"):
        read_outcome(tmp_path / "a", "zz")


def test_dataset_is_whole_or_absent(tmp_path, source, student, monkeypatch):
    make(job(source, tmp_path / "a", student), ScriptedWriter())
    replaced = Path.replace
    for stop in range(2):
        out, calls = tmp_path / f"b{stop}", [0]

        def dying(self: Path, target: Path, calls=calls, stop=stop) -> Path:
            if self.name.endswith(".jsonl.tmp"):
                if calls[0] == stop:
                    raise KeyboardInterrupt
                calls[0] += 1
            return replaced(self, target)

        monkeypatch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            make(job(source, out, student), ScriptedWriter())
        assert not (out / "_SUCCESS").exists()
        monkeypatch.undo()
        again = ScriptedWriter()
        make(job(source, out, student), again)
        assert again.asked == []
        assert dataset(out) == dataset(tmp_path / "a")


def test_a_disk_that_is_full_at_the_end_leaves_no_part_of_a_file(tmp_path, source, student, monkeypatch):
    def full(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().name == ".train.jsonl.tmp":
            raise OSError(28, "No space left on device")
        os.fdatasync(handle)

    def no_statistics(path: Path, value: object) -> None:
        raise StoreError(f"{path}: no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        make(job(source, tmp_path / "a", student), ScriptedWriter())
    monkeypatch.undo()
    assert not [*(tmp_path / "a").glob("train.jsonl"), *(tmp_path / "a").glob(".*.tmp")]
    monkeypatch.setattr("cot.datagen.dataset.write_json", no_statistics)
    with pytest.raises(StoreError, match=r"stats\.json: no space"):
        make(job(source, tmp_path / "b", student), ScriptedWriter())
