"""Application: the right positions of the right block, in every way of running; nothing left behind."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from cot.engine import Row
from eval_math.errors import BadInput, EngineError
from eval_math.records import Message, Request, Sampling
from steering.application import Steering, steer
from steering.counting import SteerCount

BLOCK, WIDTH, LAYERS = 1, 64, 4


@pytest.fixture(scope="module")
def step():
    return 8 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)) / WIDTH**0.5


def edited(model, ids, first, last, step, block=BLOCK):
    """Full forward pass with ``step`` added at positions first ... last - 1, written without the library."""
    states = []

    def keep(module, arguments, output):
        states.append(output.clone())

    def add(module, arguments, output):
        changed = output.clone()
        changed[:, first:last] += step
        return changed

    handles = [model.model.layers[block].register_forward_hook(add)]
    handles += [layer.register_forward_hook(keep) for layer in model.model.layers]
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits, states


def start_of(prompt, n_prompt):
    return {"last": n_prompt - 1, "all": 0, "none": n_prompt}[prompt]


def greedy(model, prompt_ids, n_tokens, step, prompt, ends=(259,)):
    """Greedy decoding without a cache: every pass edits from the first steered position on."""
    ids = list(prompt_ids)
    for _ in range(n_tokens):
        logits, _ = edited(model, ids, start_of(prompt, len(prompt_ids)), len(ids), step)
        ids.append(int(logits[-1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt_ids) :]


def hooks(engine):
    return engine.apply_model(lambda model: sum(len(m._forward_hooks) for m in model.model.layers))


@contextmanager
def forced(engine, script):
    """The model says the ids of ``script``, one for each forward pass."""
    left = list(script)

    def speak(module, arguments, output):
        output.logits = torch.full_like(output.logits, -100.0)
        output.logits[:, -1, left.pop(0)] = 100.0
        return output

    handle = engine.apply_model(lambda model: model.register_forward_hook(speak))
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("prompt", ["last", "all", "none"])
def test_cached_decoding_equals_the_uncached_reference(engine, requests, step, prompt):
    with steer(engine, Steering({BLOCK: step}, prompt, "eos")) as count:
        traces = list(engine.generate(requests))
    unsteered = {t.problem_id: t.token_ids for t in engine.generate(requests)}
    for request, trace in ((r, t) for r in requests for t in traces if t.problem_id == r.problem_id):
        ids = engine.prompt_ids(request)
        expected = engine.apply_model(lambda m, ids=ids: greedy(m, ids, 24, step, prompt))
        assert list(trace.token_ids) == expected
    assert any(t.token_ids != unsteered[t.problem_id] for t in traces)
    assert count.mismatches(traces) == {} and count.steered == sum(count.expected(t) for t in traces) > 0


@pytest.mark.parametrize("prompt", ["last", "all", "none"])
def test_teacher_forced_scores_equal_the_reference(engine, step, prompt):
    items = [
        (engine.encode(a), engine.encode(b)) for a, b in (("abc", "defg"), ("a much longer one", "xy"), ("q", "rst"))
    ]
    with steer(engine, Steering({BLOCK: step}, prompt, "eos")):
        scores = engine.score(items)
    plain = engine.score(items)
    for (before, after), found, without in zip(items, scores, plain, strict=True):
        ids = [*before, *after]

        def reference(model, ids=ids, before=before):
            logits, _ = edited(model, ids, start_of(prompt, len(before)), len(ids), step)
            return logits.log_softmax(-1)

        logs = engine.apply_model(reference)
        expected = [float(logs[len(before) - 1 + k, token]) for k, token in enumerate(after)]
        assert found == pytest.approx(expected, abs=1e-4)
        assert max(abs(a - b) for a, b in zip(found, without, strict=True)) > 0.01


def test_teacher_forced_scores_stop_at_the_end_of_thinking(engine, step):
    before, after = engine.encode("<think>ab"), engine.encode("cd</think>ef")
    with steer(engine, Steering({BLOCK: step})):
        [found] = engine.score([(before, after)])
    ids, end = [*before, *after], len(before) + 2
    logs = engine.apply_model(lambda m: edited(m, ids, len(before) - 1, end, step)[0].log_softmax(-1))
    expected = [float(logs[len(before) - 1 + k, token]) for k, token in enumerate(after)]
    assert found == pytest.approx(expected, abs=1e-4)


def test_only_the_chosen_positions_of_the_chosen_block_move(engine, step):
    ids = engine.encode("some words here")

    def states(model):
        found = []
        handles = [layer.register_forward_hook(lambda m, a, o: found.append(o.clone())) for layer in model.model.layers]
        engine.score([(ids[:6], ids[6:])])
        for handle in handles:
            handle.remove()
        return found

    before = engine.apply_model(states)
    with steer(engine, Steering({BLOCK: step}, "last", "eos")):
        after = engine.apply_model(states)
    for block in range(BLOCK):
        assert torch.equal(before[block], after[block])
    assert torch.equal(before[BLOCK][:, :5], after[BLOCK][:, :5])
    torch.testing.assert_close(
        after[BLOCK][:, 5:] - before[BLOCK][:, 5:], step.expand(1, len(ids) - 5, -1), atol=1e-4, rtol=0
    )
    assert not torch.equal(before[BLOCK + 1][:, 5:], after[BLOCK + 1][:, 5:])


def test_steering_stops_at_the_end_of_thinking(engine, step):
    """A prefilled output that closes thinking: the end tag's position and all later ones stay untouched."""
    end = engine.encode("</think>")
    message = (Message("user", "Hi"),)
    prefill = (*engine.encode("abc"), *end, *engine.encode("de"))
    request = Request("closed", messages=message, prefill_ids=prefill, sampling=Sampling(max_tokens=5))
    n_prompt = len(engine.prompt_ids(replace(request, prefill_ids=())))

    def reference(model):
        ids = engine.prompt_ids(request)
        for _ in range(5):
            logits, _ = edited(model, ids, n_prompt - 1, n_prompt + 3, step)
            ids = [*ids, int(logits[-1].argmax())]
            if ids[-1] == 259:
                break
        return ids[n_prompt:]

    with steer(engine, Steering({BLOCK: step})) as count:
        [trace] = engine.generate([request])
    assert list(trace.token_ids) == engine.apply_model(reference)
    assert count.of(trace) == count.expected(trace) == trace.n_thinking_tokens == 4


