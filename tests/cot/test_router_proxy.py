"""The proxy on real sockets: who decides, what passes, bytes as they come, and what happens when things go wrong."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI
from upstream import ByLength, Upstream, proxied, serving

from cot.router.proxy import Proxy, ProxyConfig
from cot.router.proxy_request import RouteChange, question_of
from eval_math.errors import BadInput

LONG = "Prove that there are infinitely many primes, and say why it matters."


@pytest.fixture(scope="module")
def upstream():
    return Upstream()


@pytest.fixture(scope="module")
def upstream_port(upstream):
    with serving(upstream.app()) as port:
        yield port


@pytest.fixture(scope="module")
def served(upstream_port):
    with proxied(upstream_port) as (address, proxy):
        yield address, proxy


@pytest.fixture(scope="module")
def address(served):
    return served[0]


def chat(address: str, content, model: str = "auto", headers=None, **fields) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
    return httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers, timeout=20)


def test_easy_questions_are_not_thought_about(address, upstream):
    easy, hard = chat(address, "2 + 2?"), chat(address, LONG)
    assert [r.headers["x-router-route"] for r in (easy, hard)] == ["nothink", "think"]
    assert [body["chat_template_kwargs"] for body in upstream.seen[-2:]] == [
        {"enable_thinking": False},
        {"enable_thinking": True},
    ]
    assert {body["model"] for body in upstream.seen[-2:]} == {"m"}
    assert easy.headers["x-router-p-think"] == "0.9000" and float(easy.headers["x-router-ms"]) < 200
    assert easy.json()["choices"][0]["message"]["content"] == "2 + 2?"


def test_callers_decide_themselves_and_unknown_fields_survive(address, upstream):
    extra = {"strange": [1, {"a": None}], "chat_template_kwargs": {"enable_thinking": True, "own": 1}}
    found = chat(address, "2 + 2?", **extra)
    assert found.headers["x-router-reason"] == "caller" and "x-router-route" not in found.headers
    assert upstream.seen[-1]["chat_template_kwargs"] == extra["chat_template_kwargs"]
    assert upstream.seen[-1]["strange"] == extra["strange"]
    for field in ({"reasoning_effort": "high"}, {"thinking_token_budget": 5}):
        assert chat(address, "2 + 2?", **field).headers["x-router-reason"] == "caller"
    forced = chat(address, "2 + 2?", headers={"x-router-route": "think"})
    assert forced.headers["x-router-route"] == "think"
    assert "x-router-route" not in upstream.headers[-1]
    assert chat(address, "2", headers={"x-router-route": "fly"}).status_code == 400
    kept = chat(address, "2 + 2?", chat_template_kwargs={"own": 1})
    assert kept.status_code == 200 and upstream.seen[-1]["chat_template_kwargs"] == {"enable_thinking": False, "own": 1}


def test_other_models_and_paths_pass_untouched(address, upstream):
    named = chat(address, "2 + 2?", model="m")
    assert named.headers["x-router-reason"] == "model named" and "chat_template_kwargs" not in upstream.seen[-1]
    unknown = chat(address, "2 + 2?", model="none")
    assert (unknown.status_code, unknown.json()["error"]["message"]) == (404, "no such model")
    raw = b'{"model": "auto",  "prompt": "x"}'
    assert httpx.post(f"{address}/v1/completions", content=raw).content == raw
    assert httpx.get(f"{address}/v1/nothing").status_code == 404
    assert [each["id"] for each in httpx.get(f"{address}/v1/models").json()["data"]] == ["auto", "m"]


def test_the_official_client_streaming_and_not(address):
    client = OpenAI(base_url=f"{address}/v1", api_key="k")
    messages = [{"role": "user", "content": "one two three"}]
    whole = client.chat.completions.create(model="auto", messages=messages)
    assert whole.choices[0].message.content == "one two three"
    stream = client.chat.completions.create(model="auto", messages=messages, stream=True)
    assert "".join(part.choices[0].delta.content for part in stream) == "one two three "


def test_streams_are_the_upstreams_bytes_and_come_before_it_ends(address, upstream_port):
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "slow one two three"}]}
    found = []
    for port in (address, f"http://127.0.0.1:{upstream_port}"):
        started = time.monotonic()
        with httpx.stream("POST", f"{port}/v1/chat/completions", json=body, timeout=20) as answer:
            parts = answer.iter_raw()
            first = next(parts)
            assert time.monotonic() - started < 0.6
            found.append(first + b"".join(parts))
    assert found[0] == found[1] and found[0].endswith(b"data: [DONE]\n\n")


def test_a_client_that_leaves_ends_the_upstreams_work(served, upstream):
    address, proxy = served
    before = upstream.cancelled
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "slow " * 40}]}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=20) as answer:
        next(answer.iter_raw())
    wait_for(lambda: proxy.metrics.inflight == 0)
    wait_for(lambda: upstream.cancelled > before)
    assert upstream.cancelled == before + 1


def test_errors_of_the_upstream_pass_through(address):
    failed = chat(address, "fail now")
    assert (failed.status_code, failed.json(), failed.headers["x-own"]) == (
        500,
        {"error": {"message": "on fire"}},
        "yes",
    )
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "break a b c"}]}
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=20) as answer,
    ):
        list(answer.iter_raw())


def test_an_upstream_that_is_down_and_comes_back(upstream):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with proxied(port) as (address, proxy):
        down = chat(address, "2 + 2?")
        assert down.status_code == 502 and down.json()["error"]["type"] == "upstream_error"
        assert httpx.get(f"{address}/ready").status_code == 503 and httpx.get(f"{address}/health").status_code == 200
        for _ in range(2):
            with serving(upstream.app(), port):
                assert chat(address, "2 + 2?").status_code == 200
                assert httpx.get(f"{address}/ready").status_code == 200
            assert chat(address, "2 + 2?").status_code == 502
        assert proxy.metrics.upstream_errors.total() >= 3


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", 400), (b"[1]", 400), (b"", 400), (b"\xff\xfe", 400), (b"[" * 20_000, 400), (b'"auto"', 400),
        (b'{"model": "auto"}', 200), (b'{"model": "auto", "messages": 3}', None),
        (json.dumps({"model": "auto", "messages": [{"role": "user", "content": "\ud800 \x00 \u6570"}]}).encode(), None),
        (b"x" * 1_000_001, 413), (b"x" * 10_000_000, 413),
    ],
)  # fmt: skip
def test_odd_bodies(address, raw, code):
    answer = httpx.post(f"{address}/v1/chat/completions", content=raw, timeout=20)
    if code is not None:
        assert answer.status_code == code
    else:
        # What the upstream makes of it is its own affair.
        assert answer.headers["x-router-reason"] in ("judged", "empty")
    if code in (400, 413):
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.get(f"{address}/health").status_code == 200


def test_what_a_question_is():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert question_of({"messages": turns}) == "" and question_of({"messages": turns[:1]}) == "a"
    tools = [*turns, {"role": "tool", "content": "7"}]
    assert question_of({"messages": tools}) == "a"
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": 3}, 9]
    assert question_of({"messages": [{"role": "user", "content": parts}]}) == "x"
    for odd in ({}, {"messages": None}, {"messages": [3]}, {"messages": [{"role": "user"}]}):
        assert question_of(odd) == ""


def test_a_router_that_fails_or_dawdles_does_not_keep_the_answer(upstream_port):
    with proxied(upstream_port, ByLength(delay=0.3), router_seconds=0.05) as (address, _):
        slow = chat(address, "2 + 2?")
        assert (slow.headers["x-router-route"], slow.headers["x-router-reason"]) == ("think", "too slow")
    with proxied(upstream_port) as (address, _):
        assert chat(address, "crash").headers["x-router-reason"] == "failed"
        assert chat(address, " ").headers["x-router-reason"] == "empty"
        text = httpx.get(f"{address}/metrics").text
        assert 'laconic_decisions_total{route="think",reason="failed"} 1' in text and "laconic_inflight 0" in text


def test_keys_are_checked_and_not_passed_on(upstream_port, upstream):
    with proxied(upstream_port, api_keys=("a", "b"), upstream_key="inner") as (address, _):
        assert chat(address, "x").status_code == 401
        assert chat(address, "x", headers={"authorization": "Bearer c"}).status_code == 401
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert chat(address, "x", headers={"authorization": "Bearer b"}).status_code == 200
        assert upstream.headers[-1]["authorization"] == "Bearer inner"
    with proxied(upstream_port) as (address, _):
        chat(address, "x", headers={"authorization": "Bearer own"})
        assert upstream.headers[-1]["authorization"] == "Bearer own"


def test_no_more_requests_at_once_than_allowed(upstream_port):
    async def burst(address: str) -> list[httpx.Response]:
        body = {"model": "auto", "messages": [{"role": "user", "content": "slow"}]}
        async with httpx.AsyncClient(timeout=20) as client:
            return await asyncio.gather(*(client.post(f"{address}/v1/chat/completions", json=body) for _ in range(6)))

    with proxied(upstream_port, most_requests=2) as (address, proxy):
        answers = asyncio.run(burst(address))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503, 503]
        assert next(a for a in answers if a.status_code == 503).headers["retry-after"] == "1"
        assert proxy.metrics.inflight == 0


def test_the_decision_alone(address):
    found = httpx.post(f"{address}/route", json={"question": LONG}).json()
    assert found["route"] == "think" and found["success"]["think"] == 0.9
    assert httpx.get(f"{address}/router").json()["routes"] == ["nothink", "think"]


def test_two_hundred_requests_of_unsteady_clients_leak_nothing(served, upstream):
    """Each question holds its own number; some clients leave, some read slowly; nobody gets another's answer."""
    address, proxy = served
    asyncio.run(crowd(address, 40, seed=1))
    before = open_files()
    wrong = asyncio.run(crowd(address, 200, seed=2))
    assert not wrong
    wait_for(lambda: proxy.metrics.inflight == 0)
    wait_for(lambda: open_files() <= before + 8)


