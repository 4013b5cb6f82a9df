"""Several phases per request: one limit for all of them, a seed for each, the work of all in the final trace."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from scripted import END, TAG, ScriptedEngine, encode

from cot.budget import Cut
from cot.engine import EngineIdentity, unit_key
from cot.forcing import Budget
from cot.method import Method
from cot.phases import Course, chat_of, ids_of, model_wording, phase_seed, think_tags
from eval_math.errors import BadInput
from eval_math.records import Message, Request, Sampling, Trace


def request(max_tokens=100, prefill=(), **sampling) -> Request:
    how = Sampling(max_tokens, **sampling)
    return Request("p", messages=(Message("user", "q"),), prefill_ids=tuple(prefill), sampling=how)


def asked(questions, n=8, **sampling) -> list[Request]:
    how = Sampling(**({"max_tokens": 600} | sampling))
    return [
        Request(f"q{at}", messages=(Message("user", q),), sampling=replace(how, seed=at))
        for at, q in enumerate(questions[:n])
    ]


def run(method: Method, engine, requests) -> dict[str, Trace]:
    return {trace.problem_id: trace for trace in method.drive(engine, requests)}


def test_a_phase_gets_what_is_left_of_the_limit():
    engine = ScriptedEngine({})
    course = Course(request(20, prefill=(9, 9)), n_probe_tokens=3)
    # 2 of the 7 came with the request: 5 are generated, 3 are probes.
    assert course.go_on(engine, (9, 9, 1, 2, 3, 4, 5)).sampling.max_tokens == 12  # type: ignore[union-attr]
    assert course.go_on(engine, (9, 9, 1), 4).sampling.max_tokens == 4  # type: ignore[union-attr]
    assert course.go_on(engine, (9, 9, *range(17))) is None
    assert course.go_on(engine, (9, 9), 0) is None


def test_the_models_length_holds_too():
    engine = ScriptedEngine({"p": "x" * 30 + TAG + "y"}, max_model_len=10)
    (thought,) = engine.generate([request(5)])
    course = Course(request(100), kept=thought)
    assert course.go_on(engine, (1,) * 5).sampling.max_tokens == 10 - 1 - 5  # type: ignore[union-attr]
    assert course.go_on(engine, (1,) * 9) is None


def test_each_phase_has_a_seed_of_its_own_and_the_first_the_requests():
    assert phase_seed(7, 0) == 7
    assert len({phase_seed(seed, phase) for seed in range(20) for phase in range(5)}) == 100
    assert phase_seed(7, 3) == phase_seed(7, 3)


def test_nothing_is_cut_off_before_something_is_kept():
    with pytest.raises(ValueError, match="no trace has been kept"):
        Course(request()).cut_off()


def test_traces_without_ids_are_refused():
    @dataclass
    class Silent(ScriptedEngine):
        def trace(self, *args, **kwargs) -> Trace:
            return replace(super().trace(*args, **kwargs), token_ids=None)

    with pytest.raises(BadInput, match="method cut needs token ids"):
        list(Cut(tokens=5).drive(Silent({"p": "x" * 30 + TAG}), [request()]))
    assert ids_of(ScriptedEngine({}).trace(request(), [3, END], "stop"), "cut") == (3, END)


def test_a_phase_that_fails_ends_its_request_alone():
    engine = ScriptedEngine({"a": "x" * 30 + TAG + "1", "b": "x" * 30 + TAG + "2"})
    engine.before = lambda r: engine.fail.update({"a": "gone"} if r.prefill_ids and r.problem_id == "a" else {})
    requests = [replace(request(), problem_id=name) for name in "ab"]
    found = run(Cut(tokens=8), engine, requests)
    assert (found["a"].finish, found["a"].error) == ("error", "gone")
    assert found["a"].n_forward == 7
    assert (found["b"].finish, found["b"].answer_text) == ("stop", "2")


@pytest.mark.parametrize("method", [Cut(tokens=80), Budget(tokens=80), Budget(tokens=400, ignores=1)])
def test_sampled_phases_keep_to_the_budget_and_answers_again_alike(hf_embedded, questions, method):
    first = run(method, hf_embedded, asked(questions, temperature=0.8, max_tokens=700))
    again = run(method, hf_embedded, list(reversed(asked(questions, temperature=0.8, max_tokens=700))))
    for name, trace in first.items():
        assert trace.n_thinking_tokens <= method.tokens
        assert trace.token_ids == again[name].token_ids
        assert trace.provenance["seed"] == int(name[1:])


def test_a_sampled_thought_and_answer_within_the_budget_are_plain_generation(hf_embedded, questions):
    plain = run(Method(), hf_embedded, asked(questions, temperature=0.8))
    for method in (Cut(tokens=590), Budget(tokens=590, ignores=0)):
        found = run(method, hf_embedded, asked(questions, temperature=0.8))
        assert {k: t.token_ids for k, t in found.items()} == {k: t.token_ids for k, t in plain.items()}


def test_the_work_of_all_phases_is_counted_and_forced_tokens_cost_none(hf_embedded, questions):
    for trace in run(Cut(tokens=50, forced="So "), hf_embedded, asked(questions)).values():
        assert trace.token_ids is not None
        assert trace.n_tokens == len(trace.token_ids)
        n_forced = 1 + len(hf_embedded.encode("So "))
        assert trace.n_forward == trace.n_tokens - n_forced
        assert trace.provenance["phases"] == 2


def test_keys_change_only_with_what_decides_the_output():
    identity = EngineIdentity("hf", "m", "h", "t", "float32")
    # Under this key the stored runs of plain cutting lie.
    stored = {"name": "cut", "tokens": 256, "forced": "", "end": "</think>"}
    assert Cut().fingerprint() == stored
    assert unit_key(request(), identity, Cut().fingerprint()) == unit_key(request(), identity, stored)
    assert Cut(sentence="Stop.").fingerprint() != stored
    assert "wording" in Cut(sentence=None).fingerprint()


def test_wording_is_the_models_else_everyones():
    assert "Okay" in model_wording(replace_model("embedded"), "limit")["before"]
    assert "limited time" in model_wording(replace_model("Qwen/Qwen3-8B"), "limit")["before"]


def replace_model(name: str) -> ScriptedEngine:
    @dataclass
    class Named(ScriptedEngine):
        @property
        def identity(self) -> EngineIdentity:
            return replace(super().identity, model=name)

    return Named({})


def test_tags_are_the_models(hf_embedded):
    assert think_tags(hf_embedded) == ("<think>", "</think>")
    assert encode("a" + TAG) == [97, END]


def test_a_tokenizer_that_is_not_here_is_asked_for(embedded_model):
    @dataclass
    class Remote(ScriptedEngine):
        @property
        def identity(self) -> EngineIdentity:
            return replace(super().identity, engine="openai", model="far/away")

    with pytest.raises(BadInput, match="tokenizer="):
        chat_of(Remote({}), None)
    assert chat_of(Remote({}), str(embedded_model)).encode("a")