@pytest.mark.parametrize("tokens", ["last", "all", "none"])
def test_thinking_closed_by_the_prompt_is_not_steered(engine, step, tokens):
    ids = tuple(engine.prompt_ids(Request("x", messages=(Message("user", "Hi"),)))) + tuple(engine.encode("</think>"))
    request = Request("closed", prompt_ids=ids, sampling=Sampling(max_tokens=4))
    [plain] = engine.generate([request])
    with steer(engine, Steering({BLOCK: step}, tokens)) as count:
        [trace] = engine.generate([request])
    assert trace.token_ids == plain.token_ids and count.steered == 0 and count.mismatches([trace]) == {}


def test_thinking_that_the_output_opens_after_a_prompt_with_both_tags_is_steered(engine, step):
    prompt = tuple(engine.encode("use <think></think>. q"))
    script = [*engine.encode(" <think>abc</think>42")]
    with steer(engine, Steering({BLOCK: step})) as count, forced(engine, script):
        [trace] = engine.generate([Request("p", prompt_ids=prompt, sampling=Sampling(max_tokens=len(script)))])
    assert (trace.n_thinking_tokens, trace.n_answer_tokens) == (6, 2)
    # The start tag and the three letters: what came before it was not known to be thinking.
    assert count.of(trace) == count.expected(trace) == count.steered == 4 and count.gaps == 0
    prefilled = Request("p", prompt_ids=prompt, prefill_ids=tuple(script[:3]), sampling=Sampling(max_tokens=5))
    with steer(engine, Steering({BLOCK: step})) as count, forced(engine, script[3:]):
        [trace] = engine.generate([prefilled])
    assert count.of(trace) == count.expected(trace) == 6


