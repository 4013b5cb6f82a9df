"""The embedded benchmark by name, and how its problems are chosen."""

from __future__ import annotations

import re

import pytest

from cot.benchmarks import EMBEDDED, KNOWN, load
from eval_math.errors import BadInput


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_problems_have_the_steps_of_their_name(name):
    problems = load(name, limit=40)
    fewest, most = EMBEDDED[name].steps
    assert {problem.level for problem in problems} == set(range(fewest, most + 1))
    assert {problem.benchmark for problem in problems} == {"embedded"}
    assert len({problem.id for problem in problems}) == 40


def test_small_problems_have_small_numbers():
    largest = max(
        int(number) for each in load("embedded:small", limit=40) for number in re.findall(r"\d+", each.question)
    )
    assert 10 < largest <= 20


def test_there_are_300_by_default_and_a_limit_keeps_the_first():
    problems = load("embedded")
    assert len(problems) == 300
    assert load("embedded", limit=7) == problems[:7]
    assert load("embedded:default", limit=7) == problems[:7]


def test_seed_and_split_give_other_problems():
    first = {problem.question for problem in load("embedded", limit=30)}
    assert not first & {problem.question for problem in load("embedded", limit=30, seed=1)}
    assert not first & {problem.question for problem in load("embedded", limit=30, split="dev")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"benchmark": "embedded:easier"}, "choose one of embedded, embedded:easy"),
        ({"benchmark": "embedded", "split": "validation"}, "no split 'validation'; choose one of train, dev, test"),
        ({"benchmark": "embedded", "limit": 0}, "limit=0"),
        ({"benchmark": "embeded"}, f"did you mean 'embedded'.*known: {', '.join(KNOWN)}"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(BadInput, match=message):
        load(**arguments)


def test_other_benchmarks_and_files_are_passed_on(tmp_path):
    path = tmp_path / "embedded.jsonl"
    path.write_text('{"id": "a", "question": "Ada has 2 eggs.", "answer": "2"}\n')
    assert load(str(path))[0].benchmark == "embedded"
    with pytest.raises(BadInput, match="no such file or folder"):
        load("gsm8k", data=tmp_path / "nowhere")
