"""Latent trainings from rows to a folder: what is frozen, what is saved, resumption, adapters, evaluations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cot.training.folder import INFO
from cot.training.session import Session
from latent.colar_task import Colar
from latent.config import HEAD_FILE, read_config
from latent.labels import read_labels
from latent.latent_sft_run import train_latent_sft
from latent.latent_sft_task import ENCODER_FILE
from latent.settings import ColarConfig, LatentSftConfig

EMBEDDINGS = "model.embed_tokens.weight"
SMALL = {"batch_size": 4, "micro_batch": 2, "limit": 16, "epochs": 1.0, "eval_every": 0, "learning_rate": 1e-3}


def colar(rows: Path, out: Path, **settings) -> Session:
    config = ColarConfig(**{**SMALL, "rates": (2, 3), **settings})
    return Session(Colar(config), config, rows, out)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_reasoner_is_a_plain_folder_with_its_head_and_its_table_untouched(latent_rows, tmp_path, embedded_model):
    out = tmp_path / "out"
    colar(latent_rows, out).run()
    mine, source = load_file(out / "model.safetensors"), load_file(embedded_model / "model.safetensors")
    assert mine.keys() == source.keys()
    assert torch.equal(mine[EMBEDDINGS], source[EMBEDDINGS])
    assert any(not torch.equal(mine[name], source[name]) for name in source)
    config = read_config(out)
    assert (config.method, config.rates, config.least_steps) == ("colar", (2, 3), 1)
    head = load_file(out / HEAD_FILE)
    assert head["mean.weight"].shape == (source[EMBEDDINGS].shape[1], config.head_width)
    losses = lines(out / "loss.jsonl")
    assert {"token_loss", "latent_loss", "latent_error", "latent_sigma"} <= losses[0].keys()
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LatentLlamaForCausalLM"]


def test_a_training_that_was_killed_ends_as_an_undisturbed_one(latent_rows, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for out in (whole, broken):
        colar(latent_rows, out, save_every=2, keep_checkpoints=9).run()
    shutil.rmtree(broken / "checkpoints" / "checkpoint-4")
    record = json.loads((broken / INFO).read_text())
    (broken / INFO).write_text(json.dumps({**record, "finished": {}}))
    for name in ("config.json", HEAD_FILE, "model.safetensors"):
        (broken / name).unlink()
    assert colar(latent_rows, broken, save_every=2, keep_checkpoints=9).run().resumed == 2
    for name in ("model.safetensors", HEAD_FILE):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    both = [[each["loss"] for each in lines(folder / "loss.jsonl")] for folder in (broken, whole)]
    assert both[0] == both[1]


def test_adapters_leave_the_head_alone_and_carry_it_along(latent_rows, tmp_path, embedded_model):
    pytest.importorskip("peft", reason="peft is not installed: LoRA is not tested")
    out = tmp_path / "out"
    colar(latent_rows, out, tuning="lora", lora_rank=4).run()
    mine, source = load_file(out / "model.safetensors"), load_file(embedded_model / "model.safetensors")
    changed = {name for name in source if not torch.equal(mine[name], source[name])}
    assert changed and all("proj" in name for name in changed)
    head = load_file(out / HEAD_FILE)
    assert not any("lora" in name for name in head)
    assert float(head["mean.bias"].abs().sum()) > 0


def test_the_head_learns_to_give_the_next_latent(latent_rows, tmp_path):
    out = tmp_path / "out"
    settings = {"rates": (2,), "limit": 32, "batch_size": 8, "micro_batch": 8, "epochs": 12.0, "learning_rate": 3e-3}
    colar(latent_rows, out, **settings).run()
    errors = [each["latent_error"] for each in lines(out / "loss.jsonl")]
    assert sum(errors[-5:]) < 0.4 * sum(errors[:5])


def test_evaluations_think_in_latents(latent_rows, tmp_path):
    out = tmp_path / "out"
    colar(latent_rows, out, eval_every=4, eval_limit=4, eval_max_tokens=40, eval_method="colar:rate=3").run()
    traces = lines(out / "evaluation" / "step-000004" / "traces.jsonl")
    assert len(traces) == 4 and all(trace["n_latent_steps"] >= 1 for trace in traces)


def test_latent_sft_goes_through_its_stages_and_does_none_twice(latent_rows, tmp_path, embedded_model):
    out, ran = tmp_path / "out", list[str]()

    def run(session: Session):
        outcome = session.run()
        ran.append(f"{session.task.name} {outcome.updates}")
        return outcome

    config = LatentSftConfig(**SMALL, rate=2, top_k=5)
    train_latent_sft(config, latent_rows, out, run)
    assert ran == [*["latent-sft-stage1 4"] * 3, "latent-sft 4"]
    stage = tmp_path / "out-stage1"
    found = read_labels(stage / "labels")
    assert len(found) == 16 and found.ids.shape[1] == 5
    assert json.loads((stage / "labels" / "compression.json").read_text())["latents"] == len(found.ids)
    encoder, decoder, union = (
        load_file(stage / part / "model.safetensors") for part in ("encoder", "decoder", "union")
    )
    encoders = [load_file(stage / part / ENCODER_FILE) for part in ("encoder", "decoder", "union")]
    base = load_file(embedded_model / "model.safetensors")
    # The encoder's part leaves the decoder as it is, the decoder's part the encoder.
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(encoder[name], base[name]) and not torch.equal(decoder[name], encoder[name])
    assert all(torch.equal(encoders[0][key], encoders[1][key]) for key in encoders[0])
    assert not torch.equal(union[name], decoder[name])
    assert read_config(out).rule == "mixture"
    ran.clear()
    before = (out / "model.safetensors").read_bytes()
    train_latent_sft(config, latent_rows, out, run)
    assert ran == [*["latent-sft-stage1 0"] * 3, "latent-sft 0"]
    assert (out / "model.safetensors").read_bytes() == before
