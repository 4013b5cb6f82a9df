"""The demo from end to end on few problems, resumed and repeated; the budget that matches a mean length."""

from __future__ import annotations

import json

import pytest

from eval_math.errors import BadInput
from steering.demo import DemoPlan, matching_budget, run_demo

SMALL = DemoPlan(engine="hf", pairs=16, dev=8, test=10, blocks=(3,), strengths=(0.25,), margin=0.5, batch_size=16)


@pytest.mark.parametrize(
    ("lengths", "mean", "budget"),
    [([10, 10, 10], 4, 4), ([2, 100], 26, 50), ([5, 5], 99, 5), ([1, 2, 3, 4], 2.5, 4), ([7], 7, 7)],
)
def test_a_budget_cuts_to_the_mean_asked_for(lengths, mean, budget):
    assert matching_budget(lengths, mean) == budget


def test_a_budget_needs_lengths():
    with pytest.raises(BadInput, match="no lengths"):
        matching_budget([], 3)


def test_a_plan_without_problems_is_refused():
    with pytest.raises(BadInput, match="test=0"):
        DemoPlan(test=0)


@pytest.mark.slow
def test_the_demo_ends_with_a_report_and_repeats_at_once(tmp_path):
    said: list[str] = []
    first = run_demo(SMALL, tmp_path, said.append)
    assert [row.n for row in first.rows] == [10] * 5
    assert first.report.stat().st_size > 10_000
    assert {row["method"].split(":")[0] for row in json.loads((tmp_path / "summary.json").read_text())["rows"]} == {
        "none", "asc", "concise", "cut",
    }  # fmt: skip
    cut, steered = first.rows[4], first.rows[1]
    assert cut.thinking_tokens_mean == pytest.approx(steered.thinking_tokens_mean, rel=0.2)

    stored = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("traces.jsonl")}
    again = run_demo(SMALL, tmp_path, said.append)
    assert "everything is there" in said[-1]
    assert again.rows == first.rows and (again.block, again.strength) == (first.block, first.strength)
    assert stored == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("traces.jsonl")}
