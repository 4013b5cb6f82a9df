"""`laconic report` in each format and `laconic compare`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts.main import main

sys.path.insert(0, str(Path(__file__).parents[1] / "eval_math"))

from stored_runs import many, write_run


@pytest.fixture
def runs(tmp_path) -> list[str]:
    base = write_run(tmp_path / "base", many("1" * 90 + "0" * 10, thinking=200))
    short = write_run(tmp_path / "short", many("1" * 85 + "0" * 15, thinking=50), method="concise")
    return [str(base), str(short)]


@pytest.mark.parametrize(
    ("name", "start"), [("r.html", "<!doctype html>"), ("r.md", "**toy**"), ("r.csv", "run,"), ("r.svg", "<svg ")]
)
def test_the_name_of_the_file_chooses_the_format(runs, tmp_path, capsys, name, start):
    assert main(["report", *runs, "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_text().startswith(start)
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / name}" in said and "concise" in said


def test_the_flag_wins_over_the_name(runs, tmp_path):
    out = tmp_path / "figures.txt"
    assert main(["report", *runs, "--out", str(out), "--format", "json"]) == 0
    assert json.loads(out.read_text())["comparisons"][0]["lost"] == [f"p{i}" for i in range(85, 90)]


def test_margin_changes_the_verdict(runs, tmp_path, capsys):
    for margin, verdict in (("2", "open"), ("20", "kept")):
        assert main(["report", *runs, "--out", str(tmp_path / "r.md"), "--margin", margin]) == 0
        assert capsys.readouterr().out.splitlines()[-3].endswith(verdict)


def test_compare_says_what_changed(runs, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    assert main(["compare", *runs, "--problems", "2", "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    assert "concise against none on toy, 100 problems" in said and "-5.0 [" in said
    assert "85 right in both, 0 gained, 5 lost, 10 wrong in both" in said
    assert "p85, p86, and 3 more" in said
    assert json.loads(figures.read_text())["margin"] == 0.02


def test_json_on_standard_output_stands_alone(runs, capsys):
    assert main(["compare", *runs, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["both_wrong"] == 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "--out", "r.pdf"], "--format"),
        (["report", "--margin", "-1"], "--margin"),
        (["compare", "--margin", "101"], "--margin"),
    ],
)
def test_bad_flags_are_named(runs, capsys, words, said):
    assert main([words[0], *runs, *words[1:]]) == 2
    assert said in capsys.readouterr().err


def test_compare_of_no_run_is_one_line(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "no such folder" in capsys.readouterr().err
