"""Tokens that a method decodes and throws away, and latent steps, are part of what a report says it costs."""

from __future__ import annotations

import pytest
from stored_runs import many, write_run

from eval_math.paired import compare
from eval_math.report import collect, format_table
from eval_math.report.page import figure_points
from eval_math.summary import summarise


def test_probes_are_charged_to_thinking_in_every_figure(tmp_path):
    plain = write_run(tmp_path / "plain", many("1100", thinking=100, answer=10))
    probed = write_run(tmp_path / "probed", many("1100", thinking=60, answer=10, probe=60))
    row = summarise(probed)
    assert (row.thinking_tokens_mean, row.thinking_tokens_p95, row.probe_tokens_mean) == (120, 120, 60)
    assert (row.thinking_tokens_correct, row.thinking_tokens_wrong) == (120, 120)
    assert row.tokens_per_correct == 2 * (60 + 60 + 10)
    assert row.tokens_per_second == 130
    # Without the charge it would seem to save 40 %.
    assert compare(plain, probed).thinking_saving.value == pytest.approx(-0.2)
    assert compare(plain, probed).total_saving.value == pytest.approx(1 - 130 / 110)


def test_the_figure_shows_charged_tokens(tmp_path):
    runs = [write_run(tmp_path / "a", many("10")), write_run(tmp_path / "b", many("10", probe=60), method="deer")]
    (group,) = collect(runs).groups
    assert [point.tokens.value for point in figure_points(group)] == [100, 160]


def test_the_table_shows_charged_tokens(tmp_path):
    row = summarise(write_run(tmp_path / "run", many("10", thinking=70, probe=707)))
    assert "777.0" in format_table([row])


def test_runs_without_probes_are_as_before(tmp_path):
    row = summarise(write_run(tmp_path / "run", many("1100", thinking=100, answer=10)))
    assert (row.thinking_tokens_mean, row.probe_tokens_mean, row.tokens_per_correct) == (100, 0, 220)


def test_latent_steps_are_steps_of_thinking(tmp_path):
    plain = write_run(tmp_path / "plain", many("1100", thinking=40, answer=10))
    latent = write_run(tmp_path / "latent", many("1100", thinking=1, answer=10, latent=19), method="colar")
    row = summarise(latent)
    assert (row.thinking_tokens_mean, row.latent_steps_mean, row.tokens_per_correct) == (20, 19, 60)
    assert compare(plain, latent).thinking_saving.value == pytest.approx(0.5)
    (group,) = collect([plain, latent]).groups
    assert [point.tokens.value for point in figure_points(group)] == [40, 20]
