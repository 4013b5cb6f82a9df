"""The grader on real labelled outputs and on every reference answer of the benchmarks."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from eval_math.graded_files import FileTask, grade_file, read_items
from eval_math.grading import equivalent, grade
from eval_math.policies import POLICIES, Policy, find_policy

CHEAP = replace(POLICIES["math"], symbolic=False)
FAMILIES = {"gsm8k": "gsm8k", "gsm_hard": "gsm-hard", "svamp": "svamp", "aime24": "aime", "aime25": "aime"}


@pytest.fixture(scope="module")
def figures(data_folder):
    return grade_file(FileTask(data_folder / "grading" / "cases.jsonl"))


def test_every_generation_of_word_problems_is_right(figures):
    found = figures["sources"]["gsm8k-model-solutions"]
    assert (found["n"], found["agreement"], found["statuses"]["correct"]) == (3144, 1.0, 1202)


def test_other_cases(figures):
    others = [tally for source, tally in figures["sources"].items() if source != "gsm8k-model-solutions"]
    wrong = sum(tally["false_positives"] + tally["false_negatives"] for tally in others)
    assert sum(tally["n"] for tally in others) == 375
    assert 1 - wrong / 375 >= 0.975
    assert sum(tally["false_positives"] for tally in others) <= 1
    assert all(tally["agreement"] >= 0.9 for tally in others if tally["n"] >= 10)


def test_few_need_the_symbolic_tier(figures):
    assert figures["tiers"]["symbolic"] <= 0.03 * 375


def test_the_same_with_other_endings(data_folder):
    rows = [r for r in read_items(data_folder / "grading" / "cases.jsonl") if r.source == "gsm8k-model-solutions"]
    for row in rows[::10]:
        text = row.item.prediction or ""
        if "\nA: " not in text:
            continue
        start, answer = text.rsplit("\nA: ", 1)
        for ending in (f"#### {answer}", f"\\boxed{{{answer}}}"):
            assert grade(f"{start}\n{ending}", row.item.gold, benchmark="gsm8k").correct == row.expected


def test_every_pair_is_symmetric(data_folder):
    rows = [r for r in read_items(data_folder / "grading" / "cases.jsonl") if r.source != "gsm8k-model-solutions"]
    short = [r for r in rows if len(r.item.prediction or "") < 300]
    assert len(short) > 200
    for row in short:
        a, b = str(row.item.prediction), str(row.item.gold)
        assert equivalent(a, b, policy=CHEAP).correct == equivalent(b, a, policy=CHEAP).correct, row.id


def _policy(file_name: str) -> Policy:
    family = next((FAMILIES[key] for key in FAMILIES if file_name.startswith(key)), "math")
    return find_policy(family) or CHEAP


def test_every_reference_equals_itself(data_folder):
    counted = 0
    for path in sorted((data_folder / "benchmarks").glob("*.jsonl*")):
        opened = gzip.open if path.suffix == ".gz" else open
        policy = replace(_policy(path.name), symbolic=False)
        with opened(path, "rt") as lines:
            answers = {json.loads(line)["answer"] for line in lines}
        # Two references of the MATH training file are empty.
        for answer in answers - {""}:
            assert equivalent(answer, answer, policy=policy).correct, answer
            assert grade(f"so \\boxed{{{answer}}}.", answer, policy=policy).correct, answer
            counted += 1
    assert counted > 5000
