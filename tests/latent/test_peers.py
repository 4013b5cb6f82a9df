"""iCoT and Coconut: their schedules, and Coconut's loss against its own loop."""

from __future__ import annotations

import random

import pytest
import torch

from latent.coconut import coconut_batch, coconut_loss, replaced, stage_at, step_ends
from latent.icot import removed
from latent.layout import Parts
from latent.settings import CoconutConfig, IcotConfig


def test_thoughts_shrink_to_nothing():
    shares = [removed(40, share, random.Random(0), 1e9) for share in (0.0, 0.25, 0.5, 0.999, 1.0, 3.0)]
    assert shares == [0, 10, 20, 39, 40, 40]
    ahead = [removed(40, 0.0, random.Random(seed), 1.0) for seed in range(2000)]
    assert sum(each == 0 for each in ahead) / 2000 == pytest.approx(1 - 2.718**-1, abs=0.03)
    assert max(ahead) < 20


def test_stages_take_equal_parts_of_the_training():
    config = CoconutConfig(stages=3, first_stage=0.1)
    found = [stage_at(share, config) for share in (0.0, 0.09, 0.1, 0.39, 0.41, 0.69, 0.71, 0.999)]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3]


def test_steps_go_first_and_the_last_stage_has_none(chat):
    ends = step_ends(chat)
    thought = chat.encode("So 3+4=7. So 7*2=14. Therefore the answer is 14.")
    row = Parts([1], thought, [2, 3])
    assert chat.decode(replaced(row, 1, 3, ends).thought) == " So 7*2=14. Therefore the answer is 14."
    assert chat.decode(replaced(row, 2, 3, ends).thought) == " Therefore the answer is 14."
    assert replaced(row, 3, 3, ends).thought == [] and replaced(row, 0, 3, ends) == row
    assert replaced(row, 9, 10, ends).thought == []


@pytest.mark.parametrize("n_latents", [0, 1, 4])
def test_the_loss_is_that_of_the_loop(model, n_latents):
    rows = [Parts([40, 41, 42], [50, 51], [60, 61]), Parts([43], [], [62]), Parts([44, 45], [52], [63, 64, 65])]
    table = model.get_input_embeddings().weight
    expected = torch.zeros(())
    for row in rows:
        sequence = table[row.prompt]
        for _ in range(n_latents):
            hidden = model.model(inputs_embeds=sequence[None]).last_hidden_state
            sequence = torch.cat([sequence, hidden[0, -1:]])
        written = row.thought + row.tail
        logits = model(inputs_embeds=torch.cat([sequence, table[written]])[None]).logits[0]
        steps = logits[len(sequence) - 1 : -1].log_softmax(-1)
        expected = expected - steps.gather(1, torch.tensor(written)[:, None]).sum()
    found = coconut_loss(model, coconut_batch(rows, n_latents))["tokens"]
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    found.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_icot_ends_with_empty_thoughts(latent_rows, tmp_path):
    from cot.training.session import Session
    from latent.icot import Icot

    config = IcotConfig(batch_size=4, micro_batch=4, limit=16, epochs=1, eval_every=0, removed_by=0.5)
    trainer = Session(Icot(config), config, latent_rows, tmp_path / "out").trainer()
    batches = [int((batch["labels"] != -100).sum()) for batch in trainer.get_train_dataloader()]
    assert batches[0] > 2 * batches[-1]


def test_a_trained_coconut_thinks_in_as_many_states_as_it_was_taught(latent_rows, tmp_path):
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from cot.methods import parse_method
    from cot.training.session import Session
    from eval_math.records import Message, Request
    from latent.coconut import Coconut

    config = CoconutConfig(batch_size=4, micro_batch=4, limit=12, epochs=1, eval_every=0, stages=2, latents_per_step=3)
    Session(Coconut(config), config, latent_rows, tmp_path / "out").run()
    engine = open_engine(EngineConfig(str(tmp_path / "out"), "hf"))
    method = parse_method("latent")
    with method.attach(engine):
        (trace,) = method.drive(engine, [Request("p", messages=(Message("user", "Ada has 3 pens."),))])
    assert trace.n_latent_steps == 6 and trace.n_thinking_tokens == 1
    engine.close()
