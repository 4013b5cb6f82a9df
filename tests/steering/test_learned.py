"""A learned vector as a file: through the library and through the command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from eval_math.errors import BadInput
from eval_math.records import to_line
from steering.ces import CesConfig
from steering.extraction import Recipe, extract
from steering.learned import learn_vector
from steering.vector import load_vector, save_vector


def test_it_is_a_vector_like_any_other(engine, pairs, tmp_path):
    read = extract(engine, pairs, Recipe(blocks=(1, 2))).vector
    found = learn_vector(engine, pairs, read, [CesConfig(b, steps=3, learning_rate=0.1) for b in (1, 2)])
    assert found.info.estimator == "ces" and found.info.gamma == 1.0 and found.info.apply_layers == (2,)
    assert not found.pairs and all(float(d.norm()) > 0 for d in found.directions.values())
    record = json.loads(found.info.extra["ces"])
    assert set(record) == {"1", "2"} and {"short", "long", "task", "generic"} <= set(record["1"])
    save_vector(found, tmp_path / "v.safetensors")
    assert load_vector(tmp_path / "v.safetensors").digest() == found.digest()


def test_no_block_is_refused(engine, pairs):
    with pytest.raises(BadInput, match="no block"):
        learn_vector(engine, pairs, extract(engine, pairs).vector, [])


def test_the_command_learns_at_the_default_block(model_folders, pairs, tmp_path, capsys):
    from scripts.main import main

    stored = tmp_path / "pairs.jsonl"
    stored.write_text("".join(to_line(replace(pair, source="self:embedded")) for pair in pairs))
    out = tmp_path / "v.safetensors"
    words = ["--pairs", str(stored), "--model", str(model_folders["llama"]), "--out", str(out), "--steps", "2"]
    assert main(["steer", "extract", "--estimator", "ces", *words]) == 0
    info = load_vector(out).info
    assert info.estimator == "ces" and len(info.extract_layers) == 1
    assert main(["steer", "extract", "--estimator", "median", "--pooling", "first_k", *words]) == 0
    assert load_vector(out).info.estimator == "median" and load_vector(out).info.position.startswith("first_k")
