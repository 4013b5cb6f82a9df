"""C3oT's rows: long and short versions behind conditions, whatever fails costs the short row alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted import ScriptedEngine
from writer import ScriptedWriter, sums, write_rows

from cot.c3ot import C3ot, Conditioned, compression_rate, condition_text
from cot.datagen.dataset import Layout
from cot.datagen.job import Job, JobConfig, run_job
from cot.datagen.student import Student
from cot.datagen.supply import Supply
from cot.methods import parse_method
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Problem


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.named("embedded")


@pytest.fixture
def made(tmp_path, student):
    """Makes a dataset of 30 sums and returns its rows and statistics."""
    source = write_rows(tmp_path / "source.jsonl", sums(30))

    def make(rewriter: C3ot, engine: ScriptedWriter | None = None, name: str = "a", **layout):
        job = Job(JobConfig((source,), tmp_path / name, layout=Layout(**layout)), rewriter, student)
        stats = run_job(job, Supply(lambda: engine or ScriptedWriter())).stats
        rows = [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text("utf-8").splitlines()]
        return rows, stats

    return make


def test_two_rows_of_each_source_and_the_long_one_is_the_source(made):
    rows, _ = made(C3ot(compressor="embedded"))
    sources = {str(row["id"]): row for row in sums(30)}
    assert len(rows) == 60
    for row in rows:
        thinking = row["completion"][0]["content"].removeprefix("<think>")
        text = condition_text(row["condition"])
        assert row["prompt"][0]["content"].startswith(f"{text}: ")
        assert text not in thinking
        if row["condition"] == "long":
            assert thinking == sources[row["source_id"]]["output"]
        else:
            assert "Wait" not in thinking
            assert row["ratio_measured"] < 0.6
    assert {row["condition"] for row in rows if row["source_id"] == "sum-3"} == {"long", "short"}


def test_a_rewrite_that_fails_costs_the_short_row_alone(made):
    def answer(text: str) -> str:
        return (
            "So 1+1=3." if "5+6=11" in text else text.split(" Wait", maxsplit=1)[0].removeprefix("Okay, let me see. ")
        )

    rows, stats = made(C3ot(compressor="embedded"), ScriptedWriter(answer=answer))
    conditions = [row["condition"] for row in rows]
    assert (conditions.count("long"), conditions.count("short")) == (30, stats.rows["short"])
    assert stats.statuses["part"] == 30 - stats.rows["short"] > 0
    assert stats.statuses["kept"] == stats.rows["short"]


def test_a_failed_try_is_followed_by_others_at_a_temperature(made):
    engine = ScriptedWriter(answer=lambda text: text)
    _, stats = made(C3ot(compressor="embedded", tries=3), engine)
    assert (stats.rows["short"], stats.rejected_attempts) == (0, 90)
    mine = [r for r in engine.asked if r.problem_id == engine.asked[0].problem_id]
    assert sorted(r.sampling.temperature for r in mine) == [0.0, 0.7, 0.7]
    assert len({r.sampling.seed for r in mine}) == 3


def test_same_seed_same_file_other_seed_same_rows(made, tmp_path):
    rewriter = C3ot(compressor="embedded")
    first, again, other = made(rewriter)[0], made(rewriter, name="b")[0], made(rewriter, name="c", seed=1)[0]
    assert first == again != other
    assert sorted(row["id"] for row in first) == sorted(row["id"] for row in other)


def test_mixed_levels_are_told_apart_and_the_last_has_no_rationale(made):
    engine = ScriptedWriter()
    rows, _ = made(C3ot("mixed", compressor="embedded"), engine)
    of_one = {row["condition"]: row for row in rows if row["source_id"] == "sum-3"}
    assert set(of_one) >= {"long", "level-6"}
    assert of_one["level-6"]["completion"][0]["content"].startswith("<think></think>")
    assert of_one["level-6"]["ratio_requested"] == 0
    asked = {request.messages[0].content.split("%")[0][-2:] for request in engine.asked}
    assert asked == {"50", "40", "30", "20", "10"}
    assert len({condition_text(level) for level in of_one}) == len(of_one)


@pytest.mark.parametrize(("share", "long", "short"), [(0.0, 0, 30), (1.0, 30, 0), (0.5, 30, 30)])
def test_long_share_thins_one_side(made, share, long, short):
    conditions = [row["condition"] for row in made(C3ot(compressor="embedded", long_share=share))[0]]
    assert (conditions.count("long"), conditions.count("short")) == (long, short)


def test_without_conditions_prompts_are_alike(made):
    rows, _ = made(C3ot(compressor="embedded", conditions="none"))
    prompts = [row["prompt"][0]["content"] for row in rows if row["source_id"] == "sum-3"]
    assert prompts[0] == prompts[1]


def test_wrong_cut_off_and_unclosed_sources_are_left_out(tmp_path, student):
    rows = sums(5)
    rows[1]["answer"] = "999"
    rows[2]["finish"] = "length"
    rows[3]["output"] = "So 1+1=2. The answer is 2."
    rows[4]["correct"] = False
    job = Job(
        JobConfig((write_rows(tmp_path / "s.jsonl", rows),), tmp_path / "a"), C3ot(compressor="embedded"), student
    )
    stats = run_job(job, Supply(ScriptedWriter)).stats
    assert dict(stats.statuses) == {"kept": 1, "excluded": 4}
    assert dict(stats.errors) == {"wrong": 2, "truncated": 1, "no thinking": 1}


def test_asking_needs_the_words_of_training(made):
    problem = Problem("p", "file", "3+4+1?", "8")
    method = parse_method("c3ot:condition=short")
    assert isinstance(method, Conditioned)
    row = next(r for r in made(C3ot(compressor="embedded"))[0] if r["condition"] == "short" and "3+4+1?" in str(r))
    assert method.messages(problem, prompt(problem))[0].content == row["prompt"][0]["content"]
    with pytest.raises(BadInput, match=r"condition 'brief' is unknown; known: long, short, level-1"):
        parse_method("c3ot:condition=brief")


def test_compression_rate():
    long = {"a": 100, "b": 300}
    assert compression_rate(long, long) == 0
    assert compression_rate({"a": 0, "b": 0}, long) == 1
    assert compression_rate({"b": 300, "a": 500}, long) == -1
    with pytest.raises(BadInput, match="'b' is in one only"):
        compression_rate({"a": 1}, long)


@pytest.mark.parametrize(
    "bad", [{"compressor": "x"}, {"long_share": 2}, {"tries": 0}, {"levels": "mixed", "conditions": "none"}]
)
def test_bad_settings(bad):
    with pytest.raises(BadInput):
        C3ot(**bad)


def test_question_and_trace_may_spell_a_placeholder(tmp_path, student):
    row = sums(1)[0] | {"question": "What is {thinking}? 2+3+1?"}
    engine = ScriptedWriter()
    source = write_rows(tmp_path / "s.jsonl", [row])
    run_job(Job(JobConfig((source,), tmp_path / "a"), C3ot(), student), Supply(lambda: engine))
    assert "Question: What is {thinking}? 2+3+1?" in engine.asked[0].messages[0].content


def test_an_engine_without_the_need_is_refused(tmp_path, student):
    from cot.tokenskip import TokenSkip

    source = write_rows(Path(tmp_path) / "s.jsonl", sums(1))
    with pytest.raises(BadInput, match="tokenskip needs 'score', which engine scripted does not have"):
        run_job(Job(JobConfig((source,), tmp_path / "a"), TokenSkip(), student), Supply(lambda: ScriptedEngine({})))
