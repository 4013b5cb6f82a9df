"""DEER leaves thinking when a trial answer is sure; its trials are charged; never sure, it is plain generation."""

from __future__ import annotations

import math

import pytest

from cot.deer import Deer, confidence
from cot.method import Method
from eval_math.errors import BadInput
from eval_math.records import Message, Request, Sampling, Trace


def asked(questions, n=6, **sampling) -> list[Request]:
    how = Sampling(**({"max_tokens": 600} | sampling))
    return [Request(f"q{at}", messages=(Message("user", q),), sampling=how) for at, q in enumerate(questions[:n])]


def run(method: Method, engine, requests) -> dict[str, Trace]:
    return {trace.problem_id: trace for trace in method.drive(engine, requests)}


def test_means():
    logs = [math.log(0.5), math.log(0.8)]
    assert confidence(logs, "geometric") == pytest.approx(math.sqrt(0.4))
    assert confidence(logs, "arithmetic") == pytest.approx(0.65)
    assert confidence(logs, "min") == pytest.approx(0.5)
    assert confidence([], "geometric") == confidence([], "arithmetic") == confidence([], "min") == 0


@pytest.mark.parametrize("engine", ["hf_embedded", "vllm_embedded"])
def test_never_sure_is_plain_generation_with_charged_trials(request, questions, engine):
    engine = request.getfixturevalue(engine)
    plain = run(Method(), engine, asked(questions))
    # Trials are charged to the limit too, so it has to leave room for them.
    found = run(Deer(threshold=1.0, probes=3), engine, asked(questions, max_tokens=900))
    assert {k: t.token_ids for k, t in found.items()} == {k: t.token_ids for k, t in plain.items()}
    tried = [t for t in found.values() if t.provenance.get("probes")]
    assert len(tried) > len(found) / 2
    for name, trace in found.items():
        probes = trace.provenance.get("probes", 0)
        assert probes <= 3
        assert trace.n_probe_tokens >= 2 * probes
        assert trace.n_forward >= plain[name].n_forward + probes


def test_always_sure_leaves_at_the_first_boundary(hf_embedded, questions):
    found = run(Deer(threshold=0.0), hf_embedded, asked(questions))
    plain = run(Method(), hf_embedded, asked(questions))
    left = [t for t in found.values() if t.provenance.get("exit") == "confident"]
    assert left
    for trace in left:
        assert "Wait" not in (trace.thinking or "")
        assert (plain[trace.problem_id].thinking or "").startswith((trace.thinking or "").rstrip())
        assert trace.provenance["probes"] == 1
        assert trace.n_thinking_tokens < plain[trace.problem_id].n_thinking_tokens
        assert trace.answer_text.strip()


def test_no_trials_is_plain_generation_for_nothing(hf_embedded, questions):
    found = run(Deer(probes=0), hf_embedded, asked(questions))
    plain = run(Method(), hf_embedded, asked(questions))
    assert {k: t.token_ids for k, t in found.items()} == {k: t.token_ids for k, t in plain.items()}
    assert all(t.n_probe_tokens == 0 for t in found.values())


def test_the_limit_holds_for_thinking_trials_and_answer(hf_embedded, questions):
    for trace in run(Deer(threshold=1.0), hf_embedded, asked(questions, max_tokens=120)).values():
        assert trace.n_tokens + trace.n_probe_tokens <= 120
        assert trace.n_thinking_tokens <= 108


def test_bad_settings():
    for bad in ({"threshold": -1}, {"mean": "median"}, {"probes": -1}, {"boundary": ""}, {"think_share": 0}):
        with pytest.raises(BadInput):
            Deer(**bad)
