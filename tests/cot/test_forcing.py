"""Budget forcing, limits and NoThinking on the embedded reasoner: budgets hold, and nothing changes unasked."""

from __future__ import annotations

import pytest

from cot.budget import Cut, Limit
from cot.forcing import Budget
from cot.method import Method
from cot.prompting import NoThinking
from eval_math.errors import BadInput
from eval_math.records import Message, Request, Sampling, Trace


def asked(questions, n=6, **sampling) -> list[Request]:
    how = Sampling(**({"max_tokens": 600} | sampling))
    return [Request(f"q{at}", messages=(Message("user", q),), sampling=how) for at, q in enumerate(questions[:n])]


def run(method: Method, engine, requests) -> dict[str, Trace]:
    return {trace.problem_id: trace for trace in method.drive(engine, requests)}


@pytest.mark.parametrize("tokens", [40, 90, 160])
@pytest.mark.parametrize("method", [Cut, Limit, Budget])
def test_thinking_never_exceeds_its_budget_and_an_answer_follows(hf_embedded, questions, method, tokens):
    for trace in run(method(tokens=tokens), hf_embedded, asked(questions)).values():
        assert trace.n_thinking_tokens <= tokens
        assert trace.answer_text.strip()
        assert trace.finish == "stop"
        assert trace.token_ids is not None
        assert len(trace.token_ids) == trace.n_tokens


def test_a_cap_that_is_not_met_changes_no_id(hf_embedded, questions):
    plain = run(Method(), hf_embedded, asked(questions))
    for method in (Budget(tokens=500, ignores=0), Cut(tokens=500), Limit(tokens=500)):
        found = run(method, hf_embedded, asked(questions))
        assert {k: t.token_ids for k, t in found.items()} == {k: t.token_ids for k, t in plain.items()}
        assert all(trace.n_probe_tokens == 0 for trace in found.values())


def test_the_end_of_thinking_is_taken_back_and_charged(hf_embedded, questions):
    plain = run(Method(), hf_embedded, asked(questions))
    longer = run(Budget(tokens=550, ignores=2), hf_embedded, asked(questions, max_tokens=900))
    for name, trace in longer.items():
        assert trace.n_thinking_tokens > plain[name].n_thinking_tokens
        assert (trace.n_probe_tokens, trace.provenance["ignored"]) == (2, 2)
        assert (plain[name].thinking or "") + " Wait" == (trace.thinking or "")[: len(plain[name].thinking or "") + 5]
        assert trace.text.count("</think>") == 1


def test_the_requests_limit_holds_for_all_phases(hf_embedded, questions):
    for method in (Budget(tokens=60), Limit(tokens=60), Cut(tokens=60), NoThinking()):
        for trace in run(method, hf_embedded, asked(questions, max_tokens=64)).values():
            assert trace.n_tokens + trace.n_probe_tokens <= 64
            if trace.n_tokens == 64:
                assert trace.finish in ("length", "stop")


def test_a_limit_says_its_sentence_once_and_only_if_it_cuts(hf_embedded, questions):
    sentence = "Okay, I have to answer now."
    cut = run(Limit(tokens=60), hf_embedded, asked(questions))
    assert all((trace.thinking or "").endswith(sentence) for trace in cut.values())
    free = run(Limit(tokens=590), hf_embedded, asked(questions))
    assert all(sentence not in trace.text for trace in free.values())
    assert all(trace.provenance["cut"] for trace in cut.values())
    assert not any(trace.provenance["cut"] for trace in free.values())


def test_nothinking_counts_its_block_once(hf_embedded, questions):
    block = 1 + len(hf_embedded.encode(NoThinking().prefill))
    after = len(hf_embedded.encode("\n\n"))
    for trace in run(NoThinking(), hf_embedded, asked(questions)).values():
        assert trace.thinking == NoThinking().prefill
        assert trace.n_thinking_tokens == block
        assert trace.n_forward == trace.n_tokens - block - after
        assert "boxed" in trace.answer_text


def test_nothinking_opens_the_block_itself_where_the_prompt_does_not(hf_engine):
    request = Request("q", messages=(Message("user", "2+2?"),), sampling=Sampling(60))
    (trace,) = NoThinking().drive(hf_engine, [request])
    assert trace.thinking == NoThinking().prefill
    opened = Request("q", messages=(Message("user", "2+2?"),), sampling=Sampling(60), template={"thinking": True})
    (other,) = NoThinking().drive(hf_engine, [opened])
    assert other.thinking == NoThinking().prefill
    assert other.n_thinking_tokens == trace.n_thinking_tokens - 1
    short = Request("q", messages=(Message("user", "2+2?"),), sampling=Sampling(5))
    with pytest.raises(BadInput, match="max_tokens=5, but the block has"):
        list(NoThinking().drive(hf_engine, [short]))


def test_bad_settings():
    for bad in ({"tokens": 0}, {"ignores": -1}, {"wait": ""}):
        with pytest.raises(BadInput):
            Budget(**bad)
