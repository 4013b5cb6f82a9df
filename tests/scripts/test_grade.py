"""`laconic grade`: rows in, verdicts and figures out, errors that name the line."""

from __future__ import annotations

import json

import pytest

from scripts.main import main

ROWS = [
    {"id": "a", "gold": "4", "output": "2 + 2 = 4\nA: 4"},
    {"id": "b", "gold": "\\frac12", "prediction": "so \\boxed{0.5}"},
    {"id": "c", "answer": "7", "pred": "<think> seven"},
    {"id": 4, "gold": ["1", "2"], "output": "\\boxed{2}", "correct": True, "source": "two"},
]


def written(tmp_path, rows) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_verdicts_and_figures(tmp_path, capsys):
    out, figures = tmp_path / "out.jsonl", tmp_path / "figures.json"
    assert main(["grade", written(tmp_path, ROWS), "--out", str(out), "--json", str(figures)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["status"], row["rule"]) for row in rows] == [
        ("a", "correct", "phrase"),
        ("b", "correct", "box"),
        ("c", "unparsable", None),
        ("4", "correct", "box"),
    ]
    found = json.loads(figures.read_text())
    assert (found["n"], found["statuses"]["correct"], found["truncated"]) == (4, 3, 1)
    assert found["sources"]["two"]["agreement"] == 1.0
    assert "two" in capsys.readouterr().out


def test_json_on_standard_output_stands_alone(tmp_path, capsys):
    assert main(["grade", written(tmp_path, ROWS), "--json", "-", "--limit", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"gold": "1", "output": "1"}, "line 5: no 'id'"),
        ({"id": "x", "output": "1"}, "line 5: none of the fields gold, answer"),
        ({"id": "x", "gold": "1"}, "line 5: none of the fields output, prediction, pred"),
        ({"id": "x", "gold": None, "output": "1"}, "line 5: gold must be"),
        ({"id": "x", "gold": "1", "output": 3}, "line 5: the output must be"),
        ({"id": "b", "gold": "1", "output": "1"}, "id 'b' is on line 2 too"),
    ],
)
def test_bad_rows_name_their_line_and_write_nothing(tmp_path, capsys, row, said):
    out = tmp_path / "out.jsonl"
    assert main(["grade", written(tmp_path, [*ROWS, row]), "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--benchmark", "gms8k"], "has no grading policy"),
        (["--limit", "0"], "--limit 0"),
        (["--out", "/nowhere/out.jsonl"], "cannot be written"),
    ],
)
def test_bad_flags(tmp_path, capsys, flags, said):
    assert main(["grade", written(tmp_path, ROWS), *flags]) == 2
    assert said in capsys.readouterr().err


def test_missing_file(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_a_file_is_not_its_own_output(tmp_path, capsys):
    path = written(tmp_path, ROWS)
    assert main(["grade", path, "--out", path]) == 2
    assert "choose another" in capsys.readouterr().err
