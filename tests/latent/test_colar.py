"""CoLaR's supervised stage on the embedded reasoner: the loss, the stop, what is frozen, what is saved."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch

from cot.training.data import Encoder
from cot.training.rows import find_data, read_sft_rows
from eval_math.errors import BadInput
from latent.colar import ColarBatches, colar_losses, head_loss, latent_config
from latent.config import LatentConfig, is_latent, read_config, write_config
from latent.layout import merged_sequence, pad_batch
from latent.reasoner import HEAD, attach, check_embeddings, detach, load_extras, save_extras
from latent.rows import latent_row
from latent.rules import Gaussian, GaussianHead, Mixture, ends, mixture
from latent.settings import SPEED, ColarConfig


@pytest.fixture
def rows(latent_rows, chat):
    return [latent_row(Encoder(chat), row, (1, 2, 3), SPEED) for row in read_sft_rows(find_data(latent_rows), 8)]


@pytest.fixture
def reasoner(model, chat):
    config = latent_config(chat, model.get_input_embeddings().weight, ColarConfig(), "hash")
    torch.manual_seed(0)
    attach(model, config)
    return model, config


def batch_of(rows, rate, *, left=False, seed=0):
    lines = [merged_sequence(row.parts(rate), rate, random.Random(seed)) for row in rows]
    return {**pad_batch(lines, left=left), "seed": torch.tensor([seed])}


def test_rate_one_is_supervised_fine_tuning_exactly(rows, reasoner):
    model, config = reasoner
    batch = batch_of(rows, 1)
    ids = batch["groups"][..., 0].clamp(min=0)
    plain = model(input_ids=ids, attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]).logits
    wanted, kept = batch["labels"][:, 1:], batch["labels"][:, 1:] != -100
    expected = torch.nn.functional.cross_entropy(plain[:, :-1][kept].float(), wanted[kept], reduction="sum")
    found = colar_losses(model, batch, ColarConfig(), config.embedding_std)
    assert torch.equal(found.tokens, expected)
    # Thought, end tag and answer are labels, as in SFT on the same row.
    assert kept.sum(1).tolist() == [len(row.thought) + len(row.tail) for row in rows]
    assert found.n_latents == sum(len(row.thought) + 1 for row in rows)


@pytest.mark.parametrize("rate", [2, 3])
def test_losses_do_not_depend_on_padding(rows, reasoner, rate):
    model, _ = reasoner
    sums = torch.zeros(2)
    for row in rows:
        found = colar_losses(model, batch_of([row], rate), ColarConfig(deterministic_head=True), 1.0)
        sums += torch.stack([found.tokens, found.latents]).detach()
    for left in (False, True):
        found = colar_losses(model, batch_of(rows, rate, left=left), ColarConfig(deterministic_head=True), 1.0)
        assert torch.allclose(torch.stack([found.tokens, found.latents]), sums, rtol=1e-5)
    one = colar_losses(model, batch_of(rows, rate), ColarConfig(deterministic_head=True), 1.0)
    other = colar_losses(model, batch_of(rows, rate, left=True), ColarConfig(deterministic_head=True), 1.0)
    assert abs(float((one.tokens - other.tokens).detach())) / one.n_latents < 1e-6


def test_soft_squared_error_is_in_expectation_error_plus_variance():
    mean, log_sigma = torch.randn(50, 32), torch.full((50, 32), -0.5)
    targets = torch.randn(50, 32)
    config = ColarConfig(entropy_bonus=0.0)
    draws = [
        head_loss(lambda _: (mean, log_sigma), mean, targets, config, torch.Generator().manual_seed(seed))[0]
        for seed in range(200)
    ]
    expected = ((mean - targets).square() + torch.exp(2 * log_sigma)).mean(-1).sum()
    assert float(torch.stack(draws).mean()) == pytest.approx(float(expected), rel=0.01)


def test_likelihood_is_that_of_the_gaussian_and_the_bonus_rewards_spread():
    mean, log_sigma, targets = torch.randn(5, 8), torch.randn(5, 8), torch.randn(5, 8)
    normal = torch.distributions.Normal(mean, log_sigma.exp())
    generator = torch.Generator()
    loss = {
        bonus: head_loss(lambda _: (mean, log_sigma), mean, targets, ColarConfig(loss="nll", entropy_bonus=bonus),
                         generator)[0]
        for bonus in (0.0, 0.1)
    }  # fmt: skip
    assert torch.allclose(loss[0.0], -normal.log_prob(targets).mean(-1).sum(), atol=1e-4)
    assert torch.allclose(loss[0.0] - loss[0.1], 0.1 * normal.entropy().mean(-1).sum(), atol=1e-4)


def test_targets_carry_no_gradient_and_the_table_none_from_the_head(rows, reasoner):
    model, config = reasoner
    model.get_input_embeddings().weight.requires_grad_(False)
    found = colar_losses(model, batch_of(rows, 2), ColarConfig(), config.embedding_std)
    found.latents.backward()
    assert model.get_input_embeddings().weight.grad is None
    assert all(parameter.grad is not None for parameter in getattr(model, HEAD).parameters())


def test_batches_have_one_rate_per_update_and_are_repeatable(rows, chat):
    config = ColarConfig(rates=(1, 2, 3), batch_size=4)
    columns = [
        {**{f"prompt_{rate}": row.prompts[rate] for rate in (1, 2, 3)}, "thought": row.thought, "tail": row.tail}
        for row in rows
    ]
    made = ColarBatches(config)
    rates = {made.rate(update) for update in range(40)}
    assert rates == {1, 2, 3}
    for update in range(6):
        visits = [{**column, "visit": 4 * update + at} for at, column in enumerate(columns[:4])]
        whole = made(visits)
        assert all(torch.equal(whole[name], made(visits)[name]) for name in whole)
        # Two processes that share an update out see the same rate and the same drawn labels.
        halves = [made(visits[:2]), made(visits[2:])]
        assert {each["groups"].shape[2] for each in halves} == {made.rate(update)}
        rebuilt = [labels[labels != -100].tolist() for half in halves for labels in half["labels"]]
        assert rebuilt == [labels[labels != -100].tolist() for labels in whole["labels"]]
    assert len({tuple(made([{**columns[0], "visit": 4 * n}])["labels"][0].tolist()) for n in range(6)}) > 1


def test_the_question_says_the_speed(rows, chat):
    for rate in (1, 2, 3):
        assert f"(Thinking speed: {rate})" in chat.decode_all(rows[0].prompts[rate])
        assert rows[0].prompts[rate][-1] == chat.tags.start_id


def test_head_and_configuration_come_back_as_they_were(reasoner, tmp_path, embedded_model):
    from transformers import AutoModelForCausalLM

    model, config = reasoner
    hidden = torch.randn(3, model.config.hidden_size)
    before = getattr(model, HEAD)(hidden)
    model.save_pretrained(tmp_path / "with")  # as checkpoints of a training are
    head = detach(model)
    model.save_pretrained(tmp_path)
    save_extras(head, config, tmp_path)
    assert is_latent(tmp_path) and read_config(tmp_path) == config
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    assert load_extras(again, tmp_path) == config
    assert all(torch.equal(a, b) for a, b in zip(getattr(again, HEAD)(hidden), before, strict=True))
    source = AutoModelForCausalLM.from_pretrained(embedded_model, dtype="float32")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in source.state_dict().items())


def test_damaged_folders_are_refused(reasoner, tmp_path):
    model, config = reasoner
    with pytest.raises(BadInput, match=r"no latent\.json"):
        read_config(tmp_path)
    write_config(config, tmp_path)
    with pytest.raises(BadInput, match="head cannot be read"):
        load_extras(model, tmp_path)
    save_extras(GaussianHead(8, 4), config, tmp_path)
    with pytest.raises(BadInput, match="does not fit"):
        load_extras(model, tmp_path)
    (tmp_path / "latent.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "latent.json").write_text(json.dumps({"format": "laconic-latent/9"}))
    with pytest.raises(BadInput, match="laconic-latent/1 expected"):
        read_config(tmp_path)


def test_a_model_that_scales_its_embeddings_is_refused(model):
    from transformers import GemmaConfig, GemmaForCausalLM

    check_embeddings(model)
    small = GemmaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                        num_attention_heads=2, num_key_value_heads=2, head_dim=16)  # fmt: skip
    with pytest.raises(BadInput, match="'gemma' changes its embeddings"):
        check_embeddings(GemmaForCausalLM(small))


def config(**changes) -> LatentConfig:
    return replace(LatentConfig("latent-sft", "mixture", 1, 2, top_k=4), **changes)


def test_stop_rules():
    logits = torch.tensor([[0.0, 0, 3, 0], [0.0, 5, 0, 0], [0.0, 0, 0.1, 0]])
    places = [(0, 1), (0, 1), (0, 1)]
    assert ends(logits, places, config()).tolist() == [True, False, True]
    assert ends(logits, places, config(stop="half")).tolist() == [True, False, False]
    assert ends(logits, places, config(stop="count", max_steps=1)).tolist() == [True] * 3
    assert ends(logits, places, config(stop="count", max_steps=2)).tolist() == [False] * 3
    assert ends(logits, [(0, 0)] * 3, config(least_steps=1)).tolist() == [False] * 3
    assert ends(logits, [(0, 9)] * 3, config(max_steps=9)).tolist() == [True] * 3
    chance = [ends(logits[2:], [(seed, 1)], config(stop="sample")).item() for seed in range(2000)]
    assert sum(chance) / 2000 == pytest.approx(float(logits[2].softmax(-1)[2]), abs=0.03)


def test_a_mixture_of_one_is_its_embedding_and_of_the_whole_is_the_mean():
    table = torch.randn(6, 4)
    logits = torch.tensor([[0.0, 1, 2, 3, 4, 5]])
    assert torch.equal(Mixture(table, 1)(logits, logits, [(0, 0)]), table[5:])
    assert torch.allclose(Mixture(table, 6)(logits, logits, [(0, 0)]), logits.softmax(-1) @ table, atol=1e-6)
    ids, weights = torch.tensor([3, 1]), torch.tensor([0.25, 0.75])
    assert torch.allclose(mixture(table, ids, weights), mixture(table, ids.flip(0), weights.flip(0)), atol=1e-7)


def test_noise_belongs_to_seed_and_step_alone():
    table, logits = torch.randn(6, 4), torch.randn(2, 6)
    rule = Mixture(table, 4, noise=1.0)
    both = rule(logits, logits, [(7, 0), (8, 3)])
    assert torch.equal(rule(logits[1:], logits[1:], [(8, 3)]), both[1:])
    assert not torch.allclose(rule(logits, logits, [(7, 1), (8, 4)]), both)
    head = GaussianHead(4, 8)
    drawn = Gaussian(head, 0.5, 1.0)(logits[:, :4], logits, [(1, 0), (1, 0)])
    calm = Gaussian(head, 0.5, 0.0)(logits[:, :4], logits, [(1, 0), (2, 9)])
    assert torch.allclose(calm, head(logits[:, :4])[0] * 0.5) and not torch.allclose(drawn, calm)


def test_settings_out_of_range_are_refused():
    for wrong in ({"rates": ()}, {"rates": (0,)}, {"latent_weight": -1.0}, {"head_width": -1}):
        with pytest.raises(BadInput):
            ColarConfig(**wrong)
    for wrong in ({"top_k": 0}, {"max_steps": 0}, {"least_steps": 500}, {"head_width": 3}, {"temperature": 9.0}):
        with pytest.raises(BadInput, match="out of range"):
            config(**wrong)
    with pytest.raises(BadInput, match="trained for 2 to 4"):
        config(rates=(2, 4)).speed(5)
    assert config(rates=(2, 4), speed_text=" x{rate}").speed(3) == " x3"
    assert [config(rates=rates, speed_text="{rate}").speed(None) for rates in ((1, 3, 2), (5,), (1,))] == [
        "2",
        "5",
        "1",
    ]
