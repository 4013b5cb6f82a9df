"""A whole model card of the shipped reasoner, small: every section, resumable, complete."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from cot.embedded import MODEL_PATH

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """(folder of the checkpoint, folder of the runs, what was written)"""
    from cot.embedded.card import write_card

    root = tmp_path_factory.mktemp("card")
    model = root / "model"
    shutil.copytree(MODEL_PATH, model)
    return model, root / "runs", write_card(model, root / "runs", *small_card())


def small_card():
    from laconic_cli.train_embedded import sections

    from cot.embedded.card import CardPlan
    from cot.embedded.recipe import Recipe
    from cot.embedded.training import Progress
    from rl.embedded import HeadSection
    from steering.embedded import SteeringSection

    def smaller(section):
        if isinstance(section, SteeringSection):
            return replace(section, pairs=8, strengths=(0.1, 0.2))
        return replace(section, share=0.5) if isinstance(section, HeadSection) else section

    trained = (Recipe(), Progress(step=1, tokens=2, seconds=3.0))
    return trained, [smaller(each) for each in sections()], CardPlan(problems=4, sweep=4, brief=True)


@pytest.mark.slow
def test_every_section_is_there_and_agrees_with_its_runs(card):
    model, runs, written = card
    assert json.loads((model / "card.json").read_text()) == json.loads(json.dumps(written))
    parts = {part["title"]: part["figures"] for part in written["parts"]}
    assert set(parts) == {"Prompts", "Shortening", "Steering", "Heads"}
    assert parts["Prompts"]["default, greedy"]["n"] == 4
    heads = parts["Heads"]["heads"]
    assert len(heads) == parts["Heads"]["kv_heads"] == len({tuple(each["head"]) for each in heads}) >= 16
    assert len(list(runs.glob("windowed-heads-*"))) == len(heads) + 3
    assert [each["label"] for each in parts["Steering"]["dev"]].count("last token, mean") == 4
    text = (model / "README.md").read_text()
    assert all(f"## {title}" in text for title in parts)


@pytest.mark.slow
def test_a_second_card_reads_what_the_first_ran(card):
    from cot.embedded.card import write_card

    model, runs, written = card
    before = {path: path.read_bytes() for path in runs.glob("*/traces.jsonl")}
    assert write_card(model, runs, *small_card()) == written
    assert {path: path.read_bytes() for path in runs.glob("*/traces.jsonl")} == before


def test_the_best_point_is_the_shortest_that_loses_little(tmp_path):
    from cot.embedded.probes import Finding, Probe
    from steering.embedded import best_point

    def found(right, tokens):
        return Finding(Probe("s", "x"), tmp_path, 100, right, tokens, 0, ())

    base, far, near, wrong = found(95, 200.0), found(93, 120.0), found(96, 150.0), found(92, 50.0)
    assert best_point(base, [near, far, wrong]) == far
    assert best_point(base, [wrong]) is None
