"""Advantages, the clipped loss, log-probabilities of drawn chains, the first step, resumption."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from cot.benchmarks import load
from eval_math.errors import BadInput
from latent.rules import ends
from rl.colar_rl import ColarRl, ColarRlConfig
from rl.core import Clip, clipped_loss, clipped_share, group_advantages
from rl.latent_rollouts import actions
from rl.policies import export_policy, open_policy
from rl.rounds import STATES

SMALL = ColarRlConfig(updates=2, questions=2, group=3, mini_batch=3, learning_rate=1e-3, max_steps=6, max_tokens=24,
                      save_every=1)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def problems():
    return load("embedded", split="train", limit=6)


def stage(reasoner, problems, folder, **changes) -> ColarRl:
    config = replace(SMALL, **changes)
    return ColarRl(open_policy(str(reasoner), config), problems, config, folder)


def test_advantages_sum_to_nothing_and_equal_rewards_have_none():
    found = group_advantages(torch.tensor([1.0, 0, 0, 1, 1, 1]), 3)
    assert torch.allclose(found.view(2, 3).sum(1), torch.zeros(2), atol=1e-6)
    assert found[3:].abs().max() == 0 and float(found[0]) == pytest.approx((1 - 1 / 3) / (3**-0.5))


def test_the_loss_at_ratio_one_is_the_mean_advantage_and_its_gradient_that_of_reinforce():
    new = torch.randn(4, 5, requires_grad=True)
    mask = torch.tensor([[1.0] * n + [0.0] * (5 - n) for n in (5, 2, 3, 1)])
    advantages = torch.tensor([1.0, -2.0, 0.5, 0.25])
    loss = clipped_loss(new, new.detach(), advantages, mask)
    assert float(loss.detach()) == pytest.approx(-float(advantages.mean()))
    (gradient,) = torch.autograd.grad(loss, new)
    assert torch.allclose(gradient, -advantages[:, None] * mask / mask.sum(1, keepdim=True) / 4)
    by_token = clipped_loss(new, new.detach(), advantages, mask, Clip(averaging="token"))
    assert float(by_token.detach()) == pytest.approx(-float((advantages[:, None] * mask).sum() / mask.sum()))


def test_ratios_count_up_to_the_clip_in_the_direction_of_the_advantage():
    old, mask = torch.zeros(1, 1), torch.ones(1, 1)
    up = torch.full((1, 1), 1.0, requires_grad=True)
    better, worse = torch.tensor([1.0]), torch.tensor([-1.0])
    assert float(clipped_loss(up, old, better, mask).detach()) == pytest.approx(-1.2)
    assert float(clipped_loss(up, old, worse, mask).detach()) == pytest.approx(torch.e, rel=1e-4)
    (gradient,) = torch.autograd.grad(clipped_loss(up, old, better, mask), up)
    assert float(gradient) == 0
    assert clipped_share(up.detach(), old, mask, 0.2) == 1.0


def test_log_probabilities_are_those_of_the_draws_and_the_first_ratio_is_one(reasoner, problems, tmp_path):
    training = stage(reasoner, problems, tmp_path)
    rollouts = training.rollouts(1)
    model, config = training.policy.model, training.drawing
    assert len(rollouts) == 6 and {len(r.latents) for r in rollouts} <= set(range(1, 7))
    with torch.no_grad():
        together = actions(model, rollouts, config)
        table = model.get_input_embeddings().weight
        for row, rollout in enumerate(rollouts):
            sequence = table[rollout.prompt]
            for at, latent in enumerate(rollout.latents):
                hidden = model.model(inputs_embeds=sequence[None]).last_hidden_state[:, -1]
                mean, log_sigma = model.latent_head(hidden)
                drawn = torch.distributions.Normal(mean[0], log_sigma[0].exp())
                expected = drawn.log_prob(latent / config.embedding_std).mean()
                assert float(together.log_probabilities[row, at]) == pytest.approx(float(expected), abs=1e-3)
                sequence = torch.cat([sequence, latent[None]])
            logits = model(inputs_embeds=torch.cat([sequence, table[rollout.said]])[None]).logits[0]
            steps = logits[len(sequence) - 1 : -1].log_softmax(-1)
            expected = steps.gather(1, torch.tensor(rollout.said)[:, None])[:, 0]
            n = together.n_latents
            found = together.log_probabilities[row, n : n + len(rollout.said)]
            assert torch.allclose(found, expected, atol=1e-4)
            assert int(together.mask[row].sum()) == len(rollout.latents) + len(rollout.said)
        again = actions(model, rollouts, config)
    ratio = (again.log_probabilities - together.log_probabilities).exp()
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-6)
    assert ends(torch.zeros(1, 800), [(0, 0)], config).item() is False


def test_a_step_moves_the_reasoner_and_not_its_table(reasoner, problems, tmp_path, monkeypatch):
    training = stage(reasoner, problems, tmp_path, mini_batch=6, learning_rate=1e-4)
    monkeypatch.setattr(ColarRl, "_reward", lambda self, rollout: float(rollout.trace.sample == 0))
    before = {name: tensor.clone() for name, tensor in training.policy.model.state_dict().items()}
    rollouts = training.rollouts(1)
    worth = group_advantages(torch.tensor([float(r.trace.sample == 0) for r in rollouts]), 3)

    def objective() -> float:
        with torch.no_grad():
            found = actions(training.policy.model, rollouts, training.drawing)
        means = (found.log_probabilities * found.mask).sum(1) / found.mask.sum(1)
        return float((worth * means).mean())

    old = objective()
    figures = training.round(1)
    assert figures["reward"] == pytest.approx(1 / 3) and objective() > old
    after = training.policy.model.state_dict()
    table = "model.embed_tokens.weight"
    assert torch.equal(after[table], before[table])
    assert not torch.equal(after["latent_head.mean.weight"], before["latent_head.mean.weight"])


def test_a_killed_stage_goes_on_to_the_same_weights(reasoner, problems, tmp_path, monkeypatch):
    monkeypatch.setattr(ColarRl, "_reward", lambda self, rollout: float(rollout.trace.sample == 0))
    whole = stage(reasoner, problems, tmp_path / "whole")
    rows = whole.run()
    broken = stage(reasoner, problems, tmp_path / "broken", updates=1)
    broken.run()
    again = stage(reasoner, problems, tmp_path / "broken")
    assert again.run() == rows and [row["update"] for row in rows] == [1, 2]
    for name, tensor in whole.policy.model.state_dict().items():
        assert torch.equal(again.policy.model.state_dict()[name], tensor)
    with pytest.raises(BadInput, match="another epsilon"):
        stage(reasoner, problems, tmp_path / "broken", epsilon=0.1).run()
    shutil.rmtree(tmp_path / "broken" / STATES)
    assert len(stage(reasoner, problems, tmp_path / "broken").run()) == 2
    export_policy(whole.policy, str(reasoner), tmp_path / "whole")
    config = open_policy(str(tmp_path / "whole"), SMALL).config
    assert config.method == "colar" and json.loads((tmp_path / "whole" / "latent.json").read_text())["temperature"] == 0


def test_what_cannot_be_taught_is_refused(reasoner, problems, tmp_path):
    for wrong in ({"group": 1}, {"updates": 0}, {"learning_rate": 0.0}):
        with pytest.raises(BadInput, match="expected"):
            replace(SMALL, **wrong)
    with pytest.raises(BadInput, match="no latent reasoner"):
        open_policy("embedded", SMALL)
    with pytest.raises(BadInput, match="trained for 2 to 2"):
        open_policy(str(reasoner), replace(SMALL, rate=5))
    policy = open_policy(str(reasoner), SMALL)
    flat = replace(policy, config=replace(policy.config, deterministic_head=True))
    with pytest.raises(BadInput, match="spread"):
        ColarRl(flat, problems, SMALL, tmp_path)
