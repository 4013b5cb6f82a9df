"""`laconic route fit|eval` on stored runs, and the method that uses what they made."""

from __future__ import annotations

import json

import pytest
from laconic_cli.main import main

from cot.methods import parse_method
from eval_math.errors import BadInput

EVAL = ("eval", "--engine", "hf", "--benchmark", "embedded:mixed", "--limit", "12", "--max-tokens", "300")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, method in (("think", "none"), ("nothink", "nothink")):
        assert main([*EVAL, "--split", "dev", "--method", method, "--out", str(folder / name)]) == 0
    return folder


def routes(runs) -> list[str]:
    return ["--route", "think", str(runs / "think"), "nothink", str(runs / "nothink")]


def test_fit_eval_and_the_method(runs, tmp_path, capsys):
    out = tmp_path / "router"
    words = [*routes(runs), "--aim", "price", "--value", "0.0", "--out", str(out)]
    assert main(["route", "fit", *words, "--json", "-"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["questions"] == 12 and "nothink" in shown.err
    svg, figures = tmp_path / "r.svg", tmp_path / "r.json"
    words = ["--router", str(out), *routes(runs), "--svg", str(svg), "--json", str(figures), "--draws", "50"]
    assert main(["route", "eval", *words]) == 0
    assert "against always think" in capsys.readouterr().out and "<svg" in svg.read_text()
    report = json.loads(figures.read_text())
    assert report["n"] == 12 and {"APGR, calls", "APGR, oracle"} <= set(report["areas"])
    run = tmp_path / "run"
    assert main([*EVAL, "--method", f"router:path={out}", "--out", str(run)]) == 0
    found = [json.loads(line)["provenance"]["router"] for line in (run / "traces.jsonl").open()]
    assert len(found) == 12 and {each["route"] for each in found} <= {"think", "nothink"}
    about = json.loads((out / "router.json").read_text())
    assert about["methods"] == {"think": "none", "nothink": "nothink"}


def test_what_composes_and_what_does_not(runs, tmp_path):
    assert main(["route", "fit", *routes(runs), "--out", str(tmp_path / "r")]) == 0
    parse_method(f"router:path={tmp_path}/r+concise")
    with pytest.raises(BadInput, match="both change 'drive'"):
        parse_method(f"router:path={tmp_path}/r+cut:tokens=10")
    words = [*routes(runs), "--method", "think", "concise", "--out", str(tmp_path / "c")]
    assert main(["route", "fit", *words]) == 0
    with pytest.raises(BadInput, match="rewrites the question"):
        parse_method(f"router:path={tmp_path}/c").methods()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --route"),
        (["--route", "think", "nowhere"], "nowhere"),
        (["--rows", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_input_is_named(words, message, capsys):
    assert main(["route", "fit", *words]) == 2
    assert message in capsys.readouterr().err
    assert main(["route", "serve", "--router", "nowhere"]) == 2
    assert "laconic route fit" in capsys.readouterr().err
