"""Preference training on the embedded reasoner: ids and masks, the loss, the reference, shorter outputs, resumption."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cot.training.config import DpoConfig
from cot.training.folder import checkpoint_step, last_checkpoint
from eval_math.errors import BadInput

RUN = (
    "import sys; from laconic_cli.command import parse; from laconic_cli.train_dpo import TrainDpo, run; "
    "raise SystemExit(run(parse(TrainDpo, sys.argv[1:], prog='train dpo')))"
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Short correct traces (equations only) preferred to long correct ones of the same problems."""
    from cot.embedded.problems import make_problems
    from cot.embedded.traces import ANSWER, write_trace
    from eval_math.prompts import prompt

    rng = random.Random(0)
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w") as handle:
        for problem in make_problems("train", 64, seed=7):
            texts = [
                f"<think>{write_trace(problem, level, rng)}</think>{ANSWER.format(answer=problem.answer)}"
                for level in (0, 3)
            ]
            short, long = ([{"role": "assistant", "content": text}] for text in texts)
            turns = [{"role": each.role, "content": each.content} for each in prompt(problem.record())]
            row = {"id": problem.id, "prompt": turns, "chosen": short, "rejected": long}
            handle.write(json.dumps(row) + "\n")
    return path


def session(data: Path, out: Path, **settings):
    from cot.training.dpo import Dpo
    from cot.training.session import Session

    small = {"batch_size": 4, "micro_batch": 2, "limit": 16, "epochs": 1.0, "eval_every": 0, "learning_rate": 3e-4}
    return Session(Dpo(), DpoConfig(**{**small, **settings}), data, out)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_batches_of_the_trainer_hold_exactly_our_ids_and_masks(pairs, tmp_path):
    training = session(pairs, tmp_path / "out", limit=8)
    chat, expected = training.chat, [training.prepared.rows[at] for at in training.order]
    pad = chat.tokenizer.pad_token_id
    source = {each["id"]: each for each in lines(pairs)}
    seen = 0
    for batch in training.trainer().get_train_dataloader():
        width = batch["input_ids"].shape[1]
        half = len(batch["input_ids"]) // 2
        for at in range(half):
            row = expected[seen]
            seen += 1
            for side, ids in ((at, row.chosen_ids), (half + at, row.rejected_ids)):
                prompt, padding = row.prompt_ids, width - len(row.prompt_ids) - len(ids)
                assert batch["input_ids"][side].tolist() == prompt + ids + [pad] * padding
                assert batch["completion_mask"][side].tolist() == [0] * len(prompt) + [1] * len(ids) + [0] * padding
                assert batch["attention_mask"][side].tolist() == [1] * (width - padding) + [0] * padding
            for column, ids in (("chosen", row.chosen_ids), ("rejected", row.rejected_ids)):
                text = chat.decode_all(row.prompt_ids + ids)
                assert text.endswith(source[row.id][column][0]["content"] + "<|end|>")
                assert text.count("<think>") == 1
    assert seen == len(expected) == 8


@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_is_equation_7_against_the_source_model(pairs, tmp_path, embedded_model, normalised):
    import torch
    from transformers import AutoModelForCausalLM

    out, beta = tmp_path / "out", 20.0 if normalised else 0.3
    training = session(pairs, out, limit=8, save_every=1, warmup=0.0, beta=beta, length_normalised=normalised)
    training.run()
    first, second = (each["loss"] for each in lines(out / "loss.jsonl"))
    assert first == pytest.approx(math.log(2), abs=1e-6)

    def log_probability(model, prompt: list[int], ids: list[int]) -> float:
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        total = logits.gather(1, torch.tensor(ids)[:, None]).sum().item()
        return total / len(ids) if normalised else total

    after, before = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (out / "checkpoints" / "checkpoint-1", embedded_model)
    )
    total = 0.0
    with torch.no_grad():
        for row in (training.prepared.rows[at] for at in training.order[4:]):
            chosen, rejected = (
                log_probability(after, row.prompt_ids, ids) - log_probability(before, row.prompt_ids, ids)
                for ids in (row.chosen_ids, row.rejected_ids)
            )
            total += math.log1p(math.exp(-beta * (chosen - rejected)))
    assert second < first - 5e-3
    assert second == pytest.approx(total / 4, abs=1e-4)


