"""`laconic steer calibrate` on the embedded reasoner: each rule, the stored vector, the plot, bad input."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from scripts.main import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import random

    from cot.embedded import make_problems
    from cot.embedded.traces import write_trace
    from eval_math.records import Pair, to_line

    folder = tmp_path_factory.mktemp("calibrate")
    pairs = [
        Pair(
            p.id, p.question, write_trace(p, 3, random.Random(1)), write_trace(p, 0, random.Random(1)), "self:embedded"
        )
        for p in make_problems("train", 24, seed=5)
    ]
    (folder / "pairs.jsonl").write_text("".join(map(to_line, pairs)))
    words = ["--pairs", str(folder / "pairs.jsonl"), "--out", str(folder / "v.safetensors")]
    assert main(["steer", "extract", *words]) == 0
    return folder


def calibrated(folder, capsys, *words: str) -> dict:
    command = ["steer", "calibrate", "--vector", str(folder / "v.safetensors"), "--pairs", str(folder / "pairs.jsonl")]
    assert main([*command, "--block", "3", "--limit", "12", "--json", "-", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_measured_strength_is_stored_with_its_record(folder, capsys):
    from steering.vector import load_vector

    out, plot = folder / "tuned.safetensors", folder / "curve.svg"
    found = calibrated(folder, capsys, "--out", str(out), "--plot", str(plot))
    assert found["mode"] == "empirical" and found["task"]["mean"] == pytest.approx(0.05, rel=0.02)
    assert found["generic"]["mean"] > 0
    info = load_vector(out).info
    assert info.apply_layers == (3,) and info.gamma == pytest.approx(found["strength"])
    assert json.loads(info.kl)["eps"] == 0.05 and "calibrated" in info.extra["gamma_source"]
    assert "95th percentile" in "".join(ElementTree.fromstring(plot.read_text()).itertext())


def test_the_bounds_are_far_below_what_is_measured(folder, capsys):
    """Both count each token of the vocabulary alike; the documentation of the method says by how much that is off."""
    measured = calibrated(folder, capsys)["strength"]
    bound = calibrated(folder, capsys, "--mode", "bound")["strength"]
    paper = calibrated(folder, capsys, "--mode", "paper")["strength"]
    assert paper <= bound * 1.5 and bound < measured / 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "0"], "--limit"),
        (["--eps", "-1"], "calibration"),
        (["--block", "9"], "block"),
        (["--generic", "/no/such/file"], "--generic"),
        (["--plot", "/no/such/folder/x.svg"], "--plot"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, words, said):
    command = ["steer", "calibrate", "--vector", str(folder / "v.safetensors"), "--pairs", str(folder / "pairs.jsonl")]
    assert main([*command, *words]) == 2
    assert said in capsys.readouterr().err
