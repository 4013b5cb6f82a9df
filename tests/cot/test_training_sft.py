"""Supervised training on the embedded reasoner: labels, resumption after a kill, processes, adapters, the folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cot.training.config import SftConfig
from cot.training.folder import INFO, last_checkpoint, read_training
from eval_math.errors import BadInput, EngineError, RunMismatch, StoreError

RUN = (
    # A shell that starts a job in the background has it ignore Ctrl-C.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "import sys; from laconic_cli.command import parse; from laconic_cli.train_sft import TrainSft, run; "
    "raise SystemExit(run(parse(TrainSft, sys.argv[1:], prog='train sft')))"
)

pytestmark = pytest.mark.usefixtures("one_thread")


def write_rows(path: Path, count: int, level: int = 0) -> Path:
    from cot.embedded.problems import make_problems
    from cot.embedded.traces import ANSWER, write_trace
    from eval_math.prompts import prompt

    rng = random.Random(level)
    with path.open("w") as handle:
        for problem in make_problems("train", count, seed=7):
            text = f"<think>{write_trace(problem, level, rng)}</think>{ANSWER.format(answer=problem.answer)}"
            turns = [{"role": each.role, "content": each.content} for each in prompt(problem.record())]
            completion = [{"role": "assistant", "content": text}]
            handle.write(json.dumps({"id": problem.id, "prompt": turns, "completion": completion}) + "\n")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 64)


def session(data: Path, out: Path, **settings):
    from cot.training.session import Session
    from cot.training.sft import Sft

    small = {"batch_size": 4, "micro_batch": 2, "limit": 16, "epochs": 1.0, "eval_every": 0, "learning_rate": 1e-3}
    return Session(Sft(), SftConfig(**{**small, **settings}), data, out)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_batches_of_the_trainer_hold_exactly_our_labels(rows, tmp_path):
    training = session(rows, tmp_path / "out", micro_batch=2, limit=8)
    expected = [training.prepared.rows[at] for at in training.order]
    pad = training.chat.tokenizer.pad_token_id
    seen = 0
    for batch in training.trainer().get_train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            row, width = expected[seen], len(ids)
            padding = width - len(row.input_ids)
            assert ids.tolist() == row.input_ids + [pad] * padding
            assert labels.tolist() == [-100] * len(row.prompt_ids) + row.completion_ids + [-100] * padding
            assert mask.tolist() == [1] * len(row.input_ids) + [0] * padding
            seen += 1
    assert seen == len(expected) == 8


def test_the_loss_is_the_mean_over_all_completion_tokens_of_an_update(rows, tmp_path):
    import torch

    training = session(rows, tmp_path / "out", limit=4, micro_batch=1)
    trainer = session(rows, tmp_path / "beside", limit=4, micro_batch=1).trainer()
    total = count = 0.0
    with torch.no_grad():
        for at in training.order:
            row = training.prepared.rows[at]
            logits = trainer.model(torch.tensor([row.input_ids])).logits[0, :-1]
            labels = torch.tensor(row.labels[1:])
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            count += len(row.completion_ids)
    training.run()
    assert lines(tmp_path / "out" / "loss.jsonl")[0]["loss"] == pytest.approx(total / count, rel=1e-4)


def test_a_training_ends_in_a_model_folder_and_says_what_it_is(rows, tmp_path, embedded_model):
    out = tmp_path / "out"
    training = session(rows, out, eval_every=2, eval_limit=4, eval_max_tokens=64)
    outcome = training.run()
    assert outcome.updates == 4 and outcome.figures["rows"] == 16
    losses = lines(out / "loss.jsonl")
    assert [each["step"] for each in losses] == [1, 2, 3, 4]
    assert losses[-1]["epoch"] == 1.0 and losses[-1]["tokens"] == training.prepared.facts["tokens"]
    found = lines(out / "evaluation.jsonl")
    assert [each["step"] for each in found] == [0, 2, 4] and {each["n"] for each in found} == {4}
    assert (out / "evaluation" / "step-000002" / "grades.jsonl").is_file()
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (embedded_model / name).read_bytes()
    mine, source = (json.loads((folder / "config.json").read_text()) for folder in (out, embedded_model))
    assert mine == source
    assert weights(out) != weights(embedded_model)
    card = (out / "README.md").read_text()
    assert training.prepared.facts["sha256"] in card and "trl 1." in card and "| learning_rate | 0.001 |" in card
    assert (out / "loss.svg").read_text().startswith("<svg")
    assert read_training(out).finished["updates"] == 4


def test_the_evaluation_of_the_live_model_is_that_of_the_finished_folder(rows, tmp_path):
    from cot.benchmarks import load
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from cot.evaluate import EvalConfig, evaluate_into
    from cot.methods import parse_method
    from eval_math.records import Sampling

    out = tmp_path / "out"
    session(rows, out, eval_every=4, eval_limit=6, eval_max_tokens=200).run()
    engine = open_engine(EngineConfig(model=str(out), engine="hf"))
    config = EvalConfig("embedded", sampling=Sampling(max_tokens=200))
    evaluate_into(tmp_path / "again", load("embedded", split="dev", limit=6), parse_method("none"), engine, config)
    live, again = (
        lines(folder / "traces.jsonl") for folder in (out / "evaluation" / "step-000004", tmp_path / "again")
    )
    assert [each["text"] for each in live] == [each["text"] for each in again]


def test_a_finished_training_is_left_alone_and_another_is_refused(rows, tmp_path):
    out = tmp_path / "out"
    session(rows, out).run()
    before = weights(out)
    again = session(rows, out, save_every=1, micro_batch=4).run()
    assert (again.updates, again.resumed) == (0, 4) and weights(out) == before
    with pytest.raises(RunMismatch, match=r"config.seed: 0 stored, 1 asked"):
        session(rows, out, seed=1).run()
    with pytest.raises(RunMismatch, match=r"data.sha256"):
        session(write_rows(tmp_path / "other.jsonl", 20, level=2), out).run()
    assert session(rows, out, seed=1).run(overwrite=True).updates == 4
    assert weights(out) != before


def test_a_training_killed_before_its_model_was_written_writes_it(rows, tmp_path):
    out = tmp_path / "out"
    session(rows, out).run()
    before, losses = weights(out), (out / "loss.jsonl").read_bytes()
    record = json.loads((out / INFO).read_text())
    (out / INFO).write_text(json.dumps({**record, "finished": {}}))
    (out / "config.json").unlink()
    (out / "model.safetensors").write_bytes(b"half")
    outcome = session(rows, out).run()
    assert (outcome.resumed, outcome.updates) == (4, 0) and read_training(out).finished["updates"] == 4
    assert weights(out) == before and (out / "config.json").is_file() and (out / "loss.jsonl").read_bytes() == losses


def test_other_passes_per_update_go_on_from_the_same_place(rows, tmp_path):
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    session(rows, whole, save_every=2, keep_checkpoints=9).run()
    session(rows, changed, save_every=2, keep_checkpoints=9).run()
    shutil.rmtree(changed / "checkpoints" / "checkpoint-4")
    (changed / INFO).write_text(json.dumps({**json.loads((changed / INFO).read_text()), "finished": {}}))
    assert session(rows, changed, micro_batch=4).run().resumed == 2
    both = [[each["loss"] for each in lines(folder / "loss.jsonl")] for folder in (whole, changed)]
    assert both[1] == pytest.approx(both[0], rel=1e-5) and both[1][:2] == both[0][:2]


def test_a_loss_that_is_no_number_ends_the_training_at_once(rows, tmp_path, monkeypatch):
    import torch
    from transformers import Trainer

    out, real = tmp_path / "out", Trainer.training_step

    def diverge(self, *args, **kwargs):
        if self.state.global_step == 2:
            torch.nn.init.constant_(next(self.model.parameters()), float("nan"))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", diverge)
    with pytest.raises(EngineError, match=r"the loss of update 3 is nan.*--learning-rate"):
        session(rows, out, save_every=1).run()
    assert len(lines(out / "loss.jsonl")) == 2 and not (out / "config.json").exists()
    found = last_checkpoint(out)
    assert found is not None and found.name == "checkpoint-2"


def test_evaluations_are_not_counted_as_time_of_training(rows, tmp_path):
    started = time.monotonic()
    outcome = session(rows, tmp_path / "out", eval_every=1, eval_limit=16, eval_max_tokens=200).run()
    spent = sum(each["seconds"] for each in lines(tmp_path / "out" / "evaluation.jsonl"))
    assert 0 < float(str(outcome.figures["seconds"])) < time.monotonic() - started - 0.9 * spent


def test_a_folder_with_something_else_in_it_is_refused(rows, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match=r"not empty and no training \(thesis.tex\)"):
        session(rows, tmp_path).run()


def test_two_trainings_do_not_share_a_folder(rows, tmp_path):
    from cot.training.folder import open_training

    training = session(rows, tmp_path / "out")
    with open_training(training.out, training.info()), pytest.raises(StoreError, match="in use by another process"):
        training.run()


def test_rows_that_are_too_long_are_counted_or_refused(rows, tmp_path):
    lengths = sorted(session(rows, tmp_path).prepared.lengths)
    training = session(rows, tmp_path, max_length=lengths[-1] - 1)
    assert training.prepared.facts["too_long"] == lengths.count(lengths[-1])
    with pytest.raises(BadInput, match="all 16 rows are longer"):
        session(rows, tmp_path, max_length=lengths[0] - 1)


def test_adapters_are_trained_and_merged_into_a_plain_model(rows, tmp_path, embedded_model):
    pytest.importorskip("peft", reason="peft is not installed: LoRA is not tested")
    from safetensors.torch import load_file

    out = tmp_path / "out"
    session(rows, out, tuning="lora", lora_rank=4, lora_targets=("q_proj", "v_proj"), eval_every=4, eval_limit=2).run()
    assert not list(out.glob("adapter*"))
    mine, source = (load_file(folder / "model.safetensors") for folder in (out, embedded_model))
    assert mine.keys() == source.keys()
    changed = {name for name in source if not mine[name].equal(source[name])}
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)
    assert len(changed) == 8


def start(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    flags = ["--data", str(data), "--out", str(out), "--batch-size", "4", "--micro-batch", "2", "--limit", "64",
             "--epochs", "1", "--eval-every", "0", "--save-every", "3", "--learning-rate", "1e-3", *more]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *flags], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_update(out: Path, update: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        if (out / "loss.jsonl").exists() and len((out / "loss.jsonl").read_bytes().splitlines()) >= update:
            return
        time.sleep(0.005)
    raise AssertionError(process.stderr.read() if process.stderr else "")


@pytest.mark.slow
def test_killed_and_interrupted_a_training_ends_bit_for_bit_as_an_undisturbed_one(rows, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    # A process of its own too: sums in this one may depend on what ran in it before.
    undisturbed = start(rows, whole)
    assert undisturbed.wait(120) == 0, undisturbed.stderr and undisturbed.stderr.read()

    killed = start(rows, broken)
    wait_for_update(broken, 5, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    first = last_checkpoint(broken)
    assert first is not None and not (broken / "config.json").exists()
    torn = broken / "checkpoints" / "checkpoint-14"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")

    interrupted = start(rows, broken)
    wait_for_update(broken, 8, interrupted)
    interrupted.send_signal(signal.SIGINT)
    interrupted.wait()
    assert "the last checkpoint" in interrupted.communicate()[1]

    last = start(rows, broken)
    said, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    assert "went on from update" in said and not torn.exists()
    assert weights(broken) == weights(whole)
    both = [[(each["step"], each["loss"]) for each in lines(folder / "loss.jsonl")] for folder in (broken, whole)]
    assert both[0] == both[1] and len(both[0]) == 16
    assert len(json.loads((broken / INFO).read_text())["sessions"]) == 3
