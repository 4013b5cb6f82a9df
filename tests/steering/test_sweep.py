"""The sweep: the right point is chosen, points are run once, a lost cause is given up on."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from cot.benchmarks import load
from cot.evaluate import EvalConfig
from eval_math.errors import BadInput, RunMismatch
from eval_math.records import Sampling
from eval_math.summary import SummaryRow
from steering.asc import Asc
from steering.extraction import extract
from steering.sweep import Point, SweepConfig, choose, format_grid, sweep
from steering.vector import load_vector, save_vector

EVALUATION = EvalConfig("embedded", sampling=Sampling(max_tokens=6))
CONFIG = SweepConfig(blocks=(1, 2), strengths=(0.5, 0.25))


def row(accuracy, tokens):
    zero = {f.name: "" if f.type == "str" else 0 for f in fields(SummaryRow)}
    return SummaryRow(**{**zero, "accuracy": accuracy, "thinking_tokens_mean": tokens})


def test_choice_is_the_shortest_within_the_margin():
    base = row(0.9, 100)
    points = [
        Point(1, 0.5, row(0.90, 80)),
        Point(1, 1.0, row(0.85, 40)),
        Point(2, 0.5, row(0.89, 60)),
        Point(2, 1.0, None),
        Point(3, 0.5, row(0.95, 120)),
    ]
    assert choose(base, points, 0.01) == points[2]
    assert choose(base, points, 0.0) == points[0]
    assert choose(base, points, 0.05) == points[1]
    assert choose(base, points[3:], 0.5) is None
    tie = Point(3, 0.25, row(0.9, 60))
    assert choose(base, [*points, tie], 0.01) == tie


def test_points_that_kept_accuracy_come_first_and_lost_ones_never():
    base = row(0.9, 100)
    kept, open_, lost = (
        Point(1, 0.2, row(0.9, 80), "kept"),
        Point(1, 0.3, row(0.9, 50)),
        Point(1, 0.4, row(0.9, 20), "lost"),
    )
    assert choose(base, [kept, open_, lost], 0.02) == kept
    assert choose(base, [open_, lost], 0.02) == open_
    assert choose(base, [lost], 0.02) is None


@pytest.fixture
def vector(engine, pairs, tmp_path):
    save_vector(extract(engine, pairs).vector, tmp_path / "v.safetensors")
    return tmp_path / "v.safetensors"


def test_sweep_end_to_end_and_again_without_running(engine, vector, tmp_path, monkeypatch):
    problems = load("embedded", split="dev", limit=3)
    result = sweep(engine, problems, vector, tmp_path / "s", CONFIG, EVALUATION)
    assert [(p.block, p.strength) for p in result.points] == [(1, 0.25), (1, 0.5), (2, 0.25), (2, 0.5)]
    assert result.base.n == 3 and all(p.run is not None and p.run.n == 3 for p in result.points)
    assert sorted(p.name for p in (tmp_path / "s").iterdir() if p.is_dir())[:2] == ["base", "block1_strength0.25"]
    stored = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert len(stored["points"]) == 4 and stored["config"]["strengths"] == [0.5, 0.25]
    assert "0.25" in format_grid(result) and "unsteered" in format_grid(result)
    words = "".join(ElementTree.fromstring((tmp_path / "s" / "sweep.svg").read_text()).itertext())
    assert "block 2" in words and "tokens" in words

    def never(*arguments, **more):
        raise AssertionError("a stored point was run again")

    monkeypatch.setattr(type(engine), "generate", never)
    assert sweep(engine, problems, vector, tmp_path / "s", CONFIG, EVALUATION) == result


def test_another_vector_does_not_mix_with_stored_points(engine, vector, tmp_path):
    problems = load("embedded", split="dev", limit=1)
    config = replace(CONFIG, strengths=(0.5,), blocks=(1,))
    sweep(engine, problems, vector, tmp_path / "s", config, EVALUATION)
    loaded = load_vector(vector)
    save_vector(replace(loaded, directions={b: 2 * d for b, d in loaded.directions.items()}), vector)
    with pytest.raises(RunMismatch):
        sweep(engine, problems, vector, tmp_path / "s", config, EVALUATION)


def test_stronger_points_of_a_lost_block_are_not_run(engine, vector, tmp_path, monkeypatch):
    accuracy = {"base": 0.9, "block1_strength0.25": 0.6, "block2_strength0.25": 0.88, "block2_strength0.5": 0.9}
    ran = []

    def instead(folder, problems, method, engine, config):
        ran.append(folder.name)
        return row(accuracy[folder.name], 100 - len(ran))

    monkeypatch.setattr("steering.sweep.evaluate_into", instead)
    monkeypatch.setattr("steering.sweep.compare", lambda *runs, margin: SimpleNamespace(equal_accuracy="open"))
    problems = load("embedded", split="dev", limit=1)
    result = sweep(engine, problems, vector, tmp_path / "s", CONFIG, EVALUATION)
    assert ran == list(accuracy)
    assert result.points[1] == Point(1, 0.5, None) and " -" in format_grid(result)
    assert result.best is not None and (result.best.block, result.best.strength) == (2, 0.5)
    tuned = load_vector(tmp_path / "s" / "vector.safetensors")
    assert tuned.info.apply_layers == (2,) and tuned.info.gamma == 0.5
    assert Asc(str(result.vector)).fingerprint() == Asc(str(vector), 2, 0.5).fingerprint()


def test_bad_grids_are_refused(engine, vector, tmp_path):
    with pytest.raises(BadInput, match="strengths"):
        SweepConfig(strengths=())
    with pytest.raises(BadInput, match="strengths"):
        SweepConfig(strengths=(-1.0,))
    with pytest.raises(BadInput, match="block 9"):
        sweep(engine, load("embedded", limit=1), vector, tmp_path / "s", SweepConfig(blocks=(9,)), EVALUATION)
    with pytest.raises(BadInput, match="no problems"):
        sweep(engine, [], vector, tmp_path / "s", CONFIG, EVALUATION)