def test_a_pass_computed_again_leaves_reopened_thinking_as_it_was(engine):
    count = SteerCount("last", "end_of_think")
    request = Request("p", prompt_ids=(1,) * 5)

    def row(first, length, think_end):
        return Row(request, 0, 0, length, first, 5, think_end)

    for passed in (row(0, 5, 2), row(5, 1, 2), row(6, 1, None), row(7, 1, None)):
        count.add(passed)
    again = row(0, 9, None)
    count.add(again)
    assert count.span(again) == (6, 9) and (count.steered, count.gaps) == (3, 0)


@pytest.mark.parametrize("tokens", ["last", "all", "none"])
def test_no_part_of_a_prompt_that_closed_thinking_is_edited(tokens):
    count, row = SteerCount(tokens, "end_of_think"), Row(Request("p", prompt_ids=(1,) * 5), 0, 0, 5, 0, 5, 2)
    count.add(row)
    start, stop = count.span(row)
    assert start >= stop and count.steered == 0


def test_a_run_without_any_steered_position_says_so(engine, step, caplog):
    ids = tuple(engine.encode("q<think></think>"))
    with caplog.at_level("WARNING"), steer(engine, Steering({BLOCK: step})):
        list(engine.generate([Request("p", prompt_ids=ids, sampling=Sampling(max_tokens=3))]))
    assert "none of 1 request" in caplog.text and "thinking was closed" in caplog.text


def test_thinking_that_went_by_unsteered_is_an_error(engine, step, monkeypatch):
    script = engine.encode("abc</think>4")
    request = Request("p", prompt_ids=tuple(engine.encode("q<think>")), sampling=Sampling(max_tokens=len(script)))
    with pytest.raises(EngineError, match="thinking"), steer(engine, Steering({BLOCK: step})), forced(engine, script):
        monkeypatch.setattr(SteerCount, "span", lambda self, row: (0, 0))
        list(engine.generate([request]))


def test_tags_of_several_tokens_are_warned_about(engine, step, monkeypatch, caplog):
    with caplog.at_level("WARNING"), steer(engine, Steering({BLOCK: step})):
        pass
    assert caplog.text == ""
    monkeypatch.setattr(type(engine), "encode", lambda self, text: [ord(c) for c in text])
    with caplog.at_level("WARNING"), steer(engine, Steering({BLOCK: step}, "last", "eos")):
        pass
    assert caplog.text == ""
    with caplog.at_level("WARNING"), steer(engine, Steering({BLOCK: step})):
        pass
    assert caplog.text.count("the answer is steered as well") == 1


def test_positions_skipped_without_a_prefix_cache_are_a_gap():
    request = Request("p", prompt_ids=(1,) * 5)
    counts = [SteerCount("all", "eos", prefix_cache=cached) for cached in (True, False)]
    for count in counts:
        count.add(Row(request, 0, 0, 2, 3, 5))
    assert [count.gaps for count in counts] == [0, 3]


def test_hooks_that_miss_the_prompt_leave_a_gap(engine, requests, step, monkeypatch):
    real, missed = type(engine).current_rows, []

    def late(self):
        rows = real(self)
        if active and rows and rows[0].first_position == 0:
            missed.append(rows)
            return []
        return rows

    active = []
    monkeypatch.setattr(type(engine), "current_rows", late)
    with pytest.raises(EngineError, match="missed"), steer(engine, Steering({BLOCK: step}, "last", "eos")):
        active.append(True)
        list(engine.generate(requests))
    assert missed


def test_batch_padding_does_not_matter(engine, requests, step):
    with steer(engine, Steering({BLOCK: step}, "all", "eos")):
        together = {t.problem_id: t.token_ids for t in engine.generate(requests)}
        alone = {r.problem_id: next(iter(engine.generate([r]))).token_ids for r in requests}
    assert together == alone


