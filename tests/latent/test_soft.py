"""Soft Thinking and Mixture of Inputs: what they reduce to, when they stop, what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cot.engine import EngineConfig
from cot.engines import open_engine
from cot.method import Method
from cot.methods import parse_method
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Request, Sampling
from latent.moi import MixtureOfInputs
from latent.soft import SoftThinking


@pytest.fixture(scope="module")
def engine():
    engine = open_engine(EngineConfig("embedded", "hf", dtype="float32", batch_size=4))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests():
    from cot.benchmarks import load

    problems = load("embedded", split="dev", limit=6)
    how = Sampling(max_tokens=400)
    return [Request(p.id, messages=prompt(p), sampling=replace(how, seed=at)) for at, p in enumerate(problems)]


def run(method, engine, requests):
    with method.attach(engine):
        return {trace.problem_id: trace for trace in method.drive(engine, requests)}


def test_a_mixture_of_one_token_is_greedy_decoding(engine, requests):
    plain = run(Method(), engine, requests)
    for name, trace in run(SoftThinking(top_k=1, patience=10**6), engine, requests).items():
        assert trace.n_latent_steps == plain[name].n_thinking_tokens - 1
        assert trace.answer_text == plain[name].answer_text
        assert (trace.n_forward, trace.n_thinking_tokens) == (plain[name].n_forward, 1)


def test_sure_steps_end_the_thinking(engine, requests):
    found = run(SoftThinking(entropy=1e9, patience=5), engine, requests)
    assert {trace.n_latent_steps for trace in found.values()} == {4}
    long = run(SoftThinking(entropy=0.0, patience=1), engine, requests)
    assert min(trace.n_latent_steps for trace in long.values()) > 20


def test_weights_are_of_the_kept_tokens_alone():
    logits = torch.tensor([[3.0, 2, 1, 0, -9]])
    weights, ids = SoftThinking(temperature=0.5, top_k=3, top_p=1.0, min_p=0.0).likely(logits)
    assert ids.tolist() == [[0, 1, 2]]
    expected = (logits[0, :3] / 0.5).softmax(-1)
    assert torch.allclose(weights[0], expected)


def test_mixed_inputs_are_the_formula_and_without_doubt_the_token():
    table, logits = torch.randn(30, 8), torch.randn(4, 30)
    tokens = torch.tensor([3, 7, 0, 29])
    scores, ids = logits.topk(10, -1)
    prior = scores.softmax(-1)
    entropy = -(prior * prior.log()).sum(-1) / torch.log(torch.tensor(10.0))
    for row, token in enumerate(tokens.tolist()):
        post = {int(j): float(p) / 3 for j, p in zip(ids[row], prior[row], strict=True)}
        post[token] = post.get(token, 0) + 2 / 3
        mixed = sum(weight * table[j] for j, weight in post.items())
        expected = entropy[row] * mixed + (1 - entropy[row]) * table[token]
        assert torch.allclose(MixtureOfInputs(beta=2.0).inputs(table, logits, tokens)[row], expected, atol=1e-5)
    sure = torch.full((1, 30), -1e9)
    sure[0, 5] = 0.0
    assert torch.allclose(MixtureOfInputs().inputs(table, sure, torch.tensor([5])), table[5:6])


def test_mixed_inputs_leave_words_and_a_heavy_token_decodes_as_usual(engine, requests):
    plain = run(Method(), engine, requests)
    found = run(MixtureOfInputs(beta=1e9), engine, requests)
    assert {name: trace.token_ids for name, trace in found.items()} == {n: t.token_ids for n, t in plain.items()}
    assert {trace.n_latent_steps for trace in found.values()} == {0}
    drawn = [replace(r, sampling=replace(r.sampling, temperature=1.0)) for r in requests]
    one = run(MixtureOfInputs(beta=1e9), engine, drawn)
    assert {n: t.token_ids for n, t in one.items()} == {n: t.token_ids for n, t in run(Method(), engine, drawn).items()}
    assert run(MixtureOfInputs(), engine, drawn[:1]).keys() == {requests[0].problem_id}


def test_settings_out_of_range_are_refused():
    for spec in ("soft:temperature=0", "soft:top_k=0", "soft:patience=0", "moi:beta=-1", "moi:top_n=1"):
        with pytest.raises(BadInput, match="expected"):
            parse_method(spec)
