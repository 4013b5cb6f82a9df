"""The reference engine on a random model: batching changes nothing, limits and stops are kept, rows are known."""

import gc

import pytest
import torch

from cot.engine import EngineConfig
from cot.engines import open_engine
from eval_math.errors import BadInput, EngineError
from eval_math.records import Message, Request, Sampling


def ask(name, text="hello", **knobs):
    return Request(name, messages=(Message("user", text),), sampling=Sampling(**{"max_tokens": 24, **knobs}))


def run(engine, requests):
    return {(t.problem_id, t.sample): t for t in engine.generate(requests)}


def plain_logits(engine, ids):
    return engine.apply_model(lambda model: model(torch.tensor([ids])).logits[0].detach())


def test_batched_greedy_equals_one_at_a_time_and_a_plain_loop(hf_engine):
    requests = [ask(f"p{i}", "word " * (i % 7) + str(i), max_tokens=12 + i % 9) for i in range(23)]
    together = run(hf_engine, requests)
    for request in requests:
        alone = next(iter(hf_engine.generate([request])))
        assert alone.token_ids == together[request.problem_id, 0].token_ids
    ids = hf_engine.prompt_ids(requests[3])
    for token in together["p3", 0].token_ids:
        assert int(plain_logits(hf_engine, ids)[-1].argmax()) == token
        ids.append(token)


def test_seeds_do_not_depend_on_the_batch(hf_engine):
    requests = [ask(f"p{i}", "x" * i, temperature=1.0, seed=i, top_p=0.95) for i in range(9)]
    forward, backward = run(hf_engine, requests), run(hf_engine, requests[::-1])
    assert {k: t.token_ids for k, t in forward.items()} == {k: t.token_ids for k, t in backward.items()}
    other = run(hf_engine, [ask("p3", "xxx", temperature=1.0, seed=99, top_p=0.95)])
    assert other["p3", 0].token_ids != forward["p3", 0].token_ids


def test_max_tokens_ends_with_length(hf_engine):
    trace = run(hf_engine, [ask("p", max_tokens=5)])["p", 0]
    assert (trace.finish, len(trace.token_ids), trace.n_forward, trace.n_tokens) == ("length", 5, 5, 5)
    assert trace.n_prompt_tokens == len(hf_engine.prompt_ids(ask("p")))


def test_room_left_by_the_prompt_limits_the_output(hf_engine):
    trace = run(hf_engine, [Request("p", prompt_ids=(7,) * 500, sampling=Sampling(max_tokens=100))])["p", 0]
    assert (trace.finish, len(trace.token_ids)) == ("length", 12)


def test_too_long_and_empty_prompts_harm_nobody(hf_engine):
    wrong = [Request("long", prompt_ids=(7,) * 512), Request("empty", prompt_ids=())]
    traces = run(hf_engine, [wrong[0], ask("good"), wrong[1]])
    assert traces["good", 0].finish == "length"
    assert traces["long", 0].finish == traces["empty", 0].finish == "error"
    assert "512" in traces["long", 0].error and traces["long", 0].n_prompt_tokens == 512
    assert "empty" in traces["empty", 0].error


def test_the_end_token_stops_and_is_counted(forced):
    engine, force = forced
    with force([10, 11, 257, 12]):
        trace = run(engine, [ask("p")])["p", 0]
    assert (trace.finish, trace.token_ids, trace.n_answer_tokens) == ("stop", (10, 11, 257), 3)


def test_thinking_is_split_and_can_end_the_output(forced):
    engine, force = forced
    opened = Request(
        "p", messages=(Message("user", "q"),), template={"thinking": True}, sampling=Sampling(max_tokens=9)
    )
    script = [*engine.encode("ab"), 262, *engine.encode("cd"), 257]
    with force(script):
        whole = run(engine, [opened])["p", 0]
    assert (whole.thinking, whole.answer_text, whole.text) == ("ab", "cd", "ab</think>cd")
    assert (whole.n_thinking_tokens, whole.n_answer_tokens, whole.finish) == (3, 3, "stop")
    until_end = Request(
        "p", messages=opened.messages, template=opened.template, sampling=Sampling(stop_at_think_end=True)
    )
    with force(script):
        cut = run(engine, [until_end])["p", 0]
    assert (cut.token_ids, cut.finish, cut.answer_text) == (tuple(script[:3]), "stop", "")


def test_stop_strings_end_the_text_before_them(forced):
    engine, force = forced
    with force(engine.encode("one. two; three")):
        trace = run(engine, [ask("p", stop=("two;", "zzz"))])["p", 0]
    assert (trace.finish, trace.text, trace.answer_text) == ("stop", "one. ", "one. ")
    assert trace.token_ids == tuple(engine.encode("one. two;"))


