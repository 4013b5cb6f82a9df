"""C3oT_Adapt gives each sample one level: the shortest that a student learns from."""

from __future__ import annotations

import json
import random

import pytest
from laconic_cli.main import main

from cot.c3ot import condition_text
from cot.c3ot_adapt import Adapt, Fold, assign_levels, folds_of
from cot.embedded.problems import stream_problems
from cot.embedded.traces import answer_sentence, write_trace
from eval_math.errors import BadInput

KEYS = [f"row-{at}" for at in range(40)]
ALL = dict.fromkeys(KEYS, Adapt().levels)


def test_a_student_that_solves_all_leaves_all_at_the_highest_compression():
    asked: list[Fold] = []
    found = assign_levels(ALL, lambda fold: asked.append(fold) or fold.ask)
    assert found == dict.fromkeys(KEYS, "level-5")
    assert len(asked) == 2


def test_a_student_that_solves_nothing_leaves_all_at_the_mildest():
    asked: list[Fold] = []
    found = assign_levels(ALL, lambda fold: asked.append(fold) or ())
    assert found == dict.fromkeys(KEYS, "level-1")
    assert len(asked) == Adapt().most_trainings == 6


def test_a_sample_gets_the_first_level_that_solves_it():
    solves = {"level-5": set(KEYS[:10]), "level-3": set(KEYS[:25]), "level-1": set()}
    found = assign_levels(ALL, lambda fold: solves[fold.level])
    assert [found[key] for key in (KEYS[0], KEYS[9], KEYS[10], KEYS[24], KEYS[25])] == [
        "level-5", "level-5", "level-3", "level-3", "level-1",
    ]  # fmt: skip


def test_one_seed_that_solves_is_enough():
    how = Adapt(seeds=(0, 1, 2))
    found = assign_levels(ALL, lambda fold: fold.ask if fold.seed == 1 else (), how)
    assert found == dict.fromkeys(KEYS, "level-5")


def test_a_refused_row_is_not_tried_at_its_level():
    available = {"a": ("level-3",), "b": ("level-5", "level-3", "level-1"), "c": ()}
    found = assign_levels(available | {f"x{n}": ("level-5", "level-3") for n in range(9)}, lambda fold: fold.ask)
    assert (found["a"], found["b"], "c" in found) == ("level-3", "level-5", False)


def test_no_sample_is_asked_by_a_student_that_was_trained_on_it():
    for fold in folds_of(KEYS, "level-5", Adapt(folds=5, seeds=(0, 1))):
        assert not set(fold.train) & set(fold.ask)
    for seed in (0, 1):
        parts = [fold.ask for fold in folds_of(KEYS, "level-5", Adapt(folds=5, seeds=(seed,)))]
        assert sorted(key for part in parts for key in part) == sorted(KEYS)


@pytest.mark.parametrize("bad", [{"levels": ()}, {"levels": ("a", "a")}, {"folds": 1}, {"seeds": ()}])
def test_bad_settings(bad):
    with pytest.raises(BadInput):
        Adapt(**bad)


def written_rows(n: int) -> list[dict]:
    """A mixed dataset of written traces: level-5 has no thinking, level-3 the bare equations."""
    rng, rows = random.Random(0), []
    for problem, _ in zip(stream_problems("train", "adapt", (2, 3)), range(n), strict=False):
        versions = {"long": write_trace(problem, 4, rng), "level-5": "", "level-3": write_trace(problem, 0, rng)}
        for condition, thinking in versions.items():
            prompt = [{"role": "user", "content": f"{condition_text(condition)}: {problem.question}"}]
            text = f"<think>{thinking}</think>{answer_sentence(problem.answer)}"
            row = {"row_key": problem.id, "condition": condition, "prompt": prompt, "answer": problem.answer}
            rows.append(row | {"completion": [{"role": "assistant", "content": text}], "benchmark": "embedded"})
    return rows


def test_real_students_choose_the_level(tmp_path, capsys):
    """Without thinking the embedded reasoner cannot reckon, with bare equations it can."""
    (tmp_path / "mixed").mkdir()
    lines = [json.dumps(row) + "\n" for row in written_rows(24)]
    (tmp_path / "mixed" / "train.jsonl").write_text("".join(lines))
    words = ["--mixed", str(tmp_path / "mixed"), "--out", str(tmp_path / "out"), "--engine", "hf", "--epochs", "1"]
    words += ["--levels", "level-5", "level-3", "--json", "-"]
    assert main(["compress", "adapt", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["levels"]["level-3"] >= 20
    made = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert found["rows"] == len(made) == 48
    short = [row for row in made if row["condition"] == "short"]
    assert all(row["prompt"][0]["content"].startswith(f"{condition_text('short')}: ") for row in short)
