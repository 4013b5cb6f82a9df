"""The vector file: exact round trip, one clear error for each kind of bad file."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from eval_math.errors import BadInput
from steering.sites import ModelShape
from steering.statistics import block_statistics
from steering.vector import SteeringVector, VectorInfo, check_fit, load_vector, save_vector

WIDTH, LAYERS = 6, 4
INFO = VectorInfo("m", "llama", WIDTH, LAYERS, (2,), (1, 2), gamma=0.1 + 0.2, n_pairs=3, extra={"note": "kept: ü"})


@pytest.fixture
def vector():
    generator = torch.Generator().manual_seed(0)
    rows = {block: torch.randn(3, WIDTH, generator=generator) for block in (1, 2)}
    return SteeringVector({b: r.mean(0) for b, r in rows.items()}, INFO, rows, {1: 3.25, 2: 4.5})


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_round_trip_is_exact(vector, tmp_path):
    path = tmp_path / "sub" / "v.safetensors"
    save_vector(vector, path)
    loaded = load_vector(path, ModelShape(WIDTH, LAYERS, "llama"), "m")
    assert loaded.info == vector.info and loaded.resid_norm == vector.resid_norm
    assert same(loaded.directions, vector.directions) and same(loaded.pairs, vector.pairs)
    assert loaded.digest() == vector.digest()
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]


def test_file_follows_the_format(vector, tmp_path):
    from safetensors import safe_open

    save_vector(vector, tmp_path / "v.safetensors")
    with safe_open(str(tmp_path / "v.safetensors"), framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
        assert file.get_tensor("direction.1").dtype == torch.float32
        assert file.get_tensor("resid_norm.2").shape == (1,)
    assert names == {"direction.1", "direction.2", "pairs.1", "pairs.2", "resid_norm.1", "resid_norm.2"}
    assert metadata["format"] == "cot-steer/1" and metadata["site"] == "block_output"
    assert metadata["sign"] == "add->concise" and json.loads(metadata["apply_layers"]) == [2]
    assert float(metadata["gamma"]) == 0.1 + 0.2 and metadata["hidden_size"] == "6"


def test_digest_follows_the_directions_not_the_defaults(vector):
    assert vector.tuned(1, 0.7).digest() == vector.digest()
    changed = {**vector.directions, 1: vector.directions[1] + 1e-6}
    assert replace(vector, directions=changed).digest() != vector.digest()
    assert replace(vector, info=replace(INFO, gamma_unit="unit")).digest() != vector.digest()


def test_strength_units(vector):
    direction = vector.directions[2]
    assert torch.equal(vector.step(2, 0.5), 0.5 * direction)
    assert replace(vector, info=replace(INFO, gamma_unit="unit")).step(2, 0.5).norm() == pytest.approx(0.5)
    assert replace(vector, info=replace(INFO, gamma_unit="resid")).step(2, 0.5).norm() == pytest.approx(0.5 * 4.5)
    with pytest.raises(BadInput, match="only at blocks 1, 2"):
        vector.step(3, 1.0)


def test_another_shape_is_refused_with_both_numbers_another_name_warned_of(vector, caplog):
    with pytest.raises(BadInput, match=r"hidden_size 6.* has 8"):
        check_fit(vector, ModelShape(8, LAYERS, "llama"))
    with pytest.raises(BadInput, match=r"num_layers 4.* has 5"):
        check_fit(vector, ModelShape(WIDTH, 5, "llama"))
    with caplog.at_level(logging.WARNING):
        check_fit(vector, ModelShape(WIDTH, LAYERS, "llama"), "other")
    assert "other" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_on_both_ways(vector, tmp_path, value):
    path = tmp_path / "v.safetensors"
    broken = replace(vector, directions={**vector.directions, 2: torch.full((WIDTH,), value)})
    with pytest.raises(BadInput, match="not finite"):
        save_vector(broken, path)
    assert not path.exists()
    save_vector(vector, path)
    rewrite(path, tensors={"direction.2": torch.full((WIDTH,), value)})
    with pytest.raises(BadInput, match=r"direction\.2 has 6 value"):
        load_vector(path)


def rewrite(path, tensors=(), metadata=(), drop=()):
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    content |= dict(tensors)
    facts |= dict(metadata)
    kept, told = ({k: v for k, v in found.items() if k not in drop} for found in (content, facts))
    save_file(kept, str(path), told)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metadata": {"format": "other/2"}}, "'other/2', expected 'cot-steer/1'"),
        ({"metadata": {"sign": "subtract"}}, "sign is 'subtract'"),
        ({"metadata": {"hidden_size": "wide"}}, "hidden_size is 'wide'"),
        ({"metadata": {"hidden_size": "7"}}, "hidden_size is 7"),
        ({"metadata": {"num_layers": "2"}}, "0 ... 1 expected"),
        ({"metadata": {"apply_layers": "[3]"}}, "apply_layers"),
        ({"metadata": {"apply_layers": '["2"]'}}, "apply_layers"),
        ({"metadata": {"gamma": "nan"}}, "gamma is 'nan'"),
        ({"metadata": {"gamma_unit": "volts"}}, "gamma_unit 'volts'"),
        ({"drop": ["model_id"]}, "incomplete"),
        ({"drop": ["format"]}, "format is None"),
        ({"drop": ["direction.1", "direction.2"]}, "no tensor direction"),
        ({"drop": ["direction.2"]}, "without a direction"),
        ({"tensors": {"direction.1": torch.zeros(WIDTH, dtype=torch.float16)}}, "float32"),
        ({"tensors": {"direction.1": torch.zeros(2, WIDTH)}}, "shape"),
        ({"tensors": {"pairs.1": torch.zeros(3, WIDTH + 1)}}, "shape"),
    ],
)
def test_bad_files_are_refused(vector, tmp_path, change, said):
    path = tmp_path / "v.safetensors"
    save_vector(vector, path)
    rewrite(path, **change)
    with pytest.raises(BadInput, match=said) as caught:
        load_vector(path)
    assert str(path) in str(caught.value) or "0 ... 1" in said


def test_damaged_missing_and_foreign_files_are_refused(vector, tmp_path):
    path = tmp_path / "v.safetensors"
    with pytest.raises(BadInput, match="no such file"):
        load_vector(path)
    save_vector(vector, path)
    whole = path.read_bytes()
    for cut in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInput, match="not a readable safetensors file"):
            load_vector(path)
    torch.save({"a": 1}, path)
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        load_vector(path)


def test_statistics_of_known_rows():
    rows = torch.tensor([[3.0, 0, 0, 0, 0, 0], [0, 4.0, 0, 0, 0, 0]])
    vector = SteeringVector({1: rows.mean(0)}, replace(INFO, apply_layers=(1,)), {1: rows}, {1: 10.0})
    [found] = block_statistics(vector).values()
    assert found.norm == pytest.approx(2.5) and found.relative_norm == pytest.approx(0.25)
    assert found.row_norm_mean == pytest.approx(3.5) and found.split_half_cos == pytest.approx(0)
    assert found.cos_row_mean == pytest.approx(0.7) and found.cos_row_min == pytest.approx(0.6)
    assert block_statistics(replace(vector, pairs={}))[1].cos_row_mean is None