def test_prefill_is_output(forced):
    engine, force = forced
    request = Request(
        "p", messages=(Message("user", "q"),), template={"thinking": True}, prefill_ids=tuple(engine.encode("So ")),
        sampling=Sampling(max_tokens=4),
    )  # fmt: skip
    with force([*engine.encode("a"), 262, *engine.encode("42")]):
        trace = run(engine, [request])["p", 0]
    assert (trace.thinking, trace.answer_text) == ("So a", "42")
    assert (trace.n_thinking_tokens, trace.n_answer_tokens, trace.n_forward) == (5, 2, 4)
    assert trace.n_prompt_tokens == len(engine.prompt_ids(request)) - 3


def test_big_inputs_stream(hf_engine):
    read = []

    def endless():
        for i in range(10_000):
            read.append(i)
            yield ask(f"p{i}", max_tokens=2)

    traces = hf_engine.generate(endless())
    for _ in range(10):
        next(traces)
    assert len(read) <= 64
    traces.close()
    assert hf_engine.current_rows() == []


def test_finished_traces_survive_a_failure(hf_engine):
    seen = []

    def fail_late(module, args):
        if len(seen) >= 2:
            raise RuntimeError("no memory left")

    handle = hf_engine.apply_model(lambda model: model.model.layers[0].register_forward_pre_hook(fail_late))
    try:
        with pytest.raises(EngineError, match="no memory left"):
            list(hf_engine.generate([ask(f"p{i}", max_tokens=1 + i) for i in range(6)], on_trace=seen.append))
    finally:
        handle.remove()
    assert {t.problem_id for t in seen} >= {"p0", "p1"}


def test_score_equals_a_plain_forward(hf_engine):
    items = [([1, 2, 3], [4, 5]), ([9], list(range(30))), ([5, 6], []), (list(range(60)), [7])]
    scores = hf_engine.score(items)
    assert [len(s) for s in scores] == [2, 30, 0, 1]
    for (prompt, completion), got in zip(items, scores, strict=True):
        steps = plain_logits(hf_engine, prompt + completion).log_softmax(-1)[len(prompt) - 1 : -1]
        expected = [float(steps[at, token]) for at, token in enumerate(completion)]
        assert got == pytest.approx(expected, abs=2e-4)


def test_score_refuses_what_it_cannot_score(hf_engine):
    with pytest.raises(BadInput, match="no prompt ids"):
        hf_engine.score([([], [1])])
    with pytest.raises(BadInput, match="max_model_len is 512"):
        hf_engine.score([([1] * 500, [1] * 20)])


def test_rows_describe_each_forward_pass(hf_engine, watch_rows):
    requests = [ask(f"p{i}", "word" * i, max_tokens=3 + i) for i in range(7)]
    with watch_rows(hf_engine, lambda model: model.get_input_embeddings()) as fed:
        traces = run(hf_engine, requests)
    for request in requests:
        expected = hf_engine.prompt_ids(request) + list(traces[request.problem_id, 0].token_ids)[:-1]
        assert fed[request.problem_id] == dict(enumerate(expected))


def test_rows_know_the_end_of_thinking(forced):
    engine, force = forced
    request = Request(
        "p", messages=(Message("user", "q"),), template={"thinking": True}, sampling=Sampling(max_tokens=5)
    )
    seen = []
    handle = engine.apply_model(
        lambda model: model.model.layers[0].register_forward_pre_hook(lambda *_: seen.extend(engine.current_rows()))
    )
    try:
        with force([1, 2, 262, 3, 4]):
            run(engine, [request])
    finally:
        handle.remove()
    n = len(engine.prompt_ids(request))
    assert [(row.first_position, row.think_end) for row in seen] == [
        (0, None), (n, None), (n + 1, None), (n + 2, n + 2), (n + 3, n + 2),
    ]  # fmt: skip
    assert all(row.n_prompt == n for row in seen)


@pytest.mark.parametrize("prefilled", [0, 2])
def test_rows_know_thinking_that_the_output_opens_after_a_prompt_with_both_tags(forced, prefilled):
    engine, force = forced
    prompt, output = (7, 261, 262, 8), (*engine.encode(" "), 261, 5, 262, 9)
    request = Request(
        "p", prompt_ids=prompt, prefill_ids=output[:prefilled], sampling=Sampling(max_tokens=5 - prefilled)
    )
    seen = []
    handle = engine.apply_model(
        lambda model: model.model.layers[0].register_forward_pre_hook(lambda *_: seen.extend(engine.current_rows()))
    )
    try:
        with force(output[prefilled:]):
            trace = run(engine, [request])["p", 0]
    finally:
        handle.remove()
    assert (trace.n_thinking_tokens, trace.n_answer_tokens) == (4, 1)
    expected = [(0, 2), (4, 2), (5, None), (6, None), (7, 7)] if not prefilled else [(0, None), (6, None), (7, 7)]
    assert [(row.first_position, row.think_end) for row in seen] == expected


def test_a_closed_engine_says_so(random_model):
    engine = open_engine(EngineConfig(model=str(random_model), engine="hf"))
    engine.close()
    gc.collect()
    with pytest.raises(EngineError, match="closed"):
        engine.generate([ask("p")])
