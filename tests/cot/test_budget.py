"""Cutting the chain of thought: which tokens count where, and which outputs are left alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from scripted import END, TAG, ScriptedEngine, encode

from cot.budget import Cut
from cot.phases import phase_seed
from eval_math.errors import BadInput
from eval_math.records import Message, Request, Sampling, Trace

LONG = "x" * 30 + TAG + "\\boxed{1}"
SHORT = "x" * 5 + TAG + "\\boxed{2}"


def request(name: str, max_tokens: int = 100) -> Request:
    return Request(name, messages=(Message("user", "q"),), sampling=Sampling(max_tokens))


def drive(method: Cut, *requests: Request, **outputs: str) -> dict[str, Trace]:
    engine = ScriptedEngine({"long": LONG, "short": SHORT, **outputs}, batch_size=1)
    return {trace.problem_id: trace for trace in method.drive(engine, requests)}


def test_a_long_thought_is_cut_and_a_short_one_left_alone():
    found = drive(Cut(tokens=12), request("long"), request("short"))
    cut, whole = found["long"], found["short"]
    assert (cut.thinking, cut.answer_text, cut.finish) == ("x" * 11, "\\boxed{1}", "stop")
    assert (cut.n_thinking_tokens, cut.n_answer_tokens) == (12, len("\\boxed{1}") + 1)
    assert (whole.thinking, whole.answer_text) == ("x" * 5, "\\boxed{2}")
    assert whole.n_thinking_tokens == 6
    assert (cut.provenance["cut"], whole.provenance["cut"]) == (True, False)
    assert cut.n_forward == 11 + len("\\boxed{1}") + 1
    assert cut.seconds == 0.5
    assert cut.token_ids == (*encode("x" * 11), END, *encode("\\boxed{1}"), 2)


def test_the_forced_text_counts_as_answer():
    outputs = {"long": "x" * 30 + TAG + "So \\boxed{1}"}
    found = drive(Cut(tokens=12, forced="So "), request("long"), **outputs)["long"]
    assert found.answer_text == "So \\boxed{1}"
    assert (found.n_thinking_tokens, found.n_answer_tokens) == (12, len("So \\boxed{1}") + 1)


def test_the_limit_holds_for_both_phases_together():
    found = drive(Cut(tokens=12), request("long", 15))["long"]
    assert (len(found.token_ids or ()), found.finish, found.n_answer_tokens) == (15, "length", 3)
    found = drive(Cut(tokens=12), request("long", 11))["long"]
    assert (len(found.token_ids or ()), found.finish, found.n_answer_tokens) == (11, "length", 0)


def test_outputs_that_end_or_fail_inside_thinking_pass_through():
    engine = ScriptedEngine({"long": LONG}, fail={"bad": "broken"})
    [failed] = Cut(tokens=12).drive(engine, [request("bad")])
    assert (failed.finish, failed.error) == ("error", "broken")
    [ended] = Cut(tokens=12).drive(ScriptedEngine({"end": "xxx"}), [request("end")])
    assert (ended.finish, ended.text) == ("stop", "xxx")


def test_results_come_in_windows_and_requests_are_read_as_needed():
    engine = ScriptedEngine({f"p{i}": LONG for i in range(20)}, batch_size=1)
    drawn = []

    def source():
        for i in range(20):
            drawn.append(i)
            yield request(f"p{i}")

    results = Cut(tokens=12).drive(engine, source())
    next(results)
    assert len(drawn) == 4
    assert sum(1 for _ in results) == 19


def test_sampling_seed_and_prompt_stay_those_of_the_request():
    engine = ScriptedEngine({"long": LONG})
    asked = replace(request("long"), sampling=Sampling(100, temperature=0.6, seed=7))
    list(Cut(tokens=12).drive(engine, [asked]))
    # The same seed would draw in the second phase what it drew in the first.
    assert [r.sampling.seed for r in engine.asked] == [7, phase_seed(7, 1)]
    assert phase_seed(7, 1) != 7 == phase_seed(7, 0)
    assert [r.sampling.temperature for r in engine.asked] == [0.6, 0.6]
    assert [r.messages for r in engine.asked] == [asked.messages] * 2


def test_thinking_that_closes_at_the_limit_is_truncated():
    found = drive(Cut(tokens=12), request("short", 6))["short"]
    assert (found.thinking, found.answer_text, found.finish) == ("x" * 5, "", "length")
    assert len(found.token_ids or ()) == 6


def test_a_budget_without_room_for_a_thought_is_refused_at_start():
    engine = ScriptedEngine({"long": LONG})
    with pytest.raises(BadInput, match="tokens=1, but the end tag alone takes 1; give at least 2"):
        list(Cut(tokens=1).drive(engine, [request("long")]))
    assert engine.asked == []
    [least] = Cut(tokens=2).drive(engine, [request("long")])
    assert least.n_thinking_tokens == 2


def test_an_end_tag_that_is_not_the_models_is_refused_at_start():
    @dataclass
    class Mistral(ScriptedEngine):
        def encode(self, text: str) -> list[int]:
            return [9] if text in ("[THINK]", "[/THINK]") else [ord(c) for c in text]

    with pytest.raises(BadInput, match=r"end='</think>' is not the model's end tag; give end=\[/THINK\]"):
        list(Cut(tokens=12).drive(Mistral({}), [request("long")]))
    with pytest.raises(BadInput, match="end='</reason>' is not the model's end tag; give end=</think>"):
        list(Cut(tokens=12, end="</reason>").drive(ScriptedEngine({}), [request("long")]))
