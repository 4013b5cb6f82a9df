"""The method: defaults from the file, null directions, a fingerprint by content, refusals at start."""

import json
from dataclasses import replace

import pytest
import torch

from cot.evaluate import EvalConfig, evaluate_into
from cot.methods import parse_method
from eval_math.errors import BadInput
from eval_math.records import Problem
from steering.asc import Asc
from steering.sites import ModelShape, parse_blocks
from steering.vector import SteeringVector, VectorInfo, load_vector, save_vector

WIDTH, LAYERS = 64, 4


@pytest.fixture
def vector():
    directions = {b: 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(b)) / 8 for b in (1, 2)}
    return SteeringVector(
        directions, VectorInfo("m", "x", WIDTH, LAYERS, (2,), (1, 2), gamma=2.0), resid_norm={1: 1.0, 2: 2.0}
    )


@pytest.fixture
def path(vector, tmp_path):
    save_vector(vector, tmp_path / "v.safetensors")
    return str(tmp_path / "v.safetensors")


def scores(engine):
    return engine.score([(engine.encode("abc"), engine.encode("defg"))])[0]


def added(engine, method, block):
    """What the method adds to the block's output at the last of some prompt tokens."""
    ids, states = engine.encode("some text"), []
    model = engine.apply_model(lambda m: m)
    handle = model.model.layers[block].register_forward_hook(lambda m, a, o: states.append(o[0, 4].clone()))
    plain = engine.score([(ids[:5], ids[5:])]) and states[-1]
    handle.remove()
    with method.attach(engine):
        handle = model.model.layers[block].register_forward_hook(lambda m, a, o: states.append(o[0, 4].clone()))
        engine.score([(ids[:5], ids[5:])])
        handle.remove()
    return states[-1] - plain


def test_block_and_strength_come_from_the_file_unless_given(engine, vector, path):
    def close(a, b):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)

    close(added(engine, Asc(path), 2), 2.0 * vector.directions[2])
    close(added(engine, Asc(path, block=1, strength=0.5), 1), 0.5 * vector.directions[1])
    close(added(engine, Asc(path, direction="negative"), 2), -2.0 * vector.directions[2])
    random = added(engine, Asc(path, direction="random"), 2)
    assert random.norm() == pytest.approx(float(2 * vector.directions[2].norm()), rel=1e-4)
    assert abs(float(torch.cosine_similarity(random, vector.directions[2], dim=0))) < 0.5
    close(added(engine, Asc(path, direction="random"), 2), random)
    assert (added(engine, Asc(path, direction="random", seed=1), 2) - random).norm() > 1


def test_engine_is_as_before(engine, path):
    before = scores(engine)
    with Asc(path).attach(engine):
        assert scores(engine) != before
    assert scores(engine) == before


def test_fingerprint_follows_content_not_path(vector, path, tmp_path):
    copy = tmp_path / "other name.safetensors"
    save_vector(vector, copy)
    assert Asc(path).fingerprint() == Asc(str(copy)).fingerprint() == Asc(path, block=2, strength=2.0).fingerprint()
    assert json.loads(json.dumps(Asc(path).fingerprint())) == Asc(path).fingerprint()
    first = Asc(str(copy)).fingerprint()
    save_vector(replace(vector, directions={b: d + 0.01 for b, d in vector.directions.items()}), copy)
    assert Asc(str(copy)).fingerprint() != first
    for other in ({"block": 1}, {"strength": 1.0}, {"prompt": "all"}, {"until": "eos"}, {"direction": "negative"}):
        assert Asc(path, **other).fingerprint() != Asc(path).fingerprint()
    assert Asc(path, seed=1).fingerprint() == Asc(path).fingerprint()
    assert Asc(path, direction="random", seed=1).fingerprint() != Asc(path, direction="random").fingerprint()


def test_specification_and_label(path):
    method = parse_method(f"asc:vector={path},strength=0.5,until=eos")
    assert method == Asc(path, strength=0.5, until="eos") and method.label() == "asc:vector=v,strength=0.5,until=eos"
    with pytest.raises(BadInput, match="vector"):
        parse_method("asc")


@pytest.mark.parametrize("wrong", [{"prompt": "first"}, {"until": "noon"}, {"direction": "up"}])
def test_unknown_choices_are_refused(path, wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Asc(path, **wrong)


def test_unusable_files_are_refused(engine, vector, tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        Asc(str(tmp_path / "none.safetensors")).fingerprint()
    wide = {b: torch.ones(WIDTH + 2) for b in (1, 2)}
    save_vector(replace(vector, directions=wide, info=replace(vector.info, hidden_size=WIDTH + 2)), tmp_path / "wide")
    with pytest.raises(BadInput, match="hidden_size 66, this model has 64"), Asc(str(tmp_path / "wide")).attach(engine):
        pass
    save_vector(replace(vector, info=replace(vector.info, gamma=None)), tmp_path / "untuned")
    with pytest.raises(BadInput, match="names no strength"):
        Asc(str(tmp_path / "untuned")).fingerprint()


def test_blocks_as_text():
    assert (
        parse_blocks("all", 4) == (0, 1, 2, 3)
        and parse_blocks("2", 4) == (2,)
        and parse_blocks("3, 0-1", 4) == (0, 1, 3)
    )
    for text in ("4", "1-9", "", "one", "3-1"):
        with pytest.raises(BadInput, match="blocks"):
            parse_blocks(text, 4)


def test_extracted_vector_steers(engine, pairs, tmp_path):
    from steering.extraction import extract

    save_vector(extract(engine, pairs).vector, tmp_path / "v")
    loaded = load_vector(tmp_path / "v", ModelShape(WIDTH, LAYERS, ""), engine.identity.model)
    assert loaded.info.apply_layers == (3,) and loaded.info.n_pairs == len(pairs)
    before = scores(engine)
    with Asc(str(tmp_path / "v")).attach(engine):
        assert scores(engine) != before


def test_a_vector_that_does_not_fit_leaves_no_run_folder(engine, vector, tmp_path):
    wide = {b: torch.ones(WIDTH + 2) for b in (1, 2)}
    save_vector(replace(vector, directions=wide, info=replace(vector.info, hidden_size=WIDTH + 2)), tmp_path / "wide")
    problem = Problem("p", "embedded", "1+1?", "2")
    for method in (Asc(str(tmp_path / "wide")), parse_method(f"concise+asc:vector={tmp_path / 'wide'}")):
        with pytest.raises(BadInput, match="hidden_size 66"):
            evaluate_into(tmp_path / "run", [problem], method, engine, EvalConfig("embedded"))
    assert not (tmp_path / "run").exists()
