"""NoWait bans whole words, in the thinking alone, exactly, on every engine that says it can."""

from __future__ import annotations

import pytest
from scripted import ScriptedEngine

from cot.engine import EngineIdentity, unit_key
from cot.method import Method, require
from cot.nowait import KEYWORDS, NoWait, _matching
from eval_math.errors import BadInput
from eval_math.records import Message, Request, Sampling


def asked(questions, n=6, **sampling) -> list[Request]:
    how = Sampling(**({"max_tokens": 500} | sampling))
    return [Request(f"q{at}", messages=(Message("user", q),), sampling=how) for at, q in enumerate(questions[:n])]


WORDS = (" know", " now", "Now", "button", " But", "but,", "Ohio", "oh", "Ähnlich", "wait_", "double-check")
TEXTS = dict(enumerate(WORDS, 1))


def test_words_are_banned_and_not_what_holds_their_letters():
    banned, missed = _matching(TEXTS.items(), ("now", "but", "oh", "ah", "wait", "double-check"), "word")
    assert sorted(banned) == [2, 3, 5, 6, 8, 10, 11]
    assert missed == ("ah",)
    assert set(_matching(TEXTS.items(), ("now", "but", "oh"), "substring")[0]) == {1, 2, 3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("engine", ["hf_embedded", "vllm_embedded"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_banned_token_is_thought(request, questions, engine, temperature):
    engine = request.getfixturevalue(engine)
    method = NoWait()
    banned = set(method.ban(engine).banned)
    assert {"wait", "now"} <= {text.strip().lower() for text in method.ban(engine).banned.values()}
    plain = list(Method().drive(engine, asked(questions)))
    assert any(set(t.token_ids or ()) & banned for t in plain)
    for trace in method.drive(engine, asked(questions, temperature=temperature)):
        assert trace.token_ids is not None
        thought = set(trace.token_ids[: trace.n_thinking_tokens])
        assert not thought & banned
        assert "Wait" not in (trace.thinking or "")


def test_both_engines_say_the_same(hf_embedded, vllm_embedded, questions):
    found = [
        {t.problem_id: t.token_ids for t in NoWait().drive(e, asked(questions))} for e in (hf_embedded, vllm_embedded)
    ]
    assert found[0] == found[1]


def test_the_answer_may_say_them(hf_embedded, questions):
    method = NoWait(keywords=("answer",))
    traces = list(method.drive(hf_embedded, asked(questions)))
    assert all("answer" not in (t.thinking or "") for t in traces)
    assert any("The answer is" in t.answer_text for t in traces)


def test_a_ban_leaves_keys_of_other_requests_as_they_were():
    identity = EngineIdentity("hf", "m", "h", "t", "float32")
    plain = Request("p", messages=(Message("user", "q"),), sampling=Sampling(9))
    banned = Request("p", messages=(Message("user", "q"),), sampling=Sampling(9, banned_ids=(3,)))
    # The key that runs made before tokens could be banned are stored under.
    assert unit_key(plain, identity, {}) == "b564c16888e740ff58d6df5e2cd39171"
    assert unit_key(plain, identity, {}) != unit_key(banned, identity, {})


def test_engines_that_cannot_ban_are_refused():
    with pytest.raises(BadInput, match="needs 'ban'"):
        require(NoWait(), ScriptedEngine({}))


def test_bad_settings():
    for bad in ({"keywords": ()}, {"keywords": ("",)}, {"match": "letters"}):
        with pytest.raises(BadInput):
            NoWait(**bad)
    assert len(KEYWORDS) == 17