async def crowd(address: str, count: int, seed: int) -> list[str]:
    """Answers that were not their own."""
    rng, wrong = random.Random(seed), list[str]()
    limit = asyncio.Semaphore(16)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        kind, text = rng.choice(("whole", "stream", "leave", "slow reader")), f"number {number} of many"
        body = {"model": "auto", "stream": kind != "whole", "messages": [{"role": "user", "content": text}]}
        async with limit, client.stream("POST", f"{address}/v1/chat/completions", json=body) as answer:
            got = b""
            async for part in answer.aiter_raw():
                got += part
                if kind == "leave":
                    return
                if kind == "slow reader":
                    await asyncio.sleep(0.01)
            if str(number).encode() not in got or answer.status_code != 200:
                wrong.append(text)

    async with httpx.AsyncClient(timeout=30) as client:
        await asyncio.gather(*(one(client, number) for number in range(10_000, 10_000 + count)))
    return wrong


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(["model", "messages", "stream", "chat_template_kwargs", "x"]), JSON),
       auto=st.booleans())  # fmt: skip
def test_no_body_makes_the_proxy_fail(address, body, auto):
    """The upstream may fail on it (500 of its own); the proxy answers, and never with an error of its own making."""
    if auto:
        body = {**body, "model": "auto"}
    raw = json.dumps(body).encode()
    answer = httpx.post(f"{address}/v1/chat/completions", content=raw, timeout=20)
    assert answer.status_code in (200, 400, 404) or (answer.status_code == 500 and "x-router-reason" in answer.headers)


def test_settings_that_cannot_work_are_refused_at_start():
    with pytest.raises(BadInput, match="'nothink' has no request fields"):
        Proxy(ByLength(), ProxyConfig("http://x", "m"))
    for text in ("{", "[]", '{"chat_template_kwargs": 3}'):
        with pytest.raises(BadInput, match="route 'a'"):
            RouteChange.parse("a", text)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def wait_for(holds, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
