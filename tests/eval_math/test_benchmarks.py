"""Benchmarks: the real files where they are, the hub's column names, and every way a file can be wrong."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import pytest

from eval_math import benchmarks
from eval_math.benchmarks import BENCHMARKS, choose, load
from eval_math.errors import BadInput
from eval_math.problem_files import last_boxed
from eval_math.prompts import BOXED, prompt
from eval_math.records import Message, Problem, to_line

needs_data = pytest.mark.skipif("LACONIC_DATA" not in os.environ, reason="LACONIC_DATA names no folder of benchmarks")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, request):
    if "real" not in request.node.name:
        monkeypatch.delenv("LACONIC_DATA", raising=False)


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def gsm(count: int) -> list[dict[str, str]]:
    return [{"id": f"g/{i}", "problem": f"{i}?", "answer": str(i)} for i in range(count)]


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "count", "first_id", "answer"),
    [
        ("gsm8k", "test", 1319, "gsm8k/test/0", "18"),
        ("gsm8k", "train", 7473, "gsm8k/train/0", "72"),
        ("math500", "test", 500, "math500/test/precalculus/807", "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("aime24", "test", 30, "aime24/0", "204"),
        ("aime25", "test", 30, "aime25/0", "70"),
        ("math", "test", 5000, "math500/test/precalculus/807", "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("math", "train", 7472, "math_train/0", "0"),
        ("gsm-hard", "test", 1319, "gsm_hard/0", "-9867630"),
        ("svamp", "test", 1000, "svamp/chal-1", "51"),
    ],
)
def test_real_files(name, split, count, first_id, answer):
    problems = load(name, split=split)
    assert len(problems) == count == len({problem.id for problem in problems})
    assert (problems[0].id, problems[0].answer, problems[0].benchmark) == (first_id, answer, name)


def test_every_benchmark_is_pinned_to_a_commit():
    for entry in BENCHMARKS.values():
        assert len(entry.revision) == 40
        assert set(entry.revision) <= set("0123456789abcdef")


HUB_ROWS = {
    "gsm8k": {"question": "2+2?", "answer": "It is <<2+2=4>>4.\n#### 1,004"},
    "math500": {
        "problem": "2+2?", "solution": "\\boxed{4}", "answer": "4", "subject": "Algebra", "level": 3,
        "unique_id": "test/algebra/7.json",
    },
    "aime24": {"id": 60, "problem": "2+2?", "solution": "s", "answer": "204", "url": "u", "year": "2024"},
    "aime25": {"problem": "2+2?", "answer": "70", "id": "0"},
    "math": {"problem": "2+2?", "level": "Level 5", "type": "Algebra", "solution": "so $\\boxed{\\frac{1}{2}}$."},
    "gsm-hard": {"input": "2+2?", "code": "def solution(): ...", "target": -9867630.0},
    "svamp": {
        "ID": "chal-777", "Body": "There are 87 oranges. ", "Question": "How many?", "Equation": "( 87.0 - 7.0 )",
        "Answer": 80.0, "Type": "Subtraction", "question_concat": "",
    },
}  # fmt: skip
EXPECTED = {
    "gsm8k": ("gsm8k/test/0", "1004", "It is <<2+2=4>>4.", None, None),
    "math500": ("math500/test/algebra/7", "4", "\\boxed{4}", 3, "Algebra"),
    "aime24": ("aime24/0", "204", "s", None, None),
    "aime25": ("aime25/0", "70", None, None, None),
    "math": ("math_test/0", "\\frac{1}{2}", "so $\\boxed{\\frac{1}{2}}$.", 5, "Algebra"),
    "gsm-hard": ("gsm_hard/0", "-9867630", None, None, None),
    "svamp": ("svamp/chal-777", "80", "( 87.0 - 7.0 )", None, "Subtraction"),
}


@pytest.mark.parametrize("name", sorted(HUB_ROWS))
def test_hub_rows_become_problems_and_the_count_is_checked(name, monkeypatch):
    import datasets

    calls = []

    def load_dataset(path, config, *, revision, split):
        calls.append((path, config, revision, split))
        return [HUB_ROWS[name]] if len(calls) == 1 else []

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    built = []
    monkeypatch.setattr(
        benchmarks, "_check_count", lambda entry, expected, found, source: built.append((found, expected))
    )
    problem = load(name)[0]
    assert (problem.id, problem.answer, problem.solution, problem.level, problem.subject) == EXPECTED[name]
    assert calls[0] == (BENCHMARKS[name].hub, BENCHMARKS[name].configs[0], BENCHMARKS[name].revision, calls[0][3])
    assert len(calls) == len(BENCHMARKS[name].configs)
    assert built == [(1, BENCHMARKS[name].splits["test"].count)]


def test_body_and_question_are_joined(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: [HUB_ROWS["svamp"]])
    monkeypatch.setattr(benchmarks, "_check_count", lambda *a: None)
    assert load("svamp")[0].question == "There are 87 oranges. How many?"


def test_an_unreachable_hub_says_what_to_do(monkeypatch, tmp_path):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("no route\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(BadInput, match=r"hub \(no route\). Pass .* --data, or set LACONIC_DATA .* aime24\.jsonl"):
        load("aime24")
    monkeypatch.setenv("LACONIC_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"does not hold aime24\.jsonl either"):
        load("aime24")


@pytest.mark.parametrize("place", [".", "benchmarks"])
def test_a_data_folder_is_searched_and_its_counts_checked(tmp_path, monkeypatch, place):
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    write(folder / "aime24.jsonl", *gsm(30))
    assert len(load("aime24", data=tmp_path)) == 30
    monkeypatch.setenv("LACONIC_DATA", str(tmp_path))
    assert len(load("aime24")) == 30
    assert load("AIME24")[0].benchmark == "aime24"
    write(folder / "aime24.jsonl", *gsm(29))
    with pytest.raises(BadInput, match="29 problems found, aime24 has 30"):
        load("aime24")
    with pytest.raises(BadInput, match="29 problems found"):
        load(str(folder / "aime24.jsonl"))


def test_a_file_of_ones_own(tmp_path, caplog):
    path = write(tmp_path / "mine.jsonl", {"question": "2+2?", "answer": 4}, {"Problem": "1/2?", "Answer": 0.5})
    mine = load(str(path))
    assert [(p.id, p.benchmark, p.answer) for p in mine] == [("mine/0", "mine", "4"), ("mine/1", "mine", "0.5")]
    as_gsm8k = load("gsm8k", data=path)
    assert (as_gsm8k[0].id, as_gsm8k[0].benchmark) == ("gsm8k/test/0", "gsm8k")
    assert "2 problems taken as gsm8k, which has 1319" in caplog.text


def test_csv_parquet_and_gzip_give_the_same_problems(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"id": "a", "question": 'Two\nlines, "quoted"?', "answer": "4"},
        {"id": "b", "question": "é?", "answer": "5"},
    ]
    write(tmp_path / "p.jsonl", *rows)
    with gzip.open(tmp_path / "q.jsonl.gz", "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    with (tmp_path / "p.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, ["id", "question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    base = load(str(tmp_path / "p.jsonl"))
    assert [p.question for p in base] == [row["question"] for row in rows]
    assert load(str(tmp_path / "p.csv")) == base
    assert load(str(tmp_path / "p.parquet")) == base
    assert [p.question for p in load(str(tmp_path / "q.jsonl.gz"))] == [p.question for p in base]


def test_stored_problems_can_be_loaded_again(tmp_path):
    stored = [Problem("x/1", "svamp", "q?", "3", level=2), Problem("x/2", "svamp", "r?", "4", solution="s")]
    (tmp_path / "problems.jsonl").write_text("".join(map(to_line, stored)))
    assert load(str(tmp_path / "problems.jsonl")) == stored


GOOD = {"id": "a", "question": "q", "answer": "1"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, {"id": "b", "question": "q"}], r"line 2: no answer; expected a field answer or .*, found id, question"),
        ([GOOD, {"id": "b", "answer": "1"}], r"line 2: no question"),
        ([GOOD, {"id": "b", "question": ["q"], "answer": "1"}], r"line 2: the question is of type list"),
        ([GOOD, {"id": "b", "question": "q", "answer": {"x": 1}}], r"line 2: the answer is of type dict"),
        ([GOOD, "", {**GOOD, "id": "b"}, GOOD], r"id 'a' occurs in lines 1 and 4"),
        ([GOOD, '{"id": "b", '], r"line 2: not JSON"),
        ([GOOD, "[1, 2]"], r"line 2: a JSON object is expected, found list"),
        ([], r"no problems in it"),
    ],
)
def test_a_bad_file_is_refused_by_line(tmp_path, rows, message):
    with pytest.raises(BadInput, match=message):
        load(str(write(tmp_path / "bad.jsonl", *rows)))


def test_a_bad_csv_is_refused_by_line(tmp_path):
    write(tmp_path / "bad.csv", "id,question,answer", 'a,"two', 'lines",1', "b,q")
    with pytest.raises(BadInput, match="line 4: not as many cells"):
        load(str(tmp_path / "bad.csv"))


def test_an_empty_answer_is_kept_and_warned_about(tmp_path, caplog):
    path = write(tmp_path / "f.jsonl", GOOD, {"id": "b", "question": "q", "answer": ""})
    assert load(str(path))[1].answer == ""
    assert "1 empty answer(s), which cannot be graded (b, ...)" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"benchmark": "gsm9k"}, "unknown benchmark 'gsm9k'; did you mean 'gsm8k'.*known: gsm8k, math500"),
        ({"benchmark": "aime24", "split": "dev"}, "no split 'dev'; choose one of test"),
        ({"benchmark": "aime24", "data": "/nowhere/x"}, "no such file or folder"),
        ({"benchmark": "nowhere.jsonl"}, "cannot be opened"),
        ({"benchmark": "aime24", "limit": 0}, "limit=0"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(BadInput, match=message):
        load(**arguments)


def test_a_folder_without_the_file_names_it(tmp_path):
    with pytest.raises(BadInput, match=r"aime24\.jsonl is neither there nor in its folder benchmarks"):
        load("aime24", data=tmp_path)


def test_limits_take_the_first_or_a_seeded_choice():
    problems = [Problem(f"p/{i}", "toy", "q", "1") for i in range(50)]
    assert choose(problems, 5, None) == problems[:5]
    picked = choose(problems, 5, 1)
    assert picked != problems[:5]
    assert picked == choose(problems, 5, 1) == choose(problems, 20, 1)[:5] == choose(problems[::-1], 5, 1)
    assert picked != choose(problems, 5, 2)
    assert choose(problems, None, 1) == choose(problems, 99, 1) == problems


def test_prompts():
    problem = Problem("p", "math500", "What is $1+1$?", "2")
    assert prompt(problem) == (Message("user", f"What is $1+1$?\n{BOXED}"),)
    assert prompt(Problem("p", "embedded", "Ada has 2 eggs.", "2")) == (Message("user", "Ada has 2 eggs."),)


def test_last_boxed():
    assert last_boxed(r"\boxed{1} then \boxed{\frac{a}{b}}.") == r"\frac{a}{b}"
    assert last_boxed(r"so \boxed 7.") == "7"
    assert last_boxed(r"\boxed{open") is None
    assert last_boxed("none") is None
