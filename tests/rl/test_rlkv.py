"""RLKV: the penalty, advantages, what moves and what does not, heads that recall are found, resumption after a kill."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cot.benchmarks import load
from cot.chat import resolve_model
from eval_math.errors import BadInput
from eval_math.records import Problem
from rl.curriculum import Solved, draw_by_length
from rl.gates import Window, gated
from rl.head_search import HeadSearch, find_heads
from rl.head_table import HeadTable, load_table
from rl.policies import live_engine, load_whole
from rl.rlkv import (
    Answer,
    GatedPolicy,
    Rlkv,
    RlkvConfig,
    log_probabilities,
    penalty_weight,
    token_advantages,
)
from rl.rounds import LOG, STATES

SMALL = RlkvConfig(updates=2, questions=2, group=2, max_tokens=60, sink=4, recent=16, save_every=1, micro_batch=3)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def policy():
    model = load_whole(resolve_model("embedded"))
    with gated(model, SMALL.window) as gates:
        yield GatedPolicy(model, live_engine(model, "embedded", 8), gates)


@pytest.fixture(scope="module")
def problems():
    return load("embedded", split="train", limit=4)


def test_the_penalty_starts_above_the_threshold_and_grows_with_the_reward():
    weights = [penalty_weight(reward / 10, RlkvConfig(beta=1.0)) for reward in range(11)]
    assert weights[:6] == [0.0] * 6 and weights[5:] == sorted(weights[5:])
    assert weights[7] == pytest.approx(math.exp(0.7) - 1)


def test_the_first_step_under_the_penalty_alone_moves_every_gate_by_the_learning_rate(policy, problems, tmp_path):
    search = Rlkv(policy, problems, SMALL, tmp_path)
    before = {name: value.clone() for name, value in policy.model.named_parameters()}
    answers = search.answers(1)
    search._learn(answers, torch.zeros(len(answers)), 1.0)
    # AdamW: weight decay acts on the value, then the step is the learning rate.
    assert torch.allclose(policy.gates.values.detach(), torch.full((4, 4), 1 * (1 - 0.01 * 0.017) - 0.01), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in policy.model.named_parameters())
    assert [p.requires_grad for p in policy.model.parameters()] == [False] * len(before)


def test_micro_batches_do_not_change_a_step(policy, problems, tmp_path):
    found = []
    for micro_batch in (1, 4):
        policy.gates.values.data.fill_(0.8)
        config = RlkvConfig(**{**SMALL.__dict__, "micro_batch": micro_batch})
        search = Rlkv(policy, problems, config, tmp_path / str(micro_batch))
        answers = search.answers(1)
        search._learn(answers, torch.tensor([1.0, -1, 0.5, -0.5]), 0.1)
        found.append(policy.gates.values.grad.clone())
    assert torch.allclose(found[0], found[1], atol=1e-6) and float(found[0].abs().max()) > 1e-4


def test_padding_does_not_change_log_probabilities(policy):
    policy.gates.values.data.fill_(0.3)
    answers = [Answer((1, 2, 3), (4, 5, 6, 7, 8), 1.0, "stop"), Answer((9,) * 40, (3,) * 30, 1.0, "stop")]
    with torch.no_grad():
        both, mask = log_probabilities(policy.model, answers, 1.0)
        alone, real = log_probabilities(policy.model, answers[:1], 1.0)
    assert torch.allclose(both[0][mask[0].bool()], alone[0][real[0].bool()], atol=1e-6)
    assert mask.sum(1).tolist() == [5, 30]


def test_what_was_said_had_the_log_probability_that_the_update_gives_it(policy, problems, tmp_path):
    """Rollouts decode step by step with a cache; the update reads whole sequences: greedy answers must be the mode."""
    policy.gates.values.data.fill_(0.5)
    config = RlkvConfig(**{**SMALL.__dict__, "temperature": 1e-3})
    answers = Rlkv(policy, problems, config, tmp_path).answers(1)
    with torch.no_grad():
        values, mask = log_probabilities(policy.model, answers, 1e-3)
    assert float((values * mask).min()) > -1e-3


def test_token_advantages_weigh_long_answers_more():
    found = token_advantages(torch.tensor([1.0, 0.0]), torch.tensor([30, 10]))
    assert float((found * torch.tensor([30.0, 10.0])).sum()) == pytest.approx(0, abs=1e-5)
    assert float(found[0]) == pytest.approx(0.25 / math.sqrt(0.1875), rel=1e-5)


def test_problems_are_drawn_over_all_lengths():
    found = [Solved(Problem(str(n), "b", "q", "1"), (1,), (1,) * n) for n in range(1, 101)]
    drawn = draw_by_length(found, 60, 0)
    quarters = [sum(25 * at < len(each.said) <= 25 * at + 25 for each in drawn) for at in range(4)]
    assert quarters == [12, 12, 20, 16] and len({each.problem.id for each in drawn}) == 60
    assert len(draw_by_length(found, 500, 0)) == 100
    with pytest.raises(BadInput, match="none of the problems"):
        draw_by_length([], 5, 0)


class Recall(Rlkv):
    """A task without a tokenizer: after filler, say the letter that came first. Answers of one token."""

    def answers(self, update: int) -> list[Answer]:
        rng = random.Random(update)
        prompts = [recall(rng) for _ in range(self.config.questions)]
        found = []
        with torch.no_grad():
            logits = self.model(torch.tensor([p for p, _ in prompts])).logits[:, -1].softmax(-1)
        generator = torch.Generator().manual_seed(update)
        for (prompt, letter), chances in zip(prompts, logits, strict=True):
            for said in torch.multinomial(chances, self.config.group, replacement=True, generator=generator).tolist():
                found.append(Answer(tuple(prompt), (said,), float(said == letter), "stop"))
        return found


def recall(rng: random.Random) -> tuple[list[int], int]:
    letter = rng.choice((1, 2))
    return [0, letter, *(rng.randint(3, 9) for _ in range(14)), 10], letter


def accuracy(model) -> float:
    rng = random.Random("test")
    rows = [recall(rng) for _ in range(200)]
    with torch.no_grad():
        said = model(torch.tensor([row for row, _ in rows])).logits[:, -1].argmax(-1)
    return sum(int(a) == b for a, (_, b) in zip(said, rows, strict=True)) / len(rows)


@pytest.fixture(scope="module")
def recaller():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, head_dim=16
    )
    model, rng = LlamaForCausalLM(config), random.Random(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        rows = [recall(rng) for _ in range(64)]
        logits = model(torch.tensor([row for row, _ in rows])).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([letter for _, letter in rows]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def test_heads_that_recall_are_found(recaller, tmp_path):
    """Only heads that look beyond the window can know the letter; the quarter with the highest gates does."""
    assert accuracy(recaller) > 0.98
    config = RlkvConfig(updates=80, questions=32, group=4, sink=1, recent=6, micro_batch=128)
    with gated(recaller, config.window) as gates:
        search = Recall(GatedPolicy(recaller, None, gates), [Problem("p", "b", "q", "1")], config, tmp_path)
        search.run()
        table = HeadTable(tuple(tuple(map(float, row)) for row in gates.values.detach()), "rlkv")
        found = {}
        for name, kept in (("rlkv", table.kept(0.75)), ("inverted", table.inverted().kept(0.75))):
            gates.values.data = torch.tensor(kept).float()
            found[name] = accuracy(recaller)
    assert found["rlkv"] > 0.95 > found["inverted"] + 0.2


RUN = (
    "import sys; from laconic_cli.command import parse; from laconic_cli.heads_find import HeadsFind, run; "
    "raise SystemExit(run(parse(HeadsFind, sys.argv[1:], prog='heads find')))"
)
FLAGS = ("--limit", "6", "--drawn", "4", "--updates", "12", "--questions", "2", "--group", "2", "--sink", "4",
         "--recent", "16", "--max-tokens", "200")  # fmt: skip


def test_a_killed_search_ends_with_the_same_gates(tmp_path):
    words = [sys.executable, "-c", RUN, *FLAGS]
    subprocess.run([*words, "--out", tmp_path / "whole"], check=True, capture_output=True)
    process = subprocess.Popen([*words, "--out", tmp_path / "killed"], stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed" / STATES).glob("[0-9]*.pt")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len((tmp_path / "killed" / LOG).read_text().splitlines())
    subprocess.run([*words, "--out", tmp_path / "killed"], check=True, capture_output=True)
    whole, killed = (load_table(tmp_path / name / "heads.safetensors") for name in ("whole", "killed"))
    assert whole.scores == killed.scores and done < 12
    assert (tmp_path / "whole" / LOG).read_bytes() == (tmp_path / "killed" / LOG).read_bytes()


def test_a_state_of_other_settings_is_refused(policy, problems, tmp_path):
    Rlkv(policy, problems, RlkvConfig(**{**SMALL.__dict__, "updates": 1}), tmp_path).run()
    with pytest.raises(BadInput, match="another beta"):
        Rlkv(policy, problems, RlkvConfig(**{**SMALL.__dict__, "beta": 0.5}), tmp_path).run()


@pytest.mark.parametrize("config", [Window(4, 16), SMALL])
def test_a_search_writes_a_table_of_its_model(problems, tmp_path, config):
    search = HeadSearch("embedded", tmp_path, problems, drawn=3, batch_size=4)
    table = find_heads(search, config, max_tokens=600)
    stored = load_table(tmp_path / "heads.safetensors")
    assert stored.scores == table.scores and table.shape == (4, 4)
    assert stored.provenance["model_hash"] and stored.kind in ("rlkv", "ablation")
    assert load_table(tmp_path / "heads.tsv").ranked() == table.ranked()
    assert (tmp_path / "curves.svg").exists() == (config is SMALL)
    solved = [json.loads(line) for line in (tmp_path / "solved.jsonl").open()]
    assert len(solved) == 3 and all(row["said"] for row in solved)
