"""The steered server: real vLLM over HTTP against transformers steered in this process, asked by the openai client."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cot.benchmarks import load
from cot.engine import EngineConfig
from cot.engines import open_engine
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Message, Request, Sampling
from steering.application import Steering, steer
from steering.serving import Served, make_plan, server_arguments
from steering.vector import SteeringVector, VectorInfo, load_vector, save_vector

START_SECONDS = 300
SETTINGS = [{}, {"steer_scale": 0}, {"steer_scale": -0.7}, {"steer_vector": "other"}, {"steer_scale": 0.6}]
SERVE = """
import sys
from laconic_cli.command import parse
from laconic_cli.steer_serve import SteerServe, run
if __name__ == "__main__":
    sys.exit(run(parse(SteerServe, sys.argv[1:], prog="laconic steer serve")))
"""


def served(test):
    return pytest.mark.vllm(pytest.mark.slow(test))


# Vectors and flags


@pytest.fixture(scope="module")
def folder() -> Path:
    from cot.embedded import embedded_model_path

    try:
        return embedded_model_path()
    except FileNotFoundError as error:
        pytest.skip(f"the embedded reasoner is not built: {error}")


@pytest.fixture(scope="module")
def hf(folder):
    torch.set_num_threads(1)
    engine = open_engine(EngineConfig(str(folder), "hf", dtype="float32", batch_size=8))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def vectors(hf, tmp_path_factory):
    """Two random vectors at different blocks, large enough to change greedy tokens; files and steps by name."""
    from steering.capture import Reading, Text, read_states
    from steering.sites import model_shape

    ids, shape = tuple(hf.encode("Tom has 3 apples.")), hf.apply_model(model_shape)
    norms = hf.apply_model(lambda m: read_states(m, Reading([Text(ids, (len(ids) - 1,))], (1, 2), 64))).norms
    root, words, steps = tmp_path_factory.mktemp("vectors"), [], {}
    for name, block in (("main", 2), ("other", 1)):
        drawn = torch.randn(shape.hidden_size, generator=torch.Generator().manual_seed(block))
        vector = SteeringVector(
            {block: drawn * (0.5 * float(norms[block][0]) / drawn.norm())},
            VectorInfo(str(folder), "llama", shape.hidden_size, shape.num_layers, (block,), (block,), gamma=1.6),
        )
        save_vector(vector, root / f"{name}.safetensors")
        words.append(f"{name}={root / name}.safetensors")
        steps[name] = (block, vector.step(block, 1.6))
    return SimpleNamespace(words=words, steps=steps, root=root)


def test_a_plan_holds_every_vector_at_its_own_strength(vectors, folder):
    plan = make_plan(Served((vectors.words[0].partition("=")[2], vectors.words[1])), folder)
    steering = plan.steering()
    for name, (block, step) in vectors.steps.items():
        assert torch.equal(steering.vectors[name][block], step)
        assert not steering.vectors[name][3 - block].any()
    assert steering.steps is steering.vectors["main"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no vector"),
        (("=x.safetensors",), "name=FILE"),
        (("/nonexistent.safetensors",), "no such file"),
        (("twice", "twice"), "called 'main'"),
        (("narrow",), "hidden_size"),
        (("weak",), "names no strength"),
    ],
)
def test_vectors_that_cannot_be_served_are_refused_before_anything_starts(words, said, vectors, folder):
    main = vectors.words[0]
    save_vector(
        SteeringVector({1: torch.ones(6)}, VectorInfo("m", "llama", 6, 4, (1,), (1,), gamma=1.0)), vectors.root / "n"
    )
    save_vector(SteeringVector({1: torch.ones(192)}, VectorInfo("m", "llama", 192, 4, (1,), (1,))), vectors.root / "w")
    known = {"twice": main, "narrow": str(vectors.root / "n"), "weak": str(vectors.root / "w")}
    with pytest.raises(BadInput, match=said):
        make_plan(Served(tuple(known.get(word, word) for word in words)), folder)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--no-enforce-eager",), "compiled"),
        (("--async-scheduling",), "hooks must see"),
        (("--model", "x"), "own --model"),
        (("-dp", "2"), "per replica"),
        (("-pp", "2"), "every worker"),
        (("--api-server-count", "2"), "one process"),
        (("--worker-extension-cls", "x.Y"), "hooks come from"),
    ],
)
def test_flags_that_rule_steering_out_are_refused(flags, said, folder):
    pytest.importorskip("vllm", reason="vLLM is not installed: its flags are not tested")
    with pytest.raises(BadInput, match=said):
        server_arguments(Served(("v",), flags=flags), folder)


# With a server


def ready(url, process):
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        assert process.poll() is None, f"the server ended with code {process.returncode}"
        return False


@pytest.fixture(scope="module")
def url(vectors, tmp_path_factory):
    pytest.importorskip("vllm", reason="vLLM is not installed: the steered server is not tested")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, *(part for word in vectors.words for part in ("--vector", word))]
    command += ["--port", str(port), "--", "--max-num-seqs", "16", "--kv-cache-memory-bytes", str(2**28)]
    command += ["--dtype", "float32", "--enable-prompt-tokens-details", "--max-num-batched-tokens", "192"]
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}/v1", time.monotonic() + START_SECONDS
    try:
        while not ready(url, process):
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def client(url):
    openai = pytest.importorskip("openai", reason="the openai client is not installed: the server is not tested")
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def complete(client, ids, asked, max_tokens=64, **more):
    """Greedy tokens and their log-probabilities after prompt ids."""
    xargs = {"vllm_xargs": asked} if asked else {}
    answer = client.completions.create(
        model="embedded", prompt=list(ids), max_tokens=max_tokens, temperature=0, logprobs=0,
        extra_body={"return_token_ids": True, "skip_special_tokens": False} | xargs | more,
    )  # fmt: skip
    choice = answer.choices[0]
    cached = answer.usage.prompt_tokens_details.cached_tokens
    return SimpleNamespace(ids=choice.token_ids, logprobs=choice.logprobs.token_logprobs, cached=cached)


def at_once(jobs):
    with ThreadPoolExecutor(16) as pool:
        return [future.result() for future in [pool.submit(*job) for job in jobs]]


def report(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/steering", timeout=10) as answer:
        return json.load(answer)


def asked_of(count, max_tokens=64):
    problems = load("embedded", split="dev", limit=count)
    return [Request(p.id, messages=prompt(p), sampling=Sampling(max_tokens=max_tokens)) for p in problems]


def as_asked(vectors, asked, until="end_of_think"):
    block, step = vectors.steps[asked.get("steer_vector", "main")]
    return Steering({block: asked.get("steer_scale", 1.0) * step}, until=until)


def farthest(a, b):
    return max(abs(x - y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


@served
def test_scales_and_vectors_in_one_batch_are_those_of_transformers(client, hf, vectors, url):
    """16 answers of 64 tokens at once; the unsteered reference is far from every steered one."""
    requests = asked_of(3)
    prompts = [hf.prompt_ids(request) for request in requests]
    found = at_once([(complete, client, ids, asked) for asked in SETTINGS for ids in prompts])
    said = set()
    for place, asked in enumerate(SETTINGS):
        answers = found[place * len(prompts) : (place + 1) * len(prompts)]
        with steer(hf, as_asked(vectors, asked)):
            traces = {trace.problem_id: trace for trace in hf.generate(requests)}
            items = [(ids, answer.ids) for ids, answer in zip(prompts, answers, strict=True)]
            reference = hf.score(items)
        assert [list(traces[r.problem_id].token_ids) for r in requests] == [answer.ids for answer in answers]
        error = farthest(reference, [answer.logprobs for answer in answers])
        effect = farthest(reference, hf.score(items))
        print(f"{asked}: error {error:.1e}, effect {effect:.1e} nats")
        assert error < 1e-4
        assert effect == 0 if asked.get("steer_scale") == 0 else effect > 100 * error
        said.add(tuple(answers[0].ids))
    told = report(url)
    assert len(said) >= 3 and told["missed_positions"] == 0
    assert told["default_vector"] == "main" and told["default_scale"] == 1.0
    for name, word in zip(("main", "other"), vectors.words, strict=True):
        vector = load_vector(Path(word.partition("=")[2]))
        assert told["vectors"][name]["digest"] == vector.digest() and told["vectors"][name]["strength"] == 1.6


@served
def test_steering_ends_with_thinking_and_positions_are_counted(client, hf, vectors, url):
    short = Request("short", messages=(Message("user", "Ann has 5 pens. She buys 7."),))
    ids, asked, before = hf.prompt_ids(short), {"steer_scale": 0.6}, report(url)
    answer = complete(client, ids, asked, 200, ignore_eos=True)
    end = answer.ids.index(hf.encode("</think>")[0]) + 1
    assert len(answer.ids) > end + 3
    after = report(url)
    assert after["steered_positions"] - before["steered_positions"] == end
    assert after["by_vector"]["main"] - before["by_vector"]["main"] == end
    assert after["steered_requests"] - before["steered_requests"] == 1 and after["missed_positions"] == 0
    assert after["held_requests"] == 1, "finished requests are forgotten"
    found = {}
    for until in ("end_of_think", "eos"):
        with steer(hf, as_asked(vectors, asked, until)):
            found[until] = hf.score([(ids, answer.ids)])
    error, control = farthest(found["end_of_think"], [answer.logprobs]), farthest(found["eos"], [answer.logprobs])
    assert error < 1e-4 and control > 100 * error


@served
def test_streams_say_what_whole_answers_say(client):
    asked = {"model": "embedded", "messages": [{"role": "user", "content": "Ann has 5 pens. She buys 7."}]}
    asked |= {"temperature": 0, "max_tokens": 48, "extra_body": {"vllm_xargs": {"steer_scale": 1.2}}}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **asked)]
    asked["extra_body"] = {"vllm_xargs": {"steer_scale": 0}}
    assert "".join(pieces) == whole != client.chat.completions.create(**asked).choices[0].message.content
    assert len(pieces) > 10


@served
def test_a_bad_request_is_refused_alone(client, hf, url):
    """Bad ones among good ones, chat and streams too; the good ones say what they say by themselves."""
    import openai

    ids = hf.prompt_ids(asked_of(1)[0])
    alone = complete(client, ids, {"steer_scale": 0.9}, 40).ids

    def chat(asked, stream):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="embedded", messages=[{"role": "user", "content": "Hi"}], stream=stream,
                extra_body={"vllm_xargs": asked},
            )  # fmt: skip
        return str(caught.value)

    bad = [{"steer_scale": "much"}, {"steer_scale": True}, {"steer_vector": "nosuch"}, {"steer_strength": 1}]
    jobs = [(complete, client, ids, {"steer_scale": 0.9}, 40) for _ in range(4)]
    jobs += [(chat, asked, stream) for asked in bad for stream in (False, True)]
    found = at_once(jobs)
    assert all(answer.ids == alone for answer in found[:4])
    assert all("steer_" in text for text in found[4:])
    raw = b'{"model": "embedded", "prompt": "Hi", "vllm_xargs": {"steer_scale": NaN}}'
    request = urllib.request.Request(f"{url}/completions", raw, {"content-type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=30)


@served
def test_cached_prefixes_serve_equal_steering_only(client, hf):
    """A prompt of hundreds of tokens whose end is a started, steered output, at three scales one after the other."""
    ids = hf.encode("Okay, let me think. 3+4=7. " * 40)
    settings = [{"steer_prefill": len(ids) - 20, "steer_scale": scale} for scale in (1.0, 0, -0.7, 1.0)]
    after = [complete(client, ids, asked, 24) for asked in settings]
    alone = [complete(client, ids, asked, 24, cache_salt=f"alone {i}") for i, asked in enumerate(settings)]
    assert [a.ids for a in after] == [a.ids for a in alone]
    assert farthest([a.logprobs for a in after], [a.logprobs for a in alone]) < 1e-4
    assert [a.cached > 0 for a in after] == [False, False, False, True], "only the repeated steering finds its prefix"
    assert len({tuple(a.ids) for a in alone}) == 3


@served
def test_what_a_steered_output_left_behind_is_not_read_unsteered(client, hf):
    ids = hf.prompt_ids(asked_of(1)[0])
    longer = [*ids, *complete(client, ids, {}, 200, ignore_eos=True).ids, *hf.encode(" Ann has 5 pens. First, 7")]
    after = complete(client, longer, {"steer_scale": 0}, 24)
    alone = complete(client, longer, {"steer_scale": 0}, 24, cache_salt="alone")
    assert after.ids == alone.ids and farthest([after.logprobs], [alone.logprobs]) < 1e-4
    assert complete(client, longer, {}, 1).cached > 0, "control: it is in the cache"


@served
def test_the_openai_engine_passes_a_requests_steering_on(hf, vectors, url):
    from dataclasses import replace

    engine = open_engine(EngineConfig(model="embedded", engine="openai", batch_size=8, options={"base_url": url}))
    plain = asked_of(2)
    asked = [replace(r, extras=extras) for r in plain for extras in SETTINGS[:4]]
    asked += [replace(plain[0], prefill_ids=tuple(hf.encode("So 3+4=7. Wait")), extras={"steer_scale": 0.6})]
    asked = [replace(request, problem_id=str(place)) for place, request in enumerate(asked)]
    main, other = ({block: torch.zeros(192)} | {} for block in (2, 1))
    named = {name: main | other | {block: step} for name, (block, step) in vectors.steps.items()}
    with steer(hf, Steering(named["main"], vectors=named)):
        expected = {trace.problem_id: trace.token_ids for trace in hf.generate(asked)}
    assert {trace.problem_id: trace.token_ids for trace in engine.generate(asked)} == expected
    (wrong,) = engine.generate([replace(plain[0], extras={"steer_vector": "nosuch"})])
    assert wrong.finish == "error" and "main, other" in (wrong.error or "")
