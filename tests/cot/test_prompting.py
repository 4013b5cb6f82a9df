"""Concise, NoThink and NoThinking on the embedded reasoner: what is asked, what is counted, what is saved."""

from __future__ import annotations

import pytest

from cot.method import Method, compose
from cot.prompting import Concise, NoThink, NoThinking, _is_open
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Message, Problem, Request, Sampling, Trace


def asked(questions, method=None, n=12, **sampling) -> list[Request]:
    how = Sampling(**({"max_tokens": 600} | sampling))
    method = method or Method()
    problems = [Problem(f"q{at}", "embedded", q, "1") for at, q in enumerate(questions[:n])]
    return [method.request(Request(p.id, messages=method.messages(p, prompt(p)), sampling=how)) for p in problems]


def run(method: Method, engine, questions, **sampling) -> dict[str, Trace]:
    requests = asked(questions, method, **sampling)
    with method.attach(engine):
        return {trace.problem_id: trace for trace in method.drive(engine, requests)}


@pytest.fixture(scope="module")
def plain(hf_embedded, questions):
    return run(Method(), hf_embedded, questions)


def mean(traces) -> float:
    return sum(trace.n_thinking_tokens for trace in traces.values()) / len(traces)


def test_concise_halves_the_thinking(hf_embedded, questions, plain):
    brief = run(Concise(), hf_embedded, questions)
    assert mean(brief) < mean(plain) / 2
    assert all(trace.n_probe_tokens == 0 and trace.n_forward == trace.n_tokens for trace in brief.values())


def test_nothink_thinks_nothing_and_counts_all_as_answer(hf_embedded, questions, plain):
    for name, trace in run(NoThink(), hf_embedded, questions).items():
        assert trace.n_thinking_tokens == 0
        assert not trace.thinking
        assert trace.n_answer_tokens == len(trace.token_ids or ()) == trace.n_forward
        # The closed block belongs to the prompt, the request and its seed stay what they were.
        assert trace.n_prompt_tokens > plain[name].n_prompt_tokens


def test_nothinking_counts_prefilled_tokens_once_and_as_output(hf_embedded, questions, plain):
    for name, trace in run(NoThinking(), hf_embedded, questions).items():
        assert trace.n_prompt_tokens == plain[name].n_prompt_tokens
        assert trace.token_ids is not None
        assert trace.n_tokens == len(trace.token_ids)
        assert trace.n_forward < trace.n_tokens
        assert trace.text.count(NoThinking().prefill) == 1
        assert trace.text.count("</think>") == 1


@pytest.mark.parametrize("limit", [20, 24])
def test_the_block_is_taken_from_the_limit(hf_embedded, questions, limit):
    for trace in run(NoThinking(), hf_embedded, questions, max_tokens=limit).values():
        assert trace.n_tokens <= limit
        assert trace.finish == "length" or trace.n_tokens < limit or trace.text.endswith("}")


def test_a_truncated_answer_is_length_with_its_full_length(hf_embedded, questions):
    found = run(NoThink(), hf_embedded, questions, max_tokens=3)
    assert {(trace.finish, trace.n_tokens) for trace in found.values()} == {("length", 3)}


def test_a_limit_smaller_than_the_block_is_refused(hf_embedded, questions):
    with pytest.raises(BadInput, match="max_tokens=4, but the block has"):
        run(NoThinking(), hf_embedded, questions, max_tokens=4)


def test_prompt_methods_go_together_with_one_that_decodes(hf_embedded, questions):
    from cot.budget import Cut

    both = compose([Concise(), Cut(tokens=20)])
    found = run(both, hf_embedded, questions)
    assert all(trace.n_thinking_tokens <= 20 for trace in found.values())
    assert all("Be concise." in request.messages[-1].content for request in asked(questions, both))


def test_a_prompt_is_open_between_its_tags():
    assert _is_open([7, 1], [1], [2])
    assert not _is_open([7, 1, 2], [1], [2])
    assert _is_open([7, 1, 2, 1, 5], [1], [2])
    assert not _is_open([7], [1], [2])
    assert _is_open([8, 9, 1], [8, 9], [8, 8])


def test_nothinking_needs_prefill():
    assert "prefill" in NoThinking().needs
    assert NoThinking().messages(Problem("p", "b", "q", "1"), (Message("user", "q"),)) == (Message("user", "q"),)