def test_strength_zero_is_bit_identical(engine, requests):
    items = [(engine.encode("abc"), engine.encode("defg"))]
    before, plain = engine.score(items), [t.token_ids for t in engine.generate(requests)]
    with steer(engine, Steering({BLOCK: torch.zeros(WIDTH)}, "all", "eos")) as count:
        assert engine.score(items) == before
        traces = list(engine.generate(requests))
    assert [t.token_ids for t in traces] == plain and count.mismatches(traces) == {}


def test_hooks_come_off_also_after_an_error(engine, step):
    items, before = [(engine.encode("abc"), engine.encode("defg"))], hooks(engine)
    plain = engine.score(items)
    with steer(engine, Steering({0: step, 2: step}, "all", "eos")):
        assert hooks(engine) == before + 2 and engine.score(items) != plain
    with pytest.raises(KeyError), steer(engine, Steering({BLOCK: step})):
        raise KeyError("user code failed")
    assert hooks(engine) == before and engine.score(items) == plain


def test_nesting_on_one_block_is_refused_and_leaves_the_outer_one(engine, step):
    items = [(engine.encode("abc"), engine.encode("defg"))]
    with steer(engine, Steering({BLOCK: step})):
        outer = engine.score(items)
        with pytest.raises(BadInput, match="steered already"), steer(engine, Steering({BLOCK: step})):
            pass
        assert engine.score(items) == outer
        with steer(engine, Steering({BLOCK + 1: step})):
            assert engine.score(items) != outer
    with steer(engine, Steering({BLOCK: step})):
        assert engine.score(items) == outer


def test_an_engine_that_never_runs_the_hooks_is_found_out(engine, step, monkeypatch):
    before = hooks(engine)
    monkeypatch.setattr(type(engine), "current_rows", lambda self: [])
    with pytest.raises(EngineError, match="no effect"), steer(engine, Steering({BLOCK: step})):
        pass
    assert hooks(engine) == before


def test_passes_without_hooks_leave_a_gap(engine, requests, step, monkeypatch):
    real, passes = type(engine).current_rows, iter(range(1000))
    broken = []

    def sometimes(self):
        return [] if broken and next(passes) % 7 == 6 else real(self)

    monkeypatch.setattr(type(engine), "current_rows", sometimes)
    with pytest.raises(EngineError, match="missed"), steer(engine, Steering({BLOCK: step}, "last", "eos")) as count:
        broken.append(True)
        traces = list(engine.generate(requests))
    assert count.gaps > 0 and count.mismatches(traces)


def test_compiled_engine_is_refused(engine, step, monkeypatch):
    monkeypatch.setattr(type(engine), "eager", False)
    with pytest.raises(BadInput, match="enforce_eager=true"), steer(engine, Steering({BLOCK: step})):
        pass


@pytest.mark.parametrize(
    ("steps", "said"),
    [({LAYERS: torch.ones(WIDTH)}, "0 ... 3"), ({0: torch.ones(WIDTH + 1)}, "hidden_size is 64"), ({}, "none given")],
)
def test_steps_that_do_not_fit_are_refused(engine, steps, said):
    with pytest.raises(BadInput, match=said), steer(engine, Steering(steps)):
        pass


def test_half_precision_adds_in_float32(model_folders, step):
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    engine = open_engine(EngineConfig(str(model_folders["llama"]), "hf", dtype="bfloat16"))
    ids = engine.encode("half precision")
    found = []

    def keep(model):
        handle = model.model.layers[BLOCK].register_forward_hook(lambda m, a, o: found.append(o.clone()))
        engine.score([(ids[:4], ids[4:])])
        handle.remove()

    engine.apply_model(keep)
    with steer(engine, Steering({BLOCK: step}, "all", "eos")):
        engine.apply_model(keep)
    assert found[1].dtype == torch.bfloat16
    assert torch.equal(found[1], (found[0].float() + step).bfloat16())
