"""Chain of Draft: an instruction and examples whose answers the grader can read."""

from __future__ import annotations

import json

import pytest

from cot.draft import Draft, draft_text
from eval_math.errors import BadInput
from eval_math.grading import grade
from eval_math.prompts import prompt
from eval_math.records import Message, Problem

PROBLEM = Problem("p", "gsm8k", "How many eggs are 2 and 3?", "5")


def test_the_problem_comes_last_and_examples_are_asked_as_it_is():
    turns = Draft(shots=3).messages(PROBLEM, prompt(PROBLEM))
    assert [turn.role for turn in turns] == ["system", *["user", "assistant"] * 3, "user"]
    assert "5 words at most" in turns[0].content
    assert turns[-1] == prompt(PROBLEM)[0]
    suffix = turns[-1].content.removeprefix(PROBLEM.question)
    assert all(turn.content.endswith(suffix) for turn in turns if turn.role == "user")


def test_every_example_is_right_by_the_grader_and_brief():
    examples = Draft()._examples()
    assert len(examples) >= 8
    for example in examples:
        assert grade(draft_text(example), example["answer"], benchmark="gsm8k").correct
        assert all(len([w for w in step.split() if w.isalpha()]) <= 5 for step in example["steps"])


def test_models_without_a_system_turn_and_other_examples(tmp_path):
    turns = Draft(shots=0, place="user", words=7).messages(PROBLEM, prompt(PROBLEM))
    assert [turn.role for turn in turns] == ["user"]
    assert "7 words at most" in turns[0].content
    own = {
        "version": 1,
        "instruction": "Draft, {words}.",
        "exemplars": [{"question": "1+1?", "steps": ["1+1=2"], "answer": "2"}],
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    method = Draft(shots=1, exemplars=tmp_path / "own.json")
    assert method.messages(PROBLEM, prompt(PROBLEM))[0].content == "Draft, 5."
    assert method.fingerprint()["exemplars"] != Draft().fingerprint()["exemplars"]
    with pytest.raises(BadInput, match=r"shots=2, but .*own.json has 1 exemplars"):
        Draft(shots=2, exemplars=tmp_path / "own.json")


def test_bad_settings(tmp_path):
    for bad in ({"words": 0}, {"shots": -1}, {"shots": 99}, {"exemplars": tmp_path / "none.json"}):
        with pytest.raises(BadInput):
            Draft(**bad)
    (tmp_path / "bad.json").write_text('{"version": 1, "instruction": "x", "exemplars": [{"question": "1?"}]}')
    with pytest.raises(BadInput, match="question, steps and answer"):
        Draft(exemplars=tmp_path / "bad.json")
    with pytest.raises(BadInput, match="one user turn"):
        Draft().messages(PROBLEM, (Message("system", "s"), Message("user", "q")))
