"""`rlkv` as a method on the embedded reasoner: equal to its oracle under continuous batching, undone, refused."""

from __future__ import annotations

import pytest

from cot.benchmarks import load
from cot.chat import model_hash, resolve_model
from cot.engine import EngineConfig
from cot.engines import open_engine
from cot.method import require
from cot.methods import parse_method
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Request, Sampling
from rl.head_table import HeadTable, random_table, save_table

pytestmark = pytest.mark.usefixtures("one_thread")
WINDOW = "sink=4,recent=16"


@pytest.fixture(scope="module")
def engine():
    opened = open_engine(EngineConfig("embedded", "hf", batch_size=4, dtype="float32"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def requests():
    """More than fit at once, so that rows leave and others join."""
    return [Request(p.id, 0, prompt(p), sampling=Sampling(max_tokens=160)) for p in load("embedded", limit=11)]


def answers(engine, requests, spec):
    method = parse_method(spec)
    require(method, engine)
    with method.attach(engine):
        return {trace.problem_id: trace for trace in method.drive(engine, requests)}


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 1.0])
def test_ids_are_those_of_masks_over_everything(engine, requests, sparsity):
    spec = f"rlkv:table=random:1,sparsity={sparsity},{WINDOW}"
    found, wanted = answers(engine, requests, spec), answers(engine, requests, spec + ",reference=true")
    assert {name: trace.token_ids for name, trace in found.items()} == {
        name: trace.token_ids for name, trace in wanted.items()
    }
    held = [trace.provenance["kv_bytes"] for trace in found.values()]
    token = 2 * 4 * 4 * 64 * 4
    longest = max(trace.n_prompt_tokens + len(trace.token_ids) for trace in found.values())
    # Rows of a batch carry columns of padding along.
    assert max(held) <= token * ((1 - sparsity) * (longest + 64) + sparsity * 20)
    assert "kv_bytes" not in next(iter(wanted.values())).provenance


def test_no_windowed_heads_change_nothing_and_the_engine_is_as_before(engine, requests):
    before = answers(engine, requests, "none")
    found = answers(engine, requests, "rlkv:table=random:0,sparsity=0")
    after = answers(engine, requests, "none")
    for traces in (found, after):
        assert {n: t.token_ids for n, t in traces.items()} == {n: t.token_ids for n, t in before.items()}
    assert "kv_bytes" not in next(iter(after.values())).provenance


def test_a_table_must_be_of_this_model(engine, tmp_path):
    own = {"model": "embedded", "model_hash": model_hash(resolve_model("embedded"))}
    scores = random_table((4, 4), 0).scores
    save_table(HeadTable(scores, "rlkv", own), tmp_path / "own.safetensors")
    parse_method(f"rlkv:table={tmp_path}/own.safetensors").check(engine)
    save_table(HeadTable(scores, "rlkv", {**own, "model_hash": "x"}), tmp_path / "other.safetensors")
    for table, message in (("other.safetensors", "weights are others"), ("none.tsv", "no such head table")):
        with pytest.raises(BadInput, match=message):
            parse_method(f"rlkv:table={tmp_path}/{table}").check(engine)
    save_table(random_table((2, 4), 0), tmp_path / "small.tsv")
    with pytest.raises(BadInput, match="the model has"):
        parse_method(f"rlkv:table={tmp_path}/small.tsv").check(engine)


def test_the_fingerprint_follows_the_scores(tmp_path):
    path = tmp_path / "t.tsv"
    save_table(random_table((4, 4), 0), path)
    method = parse_method(f"rlkv:table={path}")
    first = method.fingerprint()
    save_table(random_table((4, 4), 1), path)
    assert method.fingerprint() != first
    assert parse_method(f"rlkv:table=inverted:{path}").fingerprint() != method.fingerprint()
