"""Shortest correct of n: which samples are chosen, and which pairs they make."""

from __future__ import annotations

import json

import pytest
from writer import write_rows

from cot.datagen.job import JobConfig
from cot.datagen.student import Student
from cot.shortest import Sample, Shortest, choose_pairs, choose_rows, make_dataset
from eval_math.errors import BadInput, RunMismatch


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.named("embedded")


def sample(at: int, n: int, correct: bool = True) -> Sample:
    return Sample(at, n, correct)


def test_the_shortest_correct_one_ties_to_the_first():
    listed = [sample(0, 5, False), sample(1, 9), sample(2, 7), sample(3, 7)]
    assert choose_rows(listed, Shortest()) == [listed[2]]
    assert choose_rows([sample(0, 5, False)], Shortest()) == []


def test_easy_problems_keep_a_smaller_part():
    easy = [sample(at, 10 + at) for at in range(20)]
    hard = [sample(at, 10 + at, at < 10) for at in range(20)]
    how = Shortest("quantile")
    # q = 0.2 (1 - p): nothing for p = 1, so one; 0.1 of 10 for p = 0.5, so one; half of them for a factor of 1.
    assert [len(choose_rows(each, how)) for each in (easy, hard)] == [1, 1]
    assert len(choose_rows(hard, Shortest("quantile", quantile=1.0))) == 5
    assert len(choose_rows(easy, Shortest("quantile", quantile=1.0))) == 1


def test_pairs_reject_the_longer_wrong_and_the_much_longer_correct():
    listed = [sample(0, 10), sample(1, 14), sample(2, 15), sample(3, 40), sample(4, 5, False), sample(5, 30, False)]
    assert choose_pairs(listed, Shortest()) == [(listed[0], listed[at]) for at in (3, 5, 2)]
    assert choose_pairs(listed, Shortest(rejected="incorrect")) == [(listed[0], listed[5])]
    assert choose_pairs(listed, Shortest(most_pairs=1)) == [(listed[0], listed[3])]
    assert choose_pairs([sample(0, 9, False), sample(1, 20, False)], Shortest()) == []


def row(problem: str, number: int, thinking: str, correct: bool = True) -> dict[str, object]:
    answer = f"The answer is \\boxed{{{5 if correct else 6}}}."
    output = f"{thinking}</think>{answer}"
    base = {"id": problem, "question": f"{problem}?", "answer": "5", "output": output}
    return base | {"correct": correct, "sample": number}


def test_the_folder_holds_rows_and_pairs(tmp_path, student):
    rows = [
        row("a", 0, "So 2+3=5. Wait, is it 5? Yes, so 2+3=5 it is."),
        row("a", 1, "So 2+3=5."),
        row("b", 0, "So 1+4=6. And 6 it is, for all I know of it.", False),
        row("b", 1, "So 1+4=5."),
        row("c", 0, "So 1+1=6.", False),
    ]
    source = write_rows(tmp_path / "s.jsonl", rows)
    config = JobConfig((source,), tmp_path / "a")
    stats = make_dataset(config, Shortest(), student)
    made = [json.loads(line) for line in (tmp_path / "a" / "train.jsonl").read_text("utf-8").splitlines()]
    pairs = [json.loads(line) for line in (tmp_path / "a" / "pairs.jsonl").read_text("utf-8").splitlines()]
    assert {each["completion"][0]["content"] for each in made} == {
        "<think>So 2+3=5.</think>The answer is \\boxed{5}.",
        "<think>So 1+4=5.</think>The answer is \\boxed{5}.",
    }
    assert [each["id"].split("/")[0] for each in pairs] == ["a", "b"]
    assert all(each["n_chosen_tokens"] < each["n_rejected_tokens"] for each in pairs)
    assert pairs[1]["rejected"][0]["content"].endswith("\\boxed{6}.")
    assert dict(stats.rows) == {"rewritten": 2}
    with pytest.raises(RunMismatch, match="select"):
        make_dataset(config, Shortest("quantile"), student)


def test_ungraded_samples_and_hopeless_runs_are_refused(tmp_path, student):
    ungraded = {k: v for k, v in row("a", 0, "So 2+3=5.").items() if k != "correct"}
    with pytest.raises(BadInput, match="a sample without a verdict"):
        make_dataset(JobConfig((write_rows(tmp_path / "s", [ungraded]),), tmp_path / "a"), Shortest(), student)
    wrong = write_rows(tmp_path / "w", [row("a", 0, "So 2+3=6.", False)])
    with pytest.raises(BadInput, match="no problem has a correct sample"):
        make_dataset(JobConfig((wrong,), tmp_path / "b"), Shortest(), student)
