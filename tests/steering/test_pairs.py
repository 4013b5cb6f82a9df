"""Pairs: the longest and the shortest correct side, everything else kept with its reason."""

import json
from collections import Counter
from dataclasses import asdict

import pytest

from eval_math.errors import BadInput
from eval_math.files import write_atomic
from eval_math.records import Grade, Problem, Trace, to_line
from steering.pairs import (
    PairRules,
    load_pairs,
    make_pairs,
    pairs_from_file,
    pairs_from_solutions,
    pairs_from_writer,
    save_pairs,
    verdict_by_gold,
)


def words(text):
    return len(text.split())


def sample(problem, number, tokens, status="correct", **more):
    closed = more.pop("closed", True)
    text = "" if tokens == 0 else f"think{tokens} " * (tokens - 1) + ("</think>" if closed else "on") + f" {problem}"
    finish, key = more.pop("finish", "stop"), f"{problem}/{number}"
    trace = Trace(problem, number, "none", text, "thought", problem, 5, tokens, 1, finish, key=key)
    return trace, Grade(problem, number, status, **more) if status else None


def write_run(folder, samples, problems=None):
    folder.mkdir(parents=True)
    ids = problems or sorted({trace.problem_id for trace, _ in samples})
    (folder / "problems.jsonl").write_text("".join(to_line(Problem(i, "embedded", f"question {i}", "1")) for i in ids))
    (folder / "traces.jsonl").write_text("".join(to_line(trace) for trace, _ in samples))
    (folder / "grades.jsonl").write_text("".join(to_line(grade) for _, grade in samples if grade))
    return folder


def reasons(made):
    return {d.pair.problem_id: d.reason for d in made.dropped}


def test_longest_and_shortest_correct_sample_make_the_pair(tmp_path):
    run = write_run(
        tmp_path / "r", [sample("a", n, t) for n, t in enumerate((40, 90, 20, 60))] + [sample("a", 4, 5, "incorrect")]
    )
    made = make_pairs([run])
    [pair] = made.pairs
    assert (pair.n_long_tokens, pair.n_short_tokens, pair.question, pair.source) == (
        91,
        21,
        "question a",
        "self:embedded",
    )
    assert pair.long.count("think90") == 89 and pair.short.count("think20") == 19 and "</think> a" in pair.short
    assert made.counts() == {"read": 1, "kept": 1}


def test_each_reason(tmp_path):
    samples = [
        *(sample("wrong", n, t, "incorrect") for n, t in enumerate((50, 10))),
        *(sample("cut", n, 50, finish="length") for n in range(2)),
        sample("cut-grade", 0, 50, truncated=True),
        *(sample("open", n, 50, closed=False) for n in range(2)),
        sample("single", 0, 50),
        sample("ungraded", 0, 50, status=None),
        *(sample("alike", n, t) for n, t in enumerate((100, 71))),
        *(sample("fits", n, t) for n, t in enumerate((100, 69))),
        *(sample("same", n, 30) for n in range(2)),
        *(sample("empty", n, 0) for n in range(2)),
        *(sample("huge", n, t) for n, t in enumerate((500, 10))),
    ]
    made = make_pairs([write_run(tmp_path / "r", samples)], PairRules(max_tokens=400))
    assert reasons(made) == {
        "wrong": "not_correct", "cut": "truncated", "cut-grade": "truncated", "open": "improper_end",
        "single": "one_sample", "ungraded": "not_graded", "alike": "ratio", "same": "identical", "empty": "empty",
        "huge": "too_long",
    }  # fmt: skip
    assert [pair.problem_id for pair in made.pairs] == ["fits"]
    assert sum(made.counts().values()) - made.counts()["read"] == made.counts()["read"] == 11


def test_sides_may_come_from_different_runs(tmp_path):
    runs = [
        write_run(tmp_path / name, [sample("a", 0, t), sample("b", 0, 7)]) for name, t in (("plain", 90), ("brief", 20))
    ]
    made = make_pairs(runs)
    assert [(p.problem_id, p.n_long_tokens, p.n_short_tokens) for p in made.pairs] == [("a", 91, 21)]
    assert reasons(made) == {"b": "identical"}


