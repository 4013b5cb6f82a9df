"""Reports as Markdown, CSV, JSON and SVG, the paired figures of a comparison, and what several samples say."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from stored_runs import Outcome, many, write_run

from eval_math.errors import BadInput
from eval_math.paired import compare
from eval_math.report import Terms, collect, format_comparison, format_of, write_export
from eval_math.summary import figures_json, summarise


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    base = write_run(tmp_path / "base", many("1" * 90 + "0" * 10, thinking=200))
    short = write_run(tmp_path / "short", many("1" * 89 + "0" * 10 + "1", thinking=50), method="asc:strength=0.5")
    return [base, short]


def test_format_is_told_by_the_name_or_the_flag():
    assert format_of(Path("a.MD")) == "md" and format_of(Path("a.txt"), "csv") == "csv"
    with pytest.raises(BadInput, match="--format"):
        format_of(Path("a.pdf"))


def test_markdown_has_a_row_per_run(runs, tmp_path):
    (out,) = write_export(collect(runs), tmp_path / "r.md", "md")
    lines = out.read_text().splitlines()
    assert lines[0] == "**toy**, 100 problems, model embedded"
    assert lines[4].startswith("| none (baseline) | 100 | 90.0 [82.6, 94.5] | 200.0 |")
    assert lines[5].startswith("| asc | 100 | 90.0 [") and "| open (margin 2) |" in lines[5] and " 75.0 [" in lines[5]
    assert len({line.count("|") for line in lines[2:6]}) == 1


def test_csv_holds_every_figure(runs, tmp_path):
    (out,) = write_export(collect(runs), tmp_path / "r.csv", "csv")
    base, short = csv.DictReader(io.StringIO(out.read_text()))
    assert float(base["accuracy"]) == 0.9 and base["change_gained"] == ""
    assert (short["change_gained"], short["change_lost"]) == ("1", "1")
    assert float(short["change_thinking_saving_value"]) == 0.75
    assert float(short["tokens_per_correct"]) == pytest.approx(60 * 100 / 90)


def test_json_is_the_collection(runs, tmp_path):
    collection = collect(runs)
    (out,) = write_export(collection, tmp_path / "r.json", "json")
    assert json.loads(out.read_text()) == json.loads(json.dumps(collection.to_json()))


def test_svg_stands_alone(runs, tmp_path):
    (out,) = write_export(collect(runs), tmp_path / "r.svg", "svg")
    root = ElementTree.fromstring(out.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width") == "820"
    style = root.find("{http://www.w3.org/2000/svg}style")
    assert style is not None and style.text and "--card" in style.text and ".figure .mark" in style.text
    assert "asc" in "".join(root.itertext())


def test_svg_of_two_benchmarks_are_two_files(runs, tmp_path):
    other = write_run(tmp_path / "other", many("10"), benchmark="embedded:hard")
    written = write_export(collect([*runs, other]), tmp_path / "r.svg", "svg")
    assert [path.name for path in written] == ["r-toy.svg", "r-embedded-hard.svg"]
    assert all(path.is_file() for path in written)


def test_comparison_counts_each_problem_once(runs):
    found = compare(*runs)
    assert (found.both_right, len(found.gained), len(found.lost), found.both_wrong) == (89, 1, 1, 9)
    assert found.mcnemar_p == 1 and found.equal_accuracy == "open"
    assert found.aes.value == pytest.approx(150 / 210)
    assert compare(*runs, margin=0.1).equal_accuracy == "kept"
    assert collect(runs, terms=Terms(margin=0.1)).comparisons[0].margin == 0.1


def test_comparison_in_words(runs):
    text = format_comparison(compare(*runs))
    assert "89 right in both, 1 gained, 1 lost, 9 wrong in both" in text
    assert "not decided at a margin of 2 points" in text and "gained      p99" in text and "lost        p89" in text
    assert "+0.71" in text and "too few problems to say" in text
    assert "p99" not in format_comparison(compare(*runs), most_problems=0)


def test_lost_accuracy_is_called_lost(tmp_path):
    base = write_run(tmp_path / "base", many("1" * 200))
    worse = write_run(tmp_path / "worse", many("1" * 150 + "0" * 50), method="cut")
    found = compare(base, worse)
    assert found.equal_accuracy == "lost"
    text = format_comparison(found)
    assert "lost: the whole interval lies below -2 points" in text and "one point would take" in text
    assert ", and 30 more" in text


def test_equal_runs_say_nothing_of_power(tmp_path):
    base = write_run(tmp_path / "base", many("110"))
    same = write_run(tmp_path / "same", many("110"), method="cut")
    found = compare(base, same)
    assert found.problems_for_a_point is None and figures_json(found)["smallest_visible"] is None
    assert "too few problems to say" in format_comparison(found)


def test_several_samples_have_their_own_figures(tmp_path):
    outcomes = [Outcome("a", s, sample=i) for i, s in enumerate(("correct", "correct", "incorrect", "incorrect"))]
    outcomes += [Outcome("b", s, sample=i) for i, s in enumerate(("incorrect", "unparsable", "unparsable", "correct"))]
    outcomes += [Outcome("c", "correct", sample=i) for i in range(5)]
    row = summarise(write_run(tmp_path / "run", outcomes)).repeated
    assert row is not None and row.k == 4
    assert row.average.value == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert row.any.value == 1 and row.all.value == pytest.approx(1 / 3)
    assert row.half.value == pytest.approx(2 / 3)
    # a: two of two against two wrong ones alike; b: one right against one wrong; c: all.
    assert row.majority.value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert summarise(write_run(tmp_path / "one", many("10"))).repeated is None


def test_engine_errors_are_samples_that_failed(tmp_path):
    outcomes = [Outcome("a", None, finish="error"), Outcome("a", "correct", sample=1)]
    row = summarise(write_run(tmp_path / "run", outcomes)).repeated
    assert row is not None and row.average.value == 0.5 and row.majority.value == 1


def test_loops_and_guesses_are_counted(tmp_path):
    outcomes = many("11")
    outcomes[0] = Outcome("p0", "incorrect", text="Wait, let me see. " * 40, say="", finish="length")
    row = summarise(write_run(tmp_path / "run", outcomes))
    assert (row.looping, row.truncated, row.correct, row.incorrect) == (0, 1, 1, 1), "the end of thinking stands there"
    outcomes[0] = Outcome("p0", "incorrect", text="Let me see.", say="7 is 7. " * 60, finish="length")
    assert summarise(write_run(tmp_path / "loop", outcomes)).looping == 1
