"""The shipped checkpoint answers; the recipe learns in under a minute and resumes to the same weights."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from cot.embedded import MODEL_PATH, embedded_model_path
from cot.embedded.problems import make_problems
from cot.method import Method
from cot.prompting import Concise, NoThink
from eval_math.records import Request

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shipped():
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    engine = open_engine(EngineConfig(str(embedded_model_path()), "hf"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_model_path())


@pytest.fixture
def probe(tmp_path):
    """What a probe of 20 test problems of 2 to 4 steps finds in a checkpoint."""
    from cot.embedded.probes import Probe, run_probe

    def found(method=None, model=MODEL_PATH, **knobs):
        wanted = {"split": "test", "count": 20, "steps": (2, 4), **knobs}
        return run_probe(model, tmp_path / "runs", Probe("test", "a", method or Method(), **wanted))

    return found


def test_the_checkpoint_is_small_enough_to_ship():
    assert (MODEL_PATH / "model.safetensors").stat().st_size <= 12_000_000


def test_it_has_heads_enough_to_choose_from():
    import json

    config = json.loads((MODEL_PATH / "config.json").read_text())
    assert config["num_hidden_layers"] * config["num_key_value_heads"] >= 16


def test_it_answers_held_out_problems_and_over_thinks(probe):
    default, brief = probe(), probe(Concise())
    assert default.right >= 18 and default.truncated == 0
    assert brief.right >= 17 and brief.thinking_tokens <= 0.4 * default.thinking_tokens


def test_without_thinking_it_mostly_fails(probe):
    assert probe(NoThink()).right <= 6


@pytest.mark.parametrize("level", [2, 4])
def test_it_shortens_traces(probe, level):
    assert probe(NoThink(), task="shorten", level=level).right >= 17


def test_a_probe_is_a_run_and_is_not_done_twice(probe):
    first = probe(Concise(), count=3)
    written = (first.run / "traces.jsonl").read_bytes()
    assert probe(Concise(), count=3) == first
    # Seconds are part of a trace: generated again, the file would differ.
    assert written.count(b"\n") == 3 and (first.run / "traces.jsonl").read_bytes() == written


def test_a_forced_end_of_thinking_gets_an_answer(shipped):
    from cot.embedded.tokens import chat_prompt

    problems = make_problems("test", 20, seed=1, steps=(2, 4))
    texts = [f"{chat_prompt(each.question)}So {each.equations[0]}.\n</think>\n\n" for each in problems]
    asked = [Request(each.id, prompt_ids=tuple(shipped.encode(t))) for each, t in zip(problems, texts, strict=True)]
    assert sum("\\boxed{" in trace.text for trace in shipped.generate(asked)) >= 18


def test_the_test_size_learns_two_steps(tmp_path, tokenizer, probe):
    from cot.embedded.export import export_model
    from cot.embedded.recipe import recipe_for
    from cot.embedded.training import Schedule, Trainer

    trainer = Trainer(recipe_for("test"), tokenizer, tmp_path / "run", Schedule())
    trainer.run()
    export_model(trainer.averaged_model(), tmp_path / "model")
    found = probe(model=tmp_path / "model", split="dev", count=100, steps=(2, 2), largest=20)
    # The most frequent answer is right on about one problem in ten.
    assert found.accuracy >= 0.5, str(found)


def tiny_trainer(folder, tokenizer):
    from cot.embedded.recipe import Architecture, Cycle, Mix, Recipe
    from cot.embedded.training import Schedule, Trainer

    small = Cycle(tokens=15_000, batch_tokens=1_024)
    recipe = Recipe(
        cycles=(small, replace(small, first_phase=0.0, mix=Mix(drill_later=0.2))),
        architecture=Architecture(hidden=64, layers=1, heads=1, mlp=64),
    )
    return Trainer(recipe, tokenizer, folder, Schedule(report_every=5, evaluate_every=0))


def tiny_run(folder, tokenizer, stops):
    for stop in stops:
        trainer = tiny_trainer(folder, tokenizer)
        trainer.run(stop_step=stop)
    return trainer


def test_two_processes_do_what_one_does(tmp_path):
    from cot.embedded.tokens import save_tokenizer
    from cot.embedded.workers import train_in_processes

    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    alone = tiny_run(tmp_path / "a", tokenizer, [None])
    together = tiny_trainer(tmp_path / "b", tokenizer)
    train_in_processes(together)
    assert alone.progress.tokens == together.progress.tokens >= 30_000
    for name, value in alone.average.weights.items():
        # Gradients are averaged in another order, and Muon works in bfloat16.
        assert torch.allclose(value, together.average.weights[name], atol=5e-2), name


def test_a_resumed_run_gives_the_weights_of_an_undisturbed_one(tmp_path, tokenizer):
    whole = tiny_run(tmp_path / "a", tokenizer, [14])
    parts = tiny_run(tmp_path / "b", tokenizer, [5, 9, 14])
    assert whole.progress.tokens == parts.progress.tokens > 0
    for name, value in whole.average.weights.items():
        assert torch.equal(value, parts.average.weights[name]), name


def test_a_folder_of_another_recipe_is_refused(tmp_path, tokenizer):
    from cot.embedded.recipe import recipe_for
    from cot.embedded.training import Schedule, Trainer

    tiny_run(tmp_path, tokenizer, [2])
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(recipe_for("test", seed=9), tokenizer, tmp_path, Schedule()).run()


def test_progress_is_logged(tmp_path, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        tiny_run(tmp_path, tokenizer, [20])
    assert "tokens/s" in caplog.text and "minutes left" in caplog.text