def test_a_torn_last_line_is_a_unit_that_is_missing(tmp_path):
    run = write_run(tmp_path / "r", [sample("a", 0, 90), sample("a", 1, 20), sample("a", 2, 10)])
    traces = run / "traces.jsonl"
    traces.write_text(traces.read_text()[:-30])
    assert make_pairs([run]).pairs[0].n_short_tokens == 21


@pytest.mark.parametrize(("short", "kept"), [(49, 1), (50, 0)])
def test_the_short_side_stays_below_the_ratio(tmp_path, short, kept):
    run = write_run(tmp_path / "r", [sample("a", 0, 99), sample("a", 1, short - 1)])
    assert make_pairs([run], PairRules(0.5)).counts()["kept"] == kept


def test_a_unit_that_occurs_twice_counts_with_its_first_line(tmp_path):
    first = [sample("a", 0, 90), sample("a", 1, 20)]
    run = write_run(tmp_path / "r", [*first, sample("a", 1, 10, "incorrect")])
    [pair] = make_pairs([run]).pairs
    assert pair.n_short_tokens == 21


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("traces.jsonl", '{"schema":1}\n', "traces.jsonl, line 1"),
        ("grades.jsonl", "nonsense\n", "grades.jsonl, line 1"),
        ("problems.jsonl", "[]\n", "problems.jsonl, line 1"),
    ],
)
def test_malformed_runs_name_file_and_line(tmp_path, name, text, said):
    run = write_run(tmp_path / "r", [sample("a", 0, 90)])
    (run / name).write_text(text)
    with pytest.raises(BadInput, match=said):
        make_pairs([run])


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no run folders"):
        make_pairs([])
    with pytest.raises(BadInput, match="not a folder"):
        make_pairs([tmp_path / "nowhere"])
    with pytest.raises(BadInput, match=r"problems\.jsonl"):
        make_pairs([tmp_path])
    first, second = (write_run(tmp_path / n, [sample("a", 0, 9)]) for n in "xy")
    (second / "problems.jsonl").write_text(to_line(Problem("a", "embedded", "another question", "1")))
    with pytest.raises(BadInput, match="another question"):
        make_pairs([first, second])


ROW = {"problem_id": "p1", "problem": "6*7?", "gold": "42", "long": "so " * 20 + "\\boxed{42}", "short": "\\boxed{42}"}


def write_rows(path, *rows):
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_from_a_file_with_reasons(tmp_path):
    rows = [
        ROW,
        {**ROW, "problem_id": "again"},
        {**ROW, "problem_id": "p2", "problem": "other?", "gold": "41"},
        {"question": "no reference?", "id": 7, "long": "so " * 20, "short": "so"},
        {"question": "open?", "long": "<think> so " * 20, "short": "so"},
        {"question": "blank?", "long": "so " * 20, "short": " "},
        {"question": "close?", "long": "so " * 20, "short": "so " * 14},
        {"question": "same?", "long": "so", "short": "so"},
    ]
    made = pairs_from_file(write_rows(tmp_path / "f.jsonl", *rows), words, verdict_by_gold)
    assert [p.problem_id for p in made.pairs] == ["p1", "7"] and made.pairs[0].source == "file:f.jsonl"
    assert reasons(made) == {
        "again": "duplicate", "p2": "not_correct", "f/5": "improper_end", "f/6": "empty",
        "f/7": "ratio", "f/8": "identical",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"long": "a", "short": "b"}, "no field problem or question"),
        ({"question": "q", "short": "b"}, "no field long"),
        ({"question": "q", "long": 3, "short": "b"}, "long is int"),
    ],
)
def test_malformed_rows_name_file_and_line(tmp_path, row, said):
    path = write_rows(tmp_path / "f.jsonl", ROW, row)
    with pytest.raises(BadInput, match=rf"f\.jsonl, line 2: .*{said}"):
        pairs_from_file(path, words)