def test_preferring_short_correct_traces_makes_the_model_write_shorter_ones(pairs, tmp_path):
    out = tmp_path / "out"
    evaluations = {"eval_every": 6, "eval_limit": 16, "eval_max_tokens": 600}
    settings = {"limit": 48, "batch_size": 8, "micro_batch": 4, "learning_rate": 6e-4}
    outcome = session(pairs, out, **settings, **evaluations).run()
    before, after = (
        {each["problem_id"]: each["n_thinking_tokens"] for each in lines(out / "evaluation" / step / "traces.jsonl")}
        for step in ("step-000000", "step-000006")
    )
    assert len(before) == len(after) == 16
    assert sum(after[name] < before[name] for name in before) >= 14
    assert sum(after.values()) < 0.6 * sum(before.values())
    assert lines(out / "evaluation.jsonl")[-1]["accuracy"] >= 0.9
    assert outcome.figures["preferred_end"] == 1.0 and outcome.figures["margin_end"] > 0
    card = (out / "README.md").read_text()
    assert "nats per pair" in card and "larger reward in 100.0% of the pairs" in card
    assert "nats per pair" in (out / "loss.svg").read_text()


def test_the_reference_of_adapters_is_the_model_without_them(pairs, tmp_path, embedded_model):
    pytest.importorskip("peft", reason="peft is not installed: LoRA is not tested")
    from safetensors.torch import load_file

    out = tmp_path / "out"
    session(pairs, out, tuning="lora", lora_rank=4, learning_rate=2e-3).run()
    losses = [each["loss"] for each in lines(out / "loss.jsonl")]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[-1] < math.log(2) - 0.005
    mine, source = (load_file(folder / "model.safetensors") for folder in (out, embedded_model))
    assert mine.keys() == source.keys() and any(not mine[name].equal(source[name]) for name in source)


def test_a_pair_is_as_long_as_its_longer_side_and_both_sides_count(pairs, tmp_path):
    training = session(pairs, tmp_path)
    row = training.prepared.rows[0]
    sides = [len(row.prompt_ids) + len(ids) for ids in (row.chosen_ids, row.rejected_ids)]
    assert training.prepared.lengths[0] == max(sides) and training.prepared.tokens[0] == sum(sides)
    lengths = sorted(training.prepared.lengths)
    assert session(pairs, tmp_path, max_length=lengths[-1] - 1).prepared.facts["too_long"] == lengths.count(lengths[-1])


def test_rows_without_preferences_are_refused_with_the_form_of_pairs(tmp_path):
    turn = [{"role": "assistant", "content": "The answer is 4."}]
    row = {"prompt": [{"role": "user", "content": "2+2?"}], "completion": turn}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=r"train.jsonl, line 1: no column chosen.*rejected:.*pairs\.jsonl"):
        session(tmp_path, tmp_path / "out")


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    flags = ["--data", str(data), "--out", str(out), "--batch-size", "4", "--micro-batch", "2", "--limit", "32",
             "--epochs", "1", "--eval-every", "0", "--save-every", "2", "--learning-rate", "3e-4"]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", RUN, *flags], env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_a_training_goes_on_to_the_same_weights(pairs, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    killed = start(pairs, broken)
    end = time.monotonic() + 100
    while not ((broken / "loss.jsonl").exists() and len(lines(broken / "loss.jsonl")) >= 4):
        assert killed.poll() is None and time.monotonic() < end, killed.stderr and killed.stderr.read()
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    found = last_checkpoint(broken)
    assert found is not None and not (broken / "config.json").exists()

    assert 0 < checkpoint_step(found) < 8
    # Processes of their own on both sides: sums in this one may depend on what ran in it before.
    for out in (broken, whole):
        process = start(pairs, out)
        assert process.wait(120) == 0, process.stderr and process.stderr.read()
    record = json.loads((broken / "training.json").read_text())
    assert len(record["sessions"]) == 2 and record["finished"]["updates"] == 8
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    both = [[(each["step"], each["loss"]) for each in lines(folder / "loss.jsonl")] for folder in (broken, whole)]
    assert both[0] == both[1] and len(both[0]) == 8
