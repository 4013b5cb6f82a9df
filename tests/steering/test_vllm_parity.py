"""vLLM steered by hooks against the hf engine steered by hooks: the same log-probabilities, the same tokens."""

from dataclasses import replace

import pytest
import torch

from cot.benchmarks import load
from cot.engine import EngineConfig
from cot.engines import open_engine
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Request, Sampling
from steering.application import Steering, steer

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
BLOCK = 2


@pytest.fixture(scope="module")
def embedded() -> str:
    from cot.embedded import embedded_model_path

    try:
        return str(embedded_model_path())
    except FileNotFoundError as error:
        pytest.skip(f"the embedded reasoner is not built: {error}")


@pytest.fixture(scope="module")
def hf(embedded):
    torch.set_num_threads(1)
    engine = open_engine(EngineConfig(embedded, "hf", dtype="float32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def vllm(embedded):
    pytest.importorskip("vllm", reason="vLLM is not installed: parity of steering is not tested")
    engine = open_engine(EngineConfig(embedded, "vllm", dtype="float32", batch_size=4, max_model_len=512))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def step(hf):
    """A random direction, large enough beside the residual stream to change greedy tokens."""
    from steering.capture import Reading, Text, read_states

    ids = tuple(hf.encode("Tom has 3 apples."))
    states = hf.apply_model(lambda m: read_states(m, Reading([Text(ids, (len(ids) - 1,))], (BLOCK,), 64)))
    drawn = torch.randn(states.pooled[BLOCK].shape[1], generator=torch.Generator().manual_seed(5))
    return drawn * (0.8 * float(states.norms[BLOCK][0]) / drawn.norm())


@pytest.fixture(scope="module")
def requests():
    problems = load("embedded", split="dev", limit=8)
    return [Request(p.id, messages=prompt(p), sampling=Sampling(max_tokens=64)) for p in problems]


def farthest(a, b):
    return max(abs(x - y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


def ids(traces):
    return {trace.problem_id: trace.token_ids for trace in traces}


@pytest.mark.parametrize("where", ["last", "all", "none"])
def test_scores_agree_and_unsteered_ones_are_far(hf, vllm, requests, step, where):
    items = [(hf.prompt_ids(r), hf.encode("So 3+4=7. Wait, is that correct? 3+4=7. Yes, it is.")) for r in requests]
    found = []
    for engine in (hf, vllm):
        with steer(engine, Steering({BLOCK: step}, where, "eos")):
            found.append(engine.score(items))
    error, effect = farthest(*found), farthest(found[0], hf.score(items))
    assert error < 1e-4 and effect > 100 * error


@pytest.mark.parametrize("until", ["eos", "end_of_think"])
def test_greedy_tokens_agree_and_every_decoded_token_is_steered(hf, vllm, requests, step, until):
    plain, found = ids(vllm.generate(requests)), []
    for engine in (hf, vllm):
        with steer(engine, Steering({BLOCK: step}, "last", until)) as count:
            traces = list(engine.generate(requests))
        assert count.mismatches(traces) == {} and count.gaps == 0
        assert count.steered == sum(t.n_thinking_tokens if until == "end_of_think" else t.n_tokens for t in traces)
        found.append(ids(traces))
    assert found[0] == found[1] != plain


def test_requests_of_one_batch_choose_for_themselves(hf, vllm, requests, step):
    """Strengths 0, +, - and two vectors beside each other, prompts steered too: as one by one, and as in hf."""
    other = torch.roll(step, 11)
    extras = [{}, {"steer_scale": 0.0}, {"steer_scale": -0.7}, {"steer_vector": "other"}]
    mixed = [replace(requests[i // 4], problem_id=f"r{i}", extras=extras[i % 4]) for i in range(8)]
    steering = Steering({BLOCK: step}, "all", "eos", vectors={"other": {BLOCK: other}})
    found = []
    for engine in (hf, vllm):
        with steer(engine, steering) as count:
            found.append(ids(engine.generate(mixed)))
        assert count.gaps == 0
    assert found[0] == found[1]
    for place, one in enumerate(({BLOCK: step}, {BLOCK: 0 * step}, {BLOCK: -0.7 * step}, {BLOCK: other})):
        with steer(vllm, Steering(one, "all", "eos")):
            alone = ids(vllm.generate([replace(requests[0], problem_id="alone")]))
        assert alone["alone"] == found[1][f"r{place}"]
    assert len({found[1][f"r{i}"] for i in range(4)}) >= 3


def test_strength_zero_and_leaving_restore_vllm(vllm, requests, step):
    items = [(vllm.prompt_ids(r), vllm.encode("So 3+4=7.")) for r in requests]
    plain = vllm.score(items)
    with steer(vllm, Steering({BLOCK: torch.zeros_like(step)}, "all", "eos")):
        assert farthest(vllm.score(items), plain) < 1e-6
    with steer(vllm, Steering({BLOCK: step}, "all", "eos")):
        assert farthest(vllm.score(items), plain) > 0.01
    assert farthest(vllm.score(items), plain) < 1e-6
    with steer(vllm, Steering({BLOCK: step}, "all", "eos")):
        first = ids(vllm.generate(requests))
    assert ids(vllm.generate(requests)) != first, "prefixes cached under steering were used again"


def test_prefilled_output_keeps_positions(hf, vllm, requests, step):
    started = [replace(r, prefill_ids=tuple(hf.encode("So 3+4=7. Wait"))) for r in requests[:3]]
    found = []
    for engine in (hf, vllm):
        with steer(engine, Steering({BLOCK: step})) as count:
            traces = list(engine.generate(started))
        assert count.mismatches(traces) == {}
        found.append(ids(traces))
    assert found[0] == found[1]


def test_vllm_does_not_give_hidden_states_for_a_vector(vllm, pairs):
    from steering.extraction import extract

    with pytest.raises(BadInput, match="use engine hf"):
        extract(vllm, pairs)
