"""What a run folder is counted as, and what two of them differ in."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
from stored_runs import Outcome, many, write_run

from eval_math.errors import BadInput
from eval_math.paired import compare
from eval_math.report import collect, format_table
from eval_math.runtable import read_run
from eval_math.statistics import wilson
from eval_math.summary import figures_json, summarise, summarise_runs, write_summary


def test_each_kind_of_trace_is_counted_for_what_it_is(tmp_path):
    run = write_run(
        tmp_path / "run",
        [
            Outcome("a", "correct", thinking=100, answer=10),
            Outcome("b", "incorrect", thinking=300, answer=30, truncated=True),
            Outcome("c", "unparsable", thinking=500, answer=0, finish="length"),
            Outcome("d", "timeout", thinking=100, answer=20),
            Outcome("e", "gold_unparsable", thinking=100, answer=20),
            Outcome("f", None, thinking=0, answer=0, finish="error"),
            Outcome("g", None, thinking=100, answer=20),
        ],
    )
    row = summarise(run)
    assert (row.n, row.n_problems, row.method, row.benchmark, row.model) == (7, 7, "none", "toy", "embedded")
    # e has no readable reference and g no grade yet: 1 right of a b c d f.
    assert row.accuracy == pytest.approx(1 / 5)
    assert (row.accuracy_low, row.accuracy_high) == (wilson(1, 5).low, wilson(1, 5).high)
    assert (row.truncated, row.unparsable, row.timeouts, row.gold_unparsable, row.errors, row.ungraded) == (
        2,
        1,
        1,
        1,
        1,
        1,
    )
    # The engine error f has no tokens to count.
    assert row.thinking_tokens_mean == pytest.approx(1200 / 6)
    assert row.answer_tokens_mean == pytest.approx(100 / 6)


def test_several_samples_are_averaged_within_their_problem_first(tmp_path):
    outcomes = [Outcome("a", "correct", thinking=10, sample=s) for s in range(3)]
    outcomes += [Outcome("b", "incorrect", thinking=50), Outcome("c", "correct", thinking=30)]
    row = summarise(write_run(tmp_path / "run", outcomes))
    assert (row.n, row.n_problems) == (5, 3)
    assert row.accuracy == pytest.approx(2 / 3)
    assert row.thinking_tokens_mean == pytest.approx(30)
    assert 0 <= row.accuracy_low < row.accuracy < row.accuracy_high <= 1


def test_all_right_with_several_samples_is_not_certain(tmp_path):
    outcomes = [Outcome(p, "correct", sample=s) for p in "abcdef" for s in range(4)]
    row = summarise(write_run(tmp_path / "run", outcomes))
    assert row.accuracy == 1 and row.accuracy_low == pytest.approx(wilson(6, 6).low)


def test_speed_is_from_the_noted_seconds_else_from_one_stream(tmp_path):
    outcomes = many("1111", thinking=90, answer=10, seconds=2.0)
    alone = summarise(write_run(tmp_path / "alone", outcomes))
    assert (alone.seconds, alone.tokens_per_second) == (8.0, 50.0)
    sessions = [{"generation_seconds": 1.5}, {"generation_seconds": 0.5}, {"started": "now"}]
    noted = summarise(write_run(tmp_path / "noted", outcomes, sessions=sessions))
    assert (noted.seconds, noted.tokens_per_second) == (2.0, 200.0)


def test_latent_steps_and_probes_have_their_own_columns(tmp_path):
    row = summarise(write_run(tmp_path / "run", many("11", thinking=80, answer=0, probe=20, latent=5, seconds=1.0)))
    assert (row.probe_tokens_mean, row.latent_steps_mean, row.tokens_per_second) == (20, 5, 105)


def test_an_empty_run_has_no_figures_and_no_error(tmp_path):
    run = write_run(tmp_path / "run", [])
    row = write_summary(run)
    assert row.n == 0 and math.isnan(row.accuracy)
    stored = json.loads((run / "summary.json").read_text())
    assert stored["schema"] == 1 and stored["rows"][0]["accuracy"] is None
    assert "none" in format_table([row])


def test_summary_file_holds_the_row(tmp_path):
    run = write_run(tmp_path / "run", many("1101"))
    row = write_summary(run)
    assert json.loads((run / "summary.json").read_text())["rows"] == [figures_json(row)]
    assert summarise_runs([run]) == [row]


def test_a_torn_last_line_is_skipped_and_a_bad_line_named(tmp_path):
    run = write_run(tmp_path / "run", many("110"))
    with open(run / "traces.jsonl", "ab") as handle:
        handle.write('{"schema":1,"problem_id":"p9","text":"ü'.encode()[:-1])
    assert summarise(run).n == 3
    with open(run / "grades.jsonl", "ab") as handle:
        handle.write(b"{broken}\n")
    with pytest.raises(BadInput, match=r"grades\.jsonl, line 4"):
        summarise(run)


def test_half_a_surrogate_pair_does_not_break_a_run(tmp_path):
    assert summarise(write_run(tmp_path / "run", [Outcome("a", text="half \ud83d pair")])).n == 1


def test_the_first_of_two_lines_for_a_unit_counts_and_strays_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", [Outcome("a", "correct", thinking=10), Outcome("a", "incorrect", thinking=99)])
    with open(run / "grades.jsonl", "a") as handle:
        handle.write('{"schema":1,"problem_id":"stranger","sample":0,"status":"correct"}\n')
    row = summarise(run)
    assert (row.n, row.accuracy, row.thinking_tokens_mean) == (1, 1.0, 10.0)


@pytest.mark.parametrize("missing", ["run.json", "traces.jsonl", "grades.jsonl"])
def test_a_folder_that_is_no_run_is_named(tmp_path, missing):
    run = write_run(tmp_path / "run", many("1"))
    (run / missing).unlink()
    with pytest.raises(BadInput, match=missing):
        summarise(run)


def test_damaged_run_json_and_missing_folder(tmp_path):
    run = write_run(tmp_path / "run", many("1"))
    for text in ("{", "[]"):
        (run / "run.json").write_text(text)
        with pytest.raises(BadInput, match=r"run\.json"):
            summarise(run)
    with pytest.raises(BadInput, match="no such folder"):
        summarise(tmp_path / "nowhere")


def test_comparison_is_paired_by_problem(tmp_path):
    base = write_run(tmp_path / "base", many("1100110011", thinking=200, answer=20))
    turned = list(reversed(many("1110110010", thinking=50, answer=20)))
    found = compare(base, write_run(tmp_path / "steered", [*turned, Outcome("extra")], method="asc"))
    assert (found.gained, found.lost) == (("p2",), ("p9",))
    assert (found.n_problems, found.unmatched) == (10, 1)
    assert found.accuracy_difference.value == 0 and found.mcnemar_p == 1.0
    assert found.thinking_difference.value == -150
    assert (found.thinking_saving.value, found.total_saving.value) == pytest.approx((0.75, 1 - 70 / 220))
    assert found.accuracy_difference.low < 0 < found.accuracy_difference.high


def test_comparison_leaves_engine_errors_out_of_the_tokens_only(tmp_path):
    base = write_run(tmp_path / "base", many("11", thinking=100))
    broken = Outcome("p1", None, thinking=0, answer=0, finish="error")
    found = compare(base, write_run(tmp_path / "run", [Outcome("p0", thinking=40), broken]))
    assert found.lost == ("p1",) and found.accuracy_difference.value == -0.5
    assert found.thinking_saving.value == pytest.approx(0.6)


def test_several_samples_give_no_mcnemar(tmp_path):
    base = write_run(tmp_path / "base", [Outcome("a", "incorrect", sample=0), Outcome("a", "correct", sample=1)])
    found = compare(base, write_run(tmp_path / "run", [Outcome("a", "correct", sample=s) for s in (0, 1)]))
    assert found.mcnemar_p is None and found.gained == ("a",) and found.accuracy_difference.value == 0.5


def test_runs_that_cannot_be_compared(tmp_path):
    base = write_run(tmp_path / "base", many("11"))
    with pytest.raises(BadInput, match="no problem in common"):
        compare(base, write_run(tmp_path / "other", [Outcome("z")]))
    with pytest.raises(BadInput, match="same benchmark"):
        compare(base, write_run(tmp_path / "gsm", many("11"), benchmark="gsm8k"))


def test_baseline_is_the_plain_run_or_the_named_one(tmp_path):
    runs = [
        write_run(tmp_path / "steered", many("11"), method="asc:vector=/x/v.safetensors,strength=0.5"),
        write_run(tmp_path / "plain", many("10"), method="none"),
        write_run(tmp_path / "short", many("01"), method="concise"),
    ]
    assert collect(runs).groups[0].baseline.row.run == "plain"
    for name in ("asc", "steered", "asc:vector=/x/v.safetensors,strength=0.5"):
        assert collect(runs, baseline=name).groups[0].baseline.row.run == "steered"
    with pytest.raises(BadInput, match=r"no run is called 'ascc'.*concise"):
        collect(runs, baseline="ascc")
    with pytest.raises(BadInput, match="twice"):
        collect([runs[0], runs[0]])
    with pytest.raises(BadInput, match="no run folder"):
        collect([])


def test_table_is_aligned_and_has_each_figure_once(tmp_path):
    base = write_run(tmp_path / "base", many("1100110011", thinking=200))
    run = write_run(tmp_path / "run", many("1110110010", thinking=50), method="asc:strength=0.5")
    found = collect([base, run])
    lines = format_table(found.rows, found.comparisons).splitlines()
    assert lines[0] == (
        "toy, 10 problems, model embedded; changes are paired by problem, against none; "
        "accuracy kept or lost by 2 points"
    )
    head, steered = lines[3], lines[-1]
    assert len(set(map(len, (lines[4], steered)))) == 1 and head.endswith("vs margin")
    assert steered.startswith("asc ") and "75.0 [75.0, 75.0]" in steered and "+0.0 [" in steered
    assert steered.endswith(" open")


def test_memory_of_reading_stays_small(tmp_path):
    """10,000 traces of 5 kB: reading keeps numbers, not 50 MB of text."""
    text = "So the next step follows. Wait, let me check it again.\n" * 45
    run = write_run(tmp_path / "run", [Outcome(f"p{i}", text=text) for i in range(10_000)])
    assert (run / "traces.jsonl").stat().st_size > 45_000_000
    code = (
        "import resource, sys; from pathlib import Path; from eval_math.report import write_report;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "write_report([Path(sys.argv[1])], Path(sys.argv[2]));"
        "print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(run), str(tmp_path / "report.html")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    before, peak = map(int, done.stdout.split())
    assert (peak - before) / 1024 < 60, f"{(peak - before) / 1024:.0f} MiB more than at the start"


def test_run_table_keeps_where_each_record_stands(tmp_path):
    run = write_run(tmp_path / "run", [Outcome("a"), Outcome("b", None), Outcome("c")])
    table = read_run(run)
    assert table.trace_row.tolist() == [0, 1, 2] and table.grade_row.tolist() == [0, -1, 1]
