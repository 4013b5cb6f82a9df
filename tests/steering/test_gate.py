"""Token gates: only states whose fed token is in the set move, in every way of running, and the counts say so."""

from dataclasses import replace

import pytest
import torch

from cot.engine import EngineConfig, Row
from cot.engines import open_engine
from eval_math.errors import BadInput
from eval_math.records import Request
from steering.application import Steering, steer
from steering.asc import Asc
from steering.counting import SteerCount, Window
from steering.gate import gate_texts, gate_tokens
from steering.vector import SteeringVector, VectorInfo, save_vector

BLOCK, WIDTH, LAYERS = 1, 64, 4
GATE = frozenset(range(0, 262, 2))


@pytest.fixture(scope="module")
def step():
    return 8 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)) / WIDTH**0.5


def greedy(model, prompt_ids, n_tokens, step):
    """Without a cache and without the library: states of even tokens from the last prompt token on are moved."""
    ids = list(prompt_ids)

    def add(module, arguments, output):
        chosen = [at for at, token in enumerate(ids) if at >= len(prompt_ids) - 1 and token in GATE]
        changed = output.clone()
        changed[:, chosen] += step
        return changed

    handle = model.model.layers[BLOCK].register_forward_hook(add)
    try:
        for _ in range(n_tokens):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == 259:
                break
    finally:
        handle.remove()
    return ids[len(prompt_ids) :]


def test_gated_decoding_equals_the_uncached_reference(engine, requests, step):
    with steer(engine, Steering({BLOCK: step}, "last", "eos", gate=GATE)) as count:
        traces = list(engine.generate(requests))
    for trace in traces:
        request = next(r for r in requests if r.problem_id == trace.problem_id)
        ids = engine.prompt_ids(request)
        assert list(trace.token_ids) == engine.apply_model(lambda m, ids=ids: greedy(m, ids, 24, step))
        fed = [ids[-1], *trace.token_ids[:-1]]
        assert count.of(trace) == count.expected(trace) == sum(token in GATE for token in fed)
    assert count.gaps == 0 and 0 < count.steered < sum(t.n_tokens for t in traces)


@pytest.mark.parametrize("settings", [{"prompt": "all"}, {"window": Window(3, 9)}, {"prompt": "none"}])
def test_gated_counts_hold_with_other_settings(engine, requests, step, settings):
    with steer(engine, Steering({BLOCK: step}, until="eos", gate=GATE, **settings)) as count:
        traces = list(engine.generate([replace(r, prefill_ids=tuple(engine.encode("abcd"))) for r in requests]))
    assert count.mismatches(traces) == {} and count.steered > 0


def test_a_pass_without_the_hook_is_a_gap_with_a_gate_too():
    count, request = SteerCount("last", "eos", gate=frozenset({7})), Request("p", prompt_ids=(1, 2, 7))
    count.add(Row(request, 0, 0, 3, 0, 3, None, (1, 2, 7)))
    count.add(Row(request, 0, 0, 1, 3, 3, None, (5,)))
    count.add(Row(request, 0, 0, 1, 5, 3, None, (7,)))
    assert (count.steered, count.gaps) == (2, 1)


def test_cached_prefixes_count_what_the_gate_let_through():
    count, request = SteerCount("last", "eos", gate=frozenset({7})), Request("p", prompt_ids=(1, 2, 7))
    row = Row(request, None, 0, 1, 6, 3, None, (1, 2, 7, 7, 5, 7, 7))
    count.add(row)
    assert count._seen["p", 0].reused == 3 and count.steered == 1


def test_texts_become_tokens_and_unknown_ones_are_refused(model_folders):
    model = str(model_folders["llama"])
    assert gate_texts(r"\n\n;.") == ("\n\n", ".") and gate_texts("") == ()
    assert gate_tokens(model, (".",)) == {ord(".") - 33}
    with pytest.raises(BadInput, match="no token of"):
        gate_tokens(model, (".", "no such text"))


def test_the_method_takes_a_gate(engine, tmp_path):
    info = VectorInfo("m", "x", WIDTH, LAYERS, (BLOCK,), (BLOCK,), gamma=2.0)
    save_vector(SteeringVector({BLOCK: torch.ones(WIDTH)}, info), tmp_path / "v")
    plain, gated = Asc(str(tmp_path / "v")), Asc(str(tmp_path / "v"), gate=".")
    assert "gate" not in plain.fingerprint() and gated.fingerprint()["gate"] == ["."]
    with gated.attach(engine) as count:
        assert count.gate == frozenset(engine.encode("."))
    with pytest.raises(BadInput, match="no token of"):
        Asc(str(tmp_path / "v"), gate="no such text").check(engine)


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_agrees_with_transformers_under_a_gate():
    pytest.importorskip("vllm", reason="vLLM is not installed: gates are not tested in it")
    from cot.benchmarks import load
    from eval_math.prompts import prompt
    from eval_math.records import Sampling

    problems = load("embedded", split="dev", limit=6)
    asked = [Request(p.id, messages=prompt(p), sampling=Sampling(max_tokens=64)) for p in problems]
    found = []
    for name in ("hf", "vllm"):
        model = open_engine(EngineConfig("embedded", name, dtype="float32", batch_size=4, max_model_len=512))
        width = model.apply_model(lambda m: m.config.hidden_size)
        step = 3 * torch.randn(width, generator=torch.Generator().manual_seed(1))
        with steer(model, Steering({2: step}, gate=gate_tokens("embedded", (".",)))) as count:
            traces = list(model.generate(asked))
            prefilled = [replace(r, prefill_ids=tuple(model.encode("So 3+4=7. Wait"))) for r in asked]
            again = list(model.generate([*prefilled, *[replace(r, sample=1) for r in prefilled]]))
        assert count.mismatches(again) == {} and 0 < count.steered < sum(t.n_tokens for t in [*traces, *again])
        found.append({(t.problem_id, t.sample): t.token_ids for t in [*traces, *again]})
        model.close()
    assert found[0] == found[1]
