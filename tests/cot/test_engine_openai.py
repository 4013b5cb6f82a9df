"""The openai engine against a real HTTP server that misbehaves on demand (vLLM's own: test_engine_served)."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cot.engine import Engine, EngineConfig
from cot.engines import open_engine
from eval_math.errors import BadInput, EngineError
from eval_math.records import Message, Request, Sampling


class Server:
    """Answers chat and text completions with ``script``: per call a status, or a function body -> answer."""

    def __init__(self):
        self.script, self.seen, self.owner, self.key = [], [], "someone", None
        self.most_at_once = self.at_once = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self.answer(200, {"data": [{"id": "tiny", "owned_by": outer.owner}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.lock:
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                    outer.seen.append((self.path, body))
                    step = outer.script.pop(0) if outer.script else chat("fine")
                self.answer(*step) if isinstance(step, tuple) else self.answer(200, step)

            def answer(self, status, value, headers=()):
                if outer.key and self.headers.get("authorization") != f"Bearer {outer.key}":
                    status, value = 401, {"error": {"message": "bad key"}}
                if callable(value):
                    value = value()
                raw = value if isinstance(value, bytes) else json.dumps(value).encode()
                with outer.lock:
                    outer.at_once -= self.command == "POST"
                self.send_response(status)
                for name, text in headers:
                    self.send_header(name, text)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def chat(content, finish="stop", usage=None, **message):
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": usage or {"prompt_tokens": 3, "completion_tokens": 10}}


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def connect(server, *, batch_size=2, model="tiny", **options):
    options = {"base_url": server.url, "first_wait_seconds": 0.01, "retries": 3, **options}
    return open_engine(EngineConfig(model=model, engine="openai", batch_size=batch_size, options=options))


def ask(name="p", **knobs):
    return Request(name, messages=(Message("user", "hi"),), sampling=Sampling(**knobs))


def one(engine, request=None):
    (trace,) = engine.generate([request or ask()])
    return trace


def test_keeps_the_protocol_and_knows_its_limits(server):
    engine = connect(server)
    assert isinstance(engine, Engine)
    assert engine.capabilities == {"generate"}
    with pytest.raises(BadInput, match="no tokenizer"):
        engine.encode("x")
    with pytest.raises(BadInput, match="only vLLM servers"):
        engine.score([([1], [2])])


def test_body_holds_only_what_was_asked(server):
    one(connect(server), ask(max_tokens=7))
    one(connect(server), ask(temperature=0.5, seed=3, top_k=4, stop=("x",)))
    (path, plain), (_, rich) = server.seen
    assert path == "/v1/chat/completions"
    assert plain == {
        "model": "tiny", "max_tokens": 7, "temperature": 0.0, "top_p": 1.0,
        "messages": [{"role": "user", "content": "hi"}],
    }  # fmt: skip
    assert (rich["seed"], rich["top_k"], rich["stop"]) == (3, 4, ["x"])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_tries_again(server, status):
    server.script = [(status, {"error": {"message": "busy"}}), (status, {}), chat("fine")]
    assert one(connect(server)).text == "fine"
    assert len(server.seen) == 3


def test_waits_as_long_as_the_server_asks(server):
    server.script = [(429, {}, [("retry-after", "0.4")]), chat("fine")]
    started = time.perf_counter()
    one(connect(server))
    assert time.perf_counter() - started >= 0.4


def test_one_bad_request_harms_nobody(server):
    server.script = [(400, {"error": {"message": "too long"}}), chat("fine")]
    traces = list(connect(server, batch_size=1).generate([ask("bad"), ask("good")]))
    assert [(t.problem_id, t.finish) for t in traces] == [("bad", "error"), ("good", "stop")]
    assert "too long" in traces[0].error and len(server.seen) == 2


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [(b"<html>", "not JSON"), ([1], "object is expected"), ({"choices": []}, "no usable choice"), ({}, "no usable")],
)
def test_useless_answers_are_error_traces(server, answer, complaint):
    server.script = [(200, answer)]
    trace = one(connect(server))
    assert trace.finish == "error" and complaint in trace.error


def test_an_error_that_stays_is_an_error_trace(server):
    server.script = [(500, {"error": {"message": "cuda"}})] * 4
    trace = one(connect(server))
    assert trace.finish == "error" and "cuda" in trace.error


def test_too_many_requests_without_end(server):
    server.script = [(429, {})] * 4
    with pytest.raises(EngineError, match="lower batch_size"):
        one(connect(server))


def test_a_silent_server_times_out(server):
    server.script = [(200, lambda: time.sleep(1.0) or {})] * 2
    trace = one(connect(server, timeout_seconds=0.1, retries=1))
    assert trace.finish == "error" and "no answer within 0.1 s" in trace.error


def test_finished_traces_survive_the_servers_death(server):
    engine, seen = connect(server, batch_size=1, retries=1), []
    traces = engine.generate([ask("a"), ask("b")], on_trace=seen.append)
    next(traces)
    server.close()
    with pytest.raises(EngineError, match="no server answers"):
        list(traces)
    assert [t.problem_id for t in seen] == ["a"]


def test_answers_that_came_in_before_a_fatal_error_was_read_are_not_lost(server):
    def after(seconds, value):
        return lambda: time.sleep(seconds) or value

    server.script = [(200, chat("one")), (429, after(0.2, {})), (200, after(0.4, chat("two")))]
    traces = connect(server, batch_size=3, retries=0).generate(ask(name) for name in "abc")
    found = [next(traces).text]
    time.sleep(1.0)
    with pytest.raises(EngineError, match="lower batch_size"):
        for trace in traces:
            found.append(trace.text)
    assert found == ["one", "two"]


def test_concurrency_is_bounded_and_used(server):
    server.script = [(200, lambda: time.sleep(0.05) or chat("x")) for _ in range(12)]
    assert len(list(connect(server, batch_size=3).generate(ask(f"p{i}") for i in range(12)))) == 12
    assert server.most_at_once == 3


def test_nobody_listens():
    config = EngineConfig(model="tiny", engine="openai", options={"base_url": "http://127.0.0.1:9/v1", "retries": 0})
    with pytest.raises(EngineError, match="no server answers"):
        open_engine(config)


def test_wrong_model_lists_the_served(server):
    with pytest.raises(BadInput, match="does not serve 'huge'; it serves tiny"):
        connect(server, model="huge")


def test_wrong_key_and_right_key(server, monkeypatch):
    server.key = "secret"
    with pytest.raises(BadInput, match="api_key"):
        connect(server, api_key="guess")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert one(connect(server)).text == "fine"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"base_url": "ftp://x"}, "expected http"), ({"retries": "many"}, "not a number"), ({"retry": 1}, "retries"),
     ({"tokenizer": "/nowhere"}, "expected a folder")],
)  # fmt: skip
def test_bad_options(server, options, complaint):
    with pytest.raises(BadInput, match=complaint):
        connect(server, **options)


USAGE = {"prompt_tokens": 3, "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 7}}


@pytest.mark.parametrize(
    ("answer", "thinking", "text", "counts"),
    [
        (chat("fine"), None, "fine", (0, 10)),
        (chat("<think>abc</think>d"), "abc", "d", (8, 2)),
        (chat("abc</think>d"), "abc", "d", (8, 2)),
        (chat("<think>abc", finish="length"), "abc", "", (10, 0)),
        (chat("d", reasoning_content="abc", usage=USAGE), "abc", "d", (7, 3)),
        (chat("d", reasoning="abc"), "abc", "d", (8, 2)),
        (chat(None, reasoning="abc", finish="length"), "abc", "", (10, 0)),
    ],
)
def test_split_without_ids_or_tokenizer_counts_by_usage(server, answer, thinking, text, counts):
    server.script = [answer]
    trace = one(connect(server))
    assert (trace.thinking, trace.answer_text) == (thinking, text)
    assert (trace.n_thinking_tokens, trace.n_answer_tokens) == counts
    assert trace.provenance["counted"] == "usage" and trace.n_prompt_tokens == 3


@pytest.mark.parametrize(
    ("answer", "thinking", "text", "counts"),
    [
        (chat("fine"), None, "fine", (0, 4)),
        (chat("<think>abc</think>de"), "abc", "de", (5, 2)),
        (chat("de", reasoning_content="abc"), "abc", "de", (5, 2)),
        (chat(None, reasoning_content="abc", finish="length"), "abc", "", (4, 0)),
    ],
)
def test_a_local_tokenizer_counts(server, random_model, answer, thinking, text, counts):
    server.script = [answer]
    trace = one(connect(server, tokenizer=str(random_model)))
    assert (trace.thinking, trace.answer_text) == (thinking, text)
    assert (trace.n_thinking_tokens, trace.n_answer_tokens) == counts
    assert trace.provenance["counted"] == "tokenizer" and trace.token_ids is None


def test_prefill_goes_out_as_ids(server, random_model):
    engine = connect(server, tokenizer=str(random_model))
    assert engine.capabilities == {"generate", "prefill"}
    server.script = [{"choices": [{"text": "d", "finish_reason": "stop"}], "usage": {}}]
    request = Request("p", messages=(Message("user", "q"),), prefill_ids=tuple(engine.encode("abc")))
    trace = one(engine, request)
    path, body = server.seen[0]
    assert path == "/v1/completions" and body["prompt"] == engine.prompt_ids(request)
    assert (trace.text, trace.n_answer_tokens) == ("abcd", 4)


def test_prefill_without_tokenizer_is_an_error_trace(server):
    trace = one(connect(server), Request("p", messages=(Message("user", "q"),), prefill_ids=(1,)))
    assert trace.finish == "error" and "tokenizer=FOLDER" in trace.error