def test_stored_pairs_come_back_and_dropped_ones_keep_text_and_reason(tmp_path):
    made = pairs_from_file(write_rows(tmp_path / "f.jsonl", ROW, ROW), words)
    beside = save_pairs(made, tmp_path / "out" / "pairs.jsonl")
    assert load_pairs(tmp_path / "out" / "pairs.jsonl") == list(made.pairs)
    [row] = [json.loads(line) for line in beside.read_text().splitlines()]
    assert row == {**asdict(made.pairs[0]), "reason": "duplicate", "detail": row["detail"]}
    assert beside.name == "pairs.dropped.jsonl"
    with pytest.raises(BadInput, match="folder, device or pipe"):
        save_pairs(made, tmp_path / "out")


def test_no_pairs_is_an_error(tmp_path):
    (tmp_path / "p.jsonl").write_text("")
    with pytest.raises(BadInput, match="no pairs"):
        load_pairs(tmp_path / "p.jsonl")


@pytest.mark.parametrize("rules", [{"ratio_max": 0}, {"ratio_max": 1.5}, {"max_tokens": 0}])
def test_rules_are_checked(rules):
    with pytest.raises(BadInput, match=next(iter(rules))):
        PairRules(**rules)


def test_the_real_pairs_are_read_and_graded_correct(data_folder):
    made = pairs_from_file(data_folder / "traces" / "pairs.jsonl", words, verdict_by_gold)
    counts = made.counts()
    assert counts["read"] == 123 and counts["kept"] >= 110
    assert Counter(d.reason for d in made.dropped).keys() <= {"ratio", "not_correct"}


def with_solutions(run, solutions):
    problems = [Problem(i, "embedded", f"question {i}", "1", solution=text) for i, text in solutions.items()]
    (run / "problems.jsonl").write_text("".join(map(to_line, problems)))
    return run


def test_solutions_of_the_benchmark_are_the_short_side(tmp_path):
    samples = [sample("a", 0, 40), sample("a", 1, 90), sample("b", 0, 60), sample("c", 0, 50, "incorrect")]
    samples.append(sample("d", 0, 60))
    run = with_solutions(
        write_run(tmp_path / "r", samples), {"a": "so 1 + 0 = 1", "b": None, "c": "short", "d": "word " * 55}
    )
    made = pairs_from_solutions([run], words)
    [pair] = made.pairs
    assert (pair.problem_id, pair.n_long_tokens, pair.n_short_tokens) == ("a", 91, 6)
    assert pair.short == "so 1 + 0 = 1\n</think>" and pair.source == "solution:embedded"
    assert reasons(made) == {"b": "empty", "c": "not_correct", "d": "ratio"}
    with pytest.raises(BadInput, match="no problem has a solution"):
        pairs_from_solutions([write_run(tmp_path / "bare", [sample("a", 0, 40)])], words)


def test_another_writer_gives_the_short_side(tmp_path):
    long = write_run(tmp_path / "long", [sample("a", 0, 90), sample("b", 0, 90), sample("c", 0, 90)])
    short = write_run(
        tmp_path / "short", [sample("a", 0, 30), sample("a", 1, 20), sample("b", 0, 20, "incorrect")], ["a", "b"]
    )
    made = pairs_from_writer([long], [short], words)
    [pair] = made.pairs
    # The writer's answer stands in a think block like the model's own thinking.
    assert (pair.problem_id, pair.short, pair.source) == ("a", "a\n</think>", "writer:embedded")
    assert reasons(made) == {"b": "empty", "c": "empty"}


def test_the_command_makes_them_too(tmp_path, capsys):
    from scripts.main import main

    run = with_solutions(write_run(tmp_path / "r", [sample("a", 0, 90)]), {"a": "so 1 = 1"})
    out = tmp_path / "pairs.jsonl"
    assert main(["steer", "pairs", "--runs", str(run), "--short", "solution", "--out", str(out)]) == 0
    assert load_pairs(out)[0].short.startswith("so 1 = 1")
    words_ = ["steer", "pairs", "--runs", str(run), "--short", "writer", "--short-runs", str(run), "--out", str(out)]
    assert main(words_) == 0 and load_pairs(out)[0].source == "writer:embedded"
    assert main(["steer", "pairs", "--runs", str(run), "--short", "writer", "--out", str(out)]) == 2
    assert "belong together" in capsys.readouterr().err
