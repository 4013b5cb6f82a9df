"""Caches that forget: RPC's invariants, no-ops, needles, rows of different counts, budgets that hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, left_padded_ids, tiny

from cot.benchmarks import load
from cot.engine import EngineConfig
from cot.engines import open_engine
from cot.methods import parse_method
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Request, Sampling
from rl.baselines import HeavyHitters, RandomKept, RedundancyAware, SnapKv, Streaming, redundancy
from rl.eviction import ATTENTION, Past, evicting_cache, register
from rl.key_scores import attention_of, averaged, best
from rl.planner import RpcPlan
from rl.rpc import Rpc

RPC = Rpc(interval=8, ratio=2, newest=4, pool=3)
BASELINES = [
    kind(budget=20, every=4, recent=6) for kind in (Streaming, RandomKept, HeavyHitters, SnapKv, RedundancyAware)
]
pytestmark = pytest.mark.usefixtures("one_thread")


def decoded(model, method, ids, mask, prompt_tokens):
    """Logits of the prompt and then of one token after another; and the cache."""
    register()
    model.set_attn_implementation(ATTENTION)
    cache = evicting_cache(method.rule(), len(model.model.layers))
    positions, found, at = (mask.cumsum(1) - 1).clamp(min=0), [], 0
    for piece in (prompt_tokens, *[1] * (ids.shape[1] - prompt_tokens)):
        end = at + piece
        with torch.no_grad():
            output = model(ids[:, at:end], attention_mask=mask[:, :end], position_ids=positions[:, at:end],
                           past_key_values=cache)  # fmt: skip
        found.append(output.logits)
        at = end
    return torch.cat(found, 1), cache


def past(n: int, prompt: int, queries: torch.Tensor, keys: torch.Tensor | None = None, rounds: int = 0) -> Past:
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(2, n, 8, generator=generator) if keys is None else keys
    return Past(keys, queries, torch.rand(2, n, generator=generator), prompt, rounds, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_before_the_first_round_and_at_ratio_one_nothing_changes(family):
    ids, mask = left_padded_ids((40, 33), 40)
    wanted = tiny(family)(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    for method in (replace(RPC, interval=30), replace(RPC, ratio=1), *(replace(b, budget=200) for b in BASELINES)):
        found, _ = decoded(tiny(family), method, ids, mask, 12)
        assert torch.allclose(found[mask.bool()], wanted[mask.bool()], atol=1e-5)


@pytest.mark.parametrize(
    "method", [RPC, replace(RPC, interval=7, ratio=3, newest=2), replace(RPC, aggregation="group")]
)
def test_length_follows_the_model_of_the_planner(method):
    plan = RpcPlan(method.interval, method.ratio, method.newest)
    model = tiny("llama")
    for length in range(13, 60, 5):
        ids, mask = left_padded_ids((length,), length)
        _, cache = decoded(model, method, ids, mask, 12)
        # The newest token's states are stored before a round, as in the paper's algorithm.
        assert [layer.held for layer in cache.layers] == [[plan.length(12, length - 12)]] * 3
        assert cache.get_seq_length() == length


def test_prompt_and_newest_stay_bit_for_bit_and_indices_ascend():
    rule = RPC.rule()
    queries = torch.randn(4, 4, 8)
    found = rule.keep(past(18, 6, queries))
    assert found.tolist() == sorted(set(found.tolist()))
    assert found[:6].tolist() == list(range(6)) and found[-4:].tolist() == [14, 15, 16, 17] and len(found) == 6 + 4 + 4
    by_head = replace(RPC, aggregation="group").rule().keep(past(18, 6, queries))
    assert by_head.shape == (2, 14) and not torch.equal(by_head[0], by_head[1])


def test_attention_over_candidates_sums_to_the_number_of_queries():
    scores = attention_of(torch.randn(4, 5, 8), torch.randn(2, 11, 8)).sum(2).mean(1)
    assert torch.allclose(scores.sum(-1), torch.full((2,), 5.0), atol=1e-5)
    assert torch.allclose(averaged(torch.ones(1, 5), 3)[0], torch.tensor([2 / 3, 1, 1, 1, 2 / 3]))
    assert best(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2).tolist() == [1, 2]


@pytest.mark.parametrize("method", [RPC, *(b for b in BASELINES if isinstance(b, SnapKv | HeavyHitters))])
def test_a_needle_that_queries_ask_for_stays_and_its_neighbours_with_it(method):
    method = method if isinstance(method, Rpc) else replace(method, budget=12, recent=4)
    generator = torch.Generator().manual_seed(0)
    keys = 0.1 * torch.randn(2, 30, 8, generator=generator)
    queries = torch.ones(4, 4, 8) * 3
    keys[:, 12] = 3.0
    row = Past(keys, queries, torch.zeros(2, 30).index_fill(1, torch.tensor([12]), 9.0), 5, 0, 0)
    kept = method.rule().keep(row)
    assert bool((kept == 12).any(-1).all())
    if not isinstance(method, HeavyHitters):
        assert bool((kept == 13).any(-1).all() and (kept == 11).any(-1).all())


def test_redundancy_spares_the_newest_of_its_kind():
    keys = torch.eye(8)[None, :6].clone()
    keys[0, 1] = keys[0, 0]
    keys[0, 2] = keys[0, 0]
    found = redundancy(keys)[0]
    assert float(found[0]) > float(found[2]) == pytest.approx(float(found.min()))


@pytest.mark.parametrize("method", BASELINES, ids=lambda each: each.name)
@pytest.mark.parametrize("protect", [True, False])
def test_budgets_hold_and_prompts_are_protected(method, protect):
    method = replace(method, protect=protect)
    ids, mask = left_padded_ids((70, 61), 70)
    _, cache = decoded(tiny("llama"), method, ids, mask, 12)
    for layer in cache.layers:
        for held, prompt_tokens in zip(layer.held, (12, 3), strict=True):
            assert method.first(prompt_tokens) + 20 <= held < method.first(prompt_tokens) + 24
        assert min(layer.rounds) >= 8


@pytest.mark.parametrize("method", [RPC, *BASELINES], ids=lambda each: each.name)
def test_rows_of_different_counts_are_as_if_alone(method):
    ids, mask = left_padded_ids((60, 51), 60)
    both, _ = decoded(tiny("llama"), method, ids, mask, 14)
    alone, _ = decoded(tiny("llama"), method, ids[1:, 9:], mask[1:, 9:], 5)
    assert torch.allclose(both[1, 9:], alone[0], atol=1e-4)


@pytest.fixture(scope="module")
def engine():
    opened = open_engine(EngineConfig("embedded", "hf", batch_size=4, dtype="float32"))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "spec", ["rpc:interval=24,ratio=3,newest=8", "h2o:budget=40,every=8,recent=16", "r-kv:budget=40,every=8,recent=16"]
)
def test_rows_that_join_and_leave_answer_as_alone(engine, spec):
    requests = [Request(p.id, 0, prompt(p), sampling=Sampling(max_tokens=120)) for p in load("embedded", limit=7)]
    method = parse_method(spec)
    with method.attach(engine):
        together = {trace.problem_id: trace for trace in engine.generate(requests)}
        for request in requests[:3]:
            (alone,) = engine.generate([request])
            assert alone.token_ids == together[request.problem_id].token_ids
    dense = 2 * 4 * 4 * 64 * 4
    for trace in together.values():
        held = trace.provenance["kv_bytes"]
        longest = max(t.n_prompt_tokens + len(t.token_ids) for t in together.values())
        assert 0 < held <= dense * longest


def test_wrong_settings_and_uses_are_refused():
    for spec in ("rpc:pool=4", "rpc:ratio=0", "h2o:budget=10,recent=20", "streaming:every=0"):
        with pytest.raises(BadInput):
            parse_method(spec)
    model = tiny("llama")
    ids, mask = left_padded_ids((20, 20), 20)
    _, cache = decoded(model, RPC, ids, mask, 12)
    with pytest.raises(BadInput, match="one token at a time"):
        model(ids[:, :2], past_key_values=cache)
    with pytest.raises(BadInput, match="past_key_values=evicting_cache"):
        model(ids, use_cache=False)
    with pytest.raises(BadInput, match="num_beams=1"):
        cache.reorder_cache(torch.tensor([1, 0]))
