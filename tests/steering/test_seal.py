"""SEAL: thoughts cut and sorted, the direction out of a run folder, the gated method, and vectors added up."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from cot.evaluate import EvalConfig, evaluate_into
from cot.method import Method
from cot.methods import parse_method
from eval_math.errors import BadInput
from steering.asc import Asc
from steering.seal import Seal, SealRecipe, cut_thoughts, extract_seal, sort_thought
from steering.sums import parse_sum
from steering.vector import load_vector, save_vector


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("So 3+4=7.", "execution"),
        ("Wait, is that so?", "reflection"),
        ("Let me verify this.", "reflection"),
        ("Alternatively, add 4 first.", "transition"),
        ("Wait, another way is to count.", "reflection"),
    ],
)
def test_thoughts_are_sorted_by_their_words(text, kind):
    assert sort_thought(text) == kind


def test_a_thought_stands_at_the_break_token_before_it():
    words = {1: "Okay", 2: ".", 3: " So 3+4=7", 4: " Wait, again", 5: " "}

    def decode(ids):
        return "".join(words[token] for token in ids)

    found = cut_thoughts([1, 2, 3, 2, 5, 2, 4], frozenset({2}), decode, SealRecipe())
    assert [(t.opened_at, t.text, t.kind) for t in found] == [
        (1, "So 3+4=7", "execution"),
        (5, "Wait, again", "reflection"),
    ]


@pytest.fixture(scope="module")
def reasoner():
    from cot.embedded import embedded_model_path
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    try:
        embedded_model_path()
    except FileNotFoundError as error:
        pytest.skip(f"the embedded reasoner is not built: {error}")
    engine = open_engine(EngineConfig("embedded", "hf", batch_size=16))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def run(reasoner, tmp_path_factory):
    from cot.benchmarks import load

    folder = tmp_path_factory.mktemp("seal") / "run"
    evaluate_into(folder, load("embedded", split="train", limit=12), Method(), reasoner, EvalConfig("embedded"))
    return folder


def test_the_vector_is_the_difference_of_means_at_break_tokens(reasoner, run):
    """Against the states read one trace at a time, without the library's reader."""
    from eval_math.files import read_records
    from eval_math.prompts import prompt
    from eval_math.records import Grade, Problem, Request, Trace

    vector = extract_seal(reasoner, [run], SealRecipe((2,), ".", longest=1.0))
    problems = {p.id: p for p in read_records(Problem, run / "problems.jsonl")}
    correct = {g.problem_id for g in read_records(Grade, run / "grades.jsonl") if g.status == "correct"}
    states = {True: [], False: []}
    dots = {t for t in reasoner._desk.chat.tokenizer.get_vocab().values() if "." in reasoner._desk.chat.decode([t])}
    for trace in read_records(Trace, run / "traces.jsonl"):
        if trace.problem_id not in correct:
            continue
        before = reasoner.prompt_ids(Request("x", messages=prompt(problems[trace.problem_id])))
        ids = [*before, *trace.token_ids[: trace.n_thinking_tokens]]
        with torch.no_grad():
            hidden = reasoner.apply_model(
                lambda m, ids=ids: m(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0]
            )
        places = [at for at in range(len(before), len(ids) - 1) if ids[at] in dots] + [len(ids) - 1]
        for start, stop in pairwise(places):
            text = reasoner._desk.chat.decode(ids[start + 1 : stop]).strip()
            if text:
                states[sort_thought(text) == "execution"].append(hidden[start])
    expected = torch.stack(states[True]).mean(0) - torch.stack(states[False]).mean(0)
    torch.testing.assert_close(vector.directions[2], expected, atol=1e-4, rtol=1e-4)
    assert int(vector.info.extra["n_execution"]) == len(states[True])


def test_the_method_steers_at_the_file_s_boundary_only(reasoner, run, tmp_path):
    from eval_math.files import read_records
    from eval_math.prompts import prompt
    from eval_math.records import Problem, Request, Sampling

    path = tmp_path / "seal.safetensors"
    save_vector(extract_seal(reasoner, [run], SealRecipe((2,), ".")), path)
    method = parse_method(f"seal:vector={path},strength=2")
    assert method == Seal(str(path), strength=2.0) and method.fingerprint()["gate"] == ["."]
    asked = [
        Request(p.id, messages=prompt(p), sampling=Sampling(max_tokens=48))
        for p in list(read_records(Problem, run / "problems.jsonl"))[:4]
    ]
    with method.attach(reasoner) as count:
        traces = list(reasoner.generate(asked))
    assert count.mismatches(traces) == {} and 0 < count.steered < sum(t.n_tokens for t in traces) / 2


def test_a_boundary_that_traces_lack_is_refused(reasoner, run):
    with pytest.raises(BadInput, match=r"no token of|another --boundary"):
        extract_seal(reasoner, [run], SealRecipe((2,)))


def test_vectors_are_added_up(small_vector, tmp_path):
    other = replace(small_vector, directions={b: 2 * d.flip(0) for b, d in small_vector.directions.items()})
    paths = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    for vector, path in zip((small_vector, other), paths, strict=True):
        save_vector(vector, Path(path))
    method = Asc(f"{paths[0]}*0.5;{paths[1]}*-1")
    total = method._load()
    for block, direction in small_vector.directions.items():
        torch.testing.assert_close(total.step(block, 1.0), 0.5 * direction - other.directions[block])
    assert method.fingerprint()["strength"] == 1.0 and method.fingerprint()["blocks"] == [1, 3]
    assert method.label() == "asc:vector=a*0.5;b*-1"
    own = Asc(f"{paths[0]};{paths[1]}*0")._load()
    torch.testing.assert_close(own.directions[1], load_vector(tmp_path / "a.safetensors").step(1, 0.1 + 0.2))
    assert Asc(f"{paths[0]}*1;{paths[1]}*0").fingerprint() != method.fingerprint()


def test_vectors_that_do_not_fit_each_other_are_refused(small_vector, tmp_path):
    save_vector(small_vector, tmp_path / "a")
    wide = {b: torch.ones(8) for b in small_vector.directions}
    save_vector(replace(small_vector, directions=wide, info=replace(small_vector.info, hidden_size=8)), tmp_path / "w")
    save_vector(replace(small_vector, info=replace(small_vector.info, apply_layers=(1,))), tmp_path / "one")
    for name, said in (("w", "hidden_size: 6 and 8"), ("one", "apply_layers")):
        with pytest.raises(BadInput, match=said):
            Asc(f"{tmp_path / 'a'};{tmp_path / name}").fingerprint()
    with pytest.raises(BadInput, match="is no number"):
        parse_sum("a*much")
