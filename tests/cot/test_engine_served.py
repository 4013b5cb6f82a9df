"""The openai engine against vLLM's own server, started here on a free port with the embedded reasoner."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from cot.engine import EngineConfig
from cot.engines import open_engine
from eval_math.errors import BadInput
from eval_math.records import Message, Request, Sampling

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
START_SECONDS = 300


def ready(url, process):
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        assert process.poll() is None, f"the server ended with code {process.returncode}"
        return False


@pytest.fixture(scope="module")
def url(embedded_model, tmp_path_factory):
    pytest.importorskip("vllm", reason="vllm is not installed: its server is not tested")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(embedded_model)]
    command += ["--enforce-eager", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-num-seqs", "16", "--kv-cache-memory-bytes", str(2**28)]
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}/v1", time.monotonic() + START_SECONDS
    try:
        while not ready(url, process):
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def served(url):
    return open_engine(EngineConfig(model="embedded", engine="openai", batch_size=16, options={"base_url": url}))


def ask(name, question, *, template=None, prefill=(), **knobs):
    sampling = Sampling(**{"max_tokens": 700, **knobs})
    return Request(
        name, messages=(Message("user", question),), sampling=sampling, template=template or {}, prefill_ids=prefill
    )


def run(engine, requests):
    return {t.problem_id: t for t in engine.generate(requests)}


def test_traces_equal_those_of_the_engine_in_this_process(served, vllm_embedded, questions):
    q = questions[0]
    requests = [ask(f"p{i}", question) for i, question in enumerate(questions[:20])]
    requests += [
        ask("short", q, max_tokens=7),
        ask("no thinking", q, template={"enable_thinking": False}),
        ask("until the end of thinking", q, stop_at_think_end=True),
        ask("stop string", q, stop=(".", "zzz")),
        ask("prefilled", q, prefill=tuple(served.encode("First"))),
        ask("sampled", q, temperature=0.8, seed=5, max_tokens=40),
        Request("ids", prompt_ids=tuple(served.prompt_ids(ask("x", q))), sampling=Sampling(max_tokens=20)),
        Request("too long", prompt_ids=(5,) * 100_000),
    ]
    ours, theirs = run(served, requests), run(vllm_embedded, requests)
    for request in requests:
        mine, other = ours[request.problem_id], theirs[request.problem_id]
        assert replace(mine, seconds=0, provenance={}) == replace(other, seconds=0, provenance={}), request.problem_id
    assert {t.provenance.get("counted") for t in ours.values() if t.finish != "error"} == {"ids"}


def test_scores_equal_those_of_the_engine_in_this_process(served, vllm_embedded):
    items = [([1, 2, 3], [4, 5]), ([9], list(range(30))), ([5, 6], [])]
    for mine, other in zip(served.score(items), vllm_embedded.score(items), strict=True):
        assert mine == pytest.approx(other, abs=1e-3)


def test_another_model_is_refused_with_the_served_one(url, embedded_model):
    with pytest.raises(BadInput, match=str(embedded_model)):
        open_engine(EngineConfig(model="gpt", engine="openai", options={"base_url": url}))
