"""Vectors in other people's formats: exact numbers, signs and sites; nothing in a file is executed."""

import io
import json
import logging
import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eval_math.errors import BadInput
from steering.foreign import ASC_MODELS, export_array, folder_shape, import_array, import_asc
from steering.sites import ModelShape
from steering.statistics import block_statistics
from steering.vector import VectorInfo, load_vector, save_vector

WIDTH, LAYERS = 6, 4
SHAPE = ModelShape(WIDTH, LAYERS, "llama")
INFO = VectorInfo("m", "llama", WIDTH, LAYERS, (1, 3), (1, 3), gamma=0.1 + 0.2)


@pytest.fixture
def vector(small_vector):
    return small_vector


def asc_file(folder, model, dtype=torch.float16):
    """Rows 3 e0 and 4 e1: row norms 3 and 4, norm of the mean 2.5, cosines 0.6 and 0.8 with it."""
    rows = torch.zeros(2, ASC_MODELS[model].shape.hidden_size, dtype=dtype)
    rows[0, 0], rows[1, 1] = 3, 4
    path = folder / f"steering_vectors_{model}.pt"
    torch.save(rows, path)
    return path, rows


# ASC's release


@pytest.mark.parametrize(
    ("model", "dtype", "width", "layers", "kind", "block", "gamma"),
    [
        ("qwen7b", torch.float16, 3584, 28, "qwen2", 20, 0.27),
        ("llama8b", torch.float16, 4096, 32, "llama", 20, 0.46),
        ("qwq32b", torch.float32, 5120, 64, "qwen2", 57, 0.5),
    ],
)
def test_asc_sites_sign_and_statistics_are_exact(tmp_path, model, dtype, width, layers, kind, block, gamma):
    path, rows = asc_file(tmp_path, model, dtype)
    vector = import_asc(path, model)
    info = vector.info
    assert (info.hidden_size, info.num_layers, info.model_type) == (width, layers, kind)
    assert info.apply_layers == (block,) and info.extract_layers == (block - 1,)
    assert (info.gamma, info.gamma_unit, info.n_pairs) == (gamma, "raw", 2)
    assert info.extra["sign_source"] == "generate.py subtracts"
    assert vector.directions[block].dtype == torch.float32
    assert vector.directions[block][:3].tolist() == [-1.5, -2.0, 0.0]
    assert torch.equal(vector.pairs[block], -rows) and vector.pairs[block].dtype == dtype
    statistics = block_statistics(vector)[block]
    assert (statistics.norm, statistics.row_norm_mean, statistics.rows) == (2.5, 3.5, 2)
    assert statistics.cos_row_min == pytest.approx(0.6) and statistics.cos_row_mean == pytest.approx(0.7)


def test_adding_the_import_is_what_generate_subtracts(tmp_path):
    path, rows = asc_file(tmp_path, "qwen7b")
    state = torch.randn(3584, generator=torch.Generator().manual_seed(1))
    steered = state + import_asc(path, "qwen7b").step(20, 0.27)
    assert torch.allclose(steered, state - 0.27 * rows.float().mean(0), atol=1e-7)


def test_asc_round_trip_keeps_everything_and_names_the_source(tmp_path):
    import hashlib

    path, _ = asc_file(tmp_path, "llama8b")
    vector = import_asc(path, "llama8b")
    save_vector(vector, tmp_path / "v.safetensors")
    loaded = load_vector(tmp_path / "v.safetensors", ModelShape(4096, 32, "llama"))
    assert loaded.info == vector.info and torch.equal(loaded.pairs[20], vector.pairs[20])
    assert loaded.info.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.info.pair_source == "ASC release: steering_vectors_llama8b.pt"


def test_asc_sign_can_be_given_and_an_unknown_file_is_warned_of(tmp_path, caplog):
    path, _ = asc_file(tmp_path, "qwen7b")
    with caplog.at_level(logging.WARNING):
        vector = import_asc(path, "qwen7b", sign=1)
    assert vector.directions[20][0] == 1.5 and vector.info.extra["sign_source"] == "given: +1"
    assert "not the file that ASC released" in caplog.text and "needs sign 1" in caplog.text
    with pytest.raises(BadInput, match="sign 2"):
        import_asc(path, "qwen7b", sign=2)
    with pytest.raises(BadInput, match="qwen7b, llama8b, qwq32b"):
        import_asc(path, "gpt")


def test_the_mean_is_summed_in_float64(tmp_path):
    rows = torch.zeros(3, 3584)
    rows[:, 0] = torch.tensor([1e8, 1.0, -1e8])
    torch.save(rows, tmp_path / "v.pt")
    assert -import_asc(tmp_path / "v.pt", "qwen7b").directions[20][0] == torch.tensor(1 / 3)


class Touch:
    """Unpickling this in earnest creates the canary."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "inside"])
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path, how):
    path, canary = tmp_path / "v.pt", tmp_path / "canary"
    evil = Touch(canary)
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        content = {"v": torch.zeros(2, 3584), "x": evil} if how == "inside" else evil
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    for load in (lambda: import_asc(path, "qwen7b"), lambda: import_array(path, 1, SHAPE, 1)):
        with pytest.raises(BadInput, match="running code"):
            load()
    assert not canary.exists()
    pickle.loads(pickle.dumps(evil))
    assert canary.exists(), "the canary works"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"layer": torch.zeros(2, 3584)}, "holds a dict with keys layer"),
        ([torch.zeros(2, 3584)], "holds a list"),
        (torch.zeros(2, 4096), r"shape \(2, 4096\), expected \(pairs, 3584\)"),
        (torch.zeros(3584, 2), "transposed"),
        (torch.zeros(3584), "shape"),
        (torch.zeros(0, 3584), "shape"),
        (torch.zeros(1, 2, 3584), "shape"),
        (torch.tensor(1.0), "shape"),
        (torch.zeros(2, 3584, dtype=torch.int32), "int32"),
        (torch.zeros(2, 3584, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, 3584, dtype=torch.float8_e4m3fn), "float8"),
        (torch.full((2, 3584), float("nan")), "7168 value"),
        (torch.full((2, 3584), float("inf"), dtype=torch.float16), "not finite"),
        (torch.full((2, 3584), 1e300, dtype=torch.float64), "not finite in float32"),
        (torch.zeros(1).expand(10**6, 3584), "a view"),
        (torch.zeros(2, 3584).to_sparse(), "sparse"),
        (torch.empty(2, 3584, device="meta"), "without data"),
        (None, "holds a NoneType"),
    ],
)
def test_anything_but_one_finite_tensor_of_the_width_is_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "v.pt")
    with pytest.raises(BadInput, match=said) as caught:
        import_asc(tmp_path / "v.pt", "qwen7b")
    assert str(tmp_path / "v.pt") in str(caught.value)


def test_missing_empty_cut_and_other_files_are_refused(tmp_path):
    path, _ = asc_file(tmp_path, "qwen7b")
    whole = path.read_bytes()
    with pytest.raises(BadInput, match="no such file"):
        import_asc(tmp_path / "none.pt", "qwen7b")
    with pytest.raises(BadInput, match="no such file"):
        import_asc(tmp_path, "qwen7b")
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="empty"):
        import_asc(path, "qwen7b")
    for cut in (1, 3, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInput, match="expected one tensor"):
            import_asc(path, "qwen7b")
    np.save(tmp_path / "a.npy", np.zeros((2, 3584), np.float32))
    for other in ((tmp_path / "a.npy").read_bytes(), b"GGUF" + bytes(60), b"<html>not found</html>", bytes(500)):
        path.write_bytes(other)
        with pytest.raises(BadInput, match="expected one tensor"):
            import_asc(path, "qwen7b")


def test_a_file_too_large_for_a_vector_is_not_read(tmp_path, monkeypatch):
    path, _ = asc_file(tmp_path, "qwen7b")
    monkeypatch.setattr("steering.foreign.LARGEST_BYTES", 1000)
    with pytest.raises(BadInput, match="is this a model"):
        import_asc(path, "qwen7b")


@pytest.mark.parametrize("kind", ["pt", "npy"])
def test_damaged_bytes_give_a_vector_or_bad_input_and_nothing_else(tmp_path, kind):
    path, rng = tmp_path / f"v.{kind}", random.Random(0)
    array = torch.arange(12.0).reshape(2, WIDTH)
    torch.save(array, path) if kind == "pt" else np.save(path, array.numpy())
    whole, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            import_array(path, 1, SHAPE, 1)
        except BadInput:
            refused += 1
    assert refused > 30


# Plain arrays


@pytest.mark.parametrize("kind", ["pt", "npy"])
@pytest.mark.parametrize("sign", [1, -1])
def test_arrays_of_one_vector_or_rows(tmp_path, kind, sign):
    rows = torch.tensor([[3.0, 0, 0, 0, 0, 1], [0, 4.0, 0, 0, 0, 1]])
    for array in (rows, rows[0]):
        path = tmp_path / f"v.{kind}"
        torch.save(array, path) if kind == "pt" else np.save(path, array.numpy())
        vector = import_array(path, 2, SHAPE, sign, "model")
        expected = array if array.ndim == 1 else array.mean(0)
        assert torch.equal(vector.directions[2], sign * expected)
        assert vector.info.apply_layers == (2,) and vector.info.model_id == "model" and vector.info.gamma is None
        assert vector.info.n_pairs == (2 if array.ndim == 2 else 0)
        assert (2 in vector.pairs) == (array.ndim == 2)
        save_vector(vector, tmp_path / "v.safetensors")
        assert load_vector(tmp_path / "v.safetensors", SHAPE).info == vector.info


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
def test_npy_of_any_float_type_and_byte_order(tmp_path, dtype):
    np.save(tmp_path / "v.npy", np.asfortranarray(np.array([[1, 2, 3, 4, 5, 6.5], [0] * 6], dtype)))
    vector = import_array(tmp_path / "v.npy", 1, SHAPE, 1)
    assert vector.directions[1].tolist() == [0.5, 1, 1.5, 2, 2.5, 3.25]
    assert vector.pairs[1].dtype == (torch.float16 if dtype == "<f2" else torch.float32)


def test_npy_with_objects_of_other_kinds_or_cut_off_is_refused(tmp_path):
    path, canary = tmp_path / "v.npy", tmp_path / "canary"
    np.save(path, np.array([Touch(canary)], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="never restored"):
        import_array(path, 1, SHAPE, 1)
    assert not canary.exists()
    for array, said in (
        (np.arange(6), "int64"),
        (np.zeros(6, np.complex64), "complex64"),
        (np.array(["a"] * 6), "<U1"),
        (np.zeros(7, np.float32), r"expected \(6,\) or \(pairs, 6\)"),
        (np.full(6, np.nan, np.float32), "6 value"),
        (np.zeros((2, 2, 6)), "shape"),
    ):
        np.save(path, array)
        with pytest.raises(BadInput, match=said):
            import_array(path, 1, SHAPE, 1)
    np.save(path, np.zeros(6, np.float32))
    whole = path.read_bytes()
    buffer = io.BytesIO()
    np.savez(buffer, v=np.zeros(6, np.float32))
    absurd = whole[:128].replace(b"(6,), }", b"(10**9,)") + b"\n"
    huge = b"\x93NUMPY\x01\x00v\x00" + repr({"descr": "<f4", "fortran_order": False, "shape": (10**13,)}).encode()
    for content in (b"", whole[:5], whole[:60], whole[:-1], buffer.getvalue(), absurd, huge.ljust(127) + b"\n"):
        path.write_bytes(content)
        with pytest.raises(BadInput):
            import_array(path, 1, SHAPE, 1)


def test_a_block_outside_the_model_is_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.zeros(6, np.float32))
    with pytest.raises(BadInput, match=r"blocks: 4 given, 0 \.\.\. 3"):
        import_array(tmp_path / "v.npy", 4, SHAPE, 1)


def test_npy_round_trip_is_bit_exact_and_holds_one_block(vector, tmp_path):
    path = tmp_path / "sub" / "v.npy"
    export_array(vector, path, (0,))
    stored = np.load(path, allow_pickle=False)
    assert stored.dtype == np.float32 and stored.tobytes() == vector.directions[0].numpy().tobytes()
    assert torch.equal(import_array(path, 0, SHAPE, 1).directions[0], vector.directions[0])
    assert [p.name for p in path.parent.iterdir()] == ["v.npy"]
    with pytest.raises(BadInput, match=r"blocks 1, 3: an \.npy file holds one"):
        export_array(vector, path)
    with pytest.raises(BadInput, match="block 2"):
        export_array(vector, path, (2,))
    with pytest.raises(BadInput, match="is a folder"):
        export_array(vector, tmp_path, (1,))


def test_the_strength_unit_is_folded_into_what_is_exported(vector, tmp_path):
    resid = replace(vector, info=replace(INFO, gamma_unit="resid"), resid_norm={1: 8.0})
    export_array(resid, tmp_path / "v.npy", (1,))
    raw = import_array(tmp_path / "v.npy", 1, SHAPE, 1)
    assert raw.directions[1].norm() == pytest.approx(8.0)
    assert torch.allclose(raw.step(1, 0.3), resid.step(1, 0.3))


def test_shape_from_a_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 6, "num_hidden_layers": 4, "model_type": "llama"}')
    assert folder_shape(tmp_path) == SHAPE
    (tmp_path / "config.json").write_text(
        '{"model_type": "x", "text_config": {"hidden_size": 6, "num_hidden_layers": 4}}'
    )
    assert folder_shape(tmp_path) == ModelShape(6, 4, "unknown")
    for text in ("{}", "[]", "not json", '{"hidden_size": "6", "num_hidden_layers": 4}', '{"text_config": 3}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BadInput, match=r"config\.json"):
            folder_shape(tmp_path)
    with pytest.raises(BadInput, match="model's folder"):
        folder_shape(tmp_path / "none")


# Commands


def laconic(*words, cwd):
    command = [str(Path(sys.executable).with_name("laconic")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_commands_asc_import_and_npy_export(tmp_path):
    path, _ = asc_file(tmp_path, "qwen7b")
    done = laconic("steer", "import", path, "--model", "qwen7b", "--json", "f.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sign_source    generate.py subtracts" in done.stdout and "   20*     2.5" in done.stdout
    assert "not the file that ASC released" in done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["blocks"][0]["norm"] == 2.5 and figures["apply_layers"] == [20]
    assert load_vector(tmp_path / "vector.safetensors").directions[20][0] == -1.5
    done = laconic("steer", "export-vector", "vector.safetensors", "--out", "v.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "v.npy: block 20" in done.stdout and "strength 0.27" in done.stdout
    assert np.load(tmp_path / "v.npy")[:3].tolist() == [-1.5, -2.0, 0.0]


def test_commands_array_import(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(WIDTH, dtype=np.float32))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"hidden_size": 6, "num_hidden_layers": 4, "model_type": "llama"}')
    words = ("steer", "import", "a.npy", "--block", "2", "--sign", "-1", "--like", "model")
    done = laconic(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = load_vector(tmp_path / "vector.safetensors", SHAPE, "model")
    assert loaded.directions[2].tolist() == [-0.0, -1, -2, -3, -4, -5]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("import", "a.npy"), "needs --block N"),
        (("import", "a.npy", "--block", "2", "--like", "m"), "--sign 1"),
        (("import", "a.npy", "--hidden-size", "6"), "both are needed"),
        (("import", "a.npy", "--hidden-size", "6", "--num-layers", "4", "--like", "m"), "not both"),
        (("import", "a.npy", "--model", "qwen7b"), "for ASC's .pt files"),
        (("import", "a.pt", "--model", "qwen7b", "--block", "3"), "leave out --block"),
        (("import", "a.pt"), "--model qwen7b"),
        (("import", "a.bin"), "expected .pt, .npy or .gguf"),
        (("export-vector", "v.safetensors", "--out", "v.txt"), "expected .gguf or .npy"),
        (("export-vector", "none.safetensors", "--out", "v.npy"), "no such file"),
    ],
)
def test_command_mistakes_are_one_clear_error(tmp_path, words, said, monkeypatch, capsys):
    from laconic_cli.main import main

    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(WIDTH, dtype=np.float32))
    Path("m").mkdir()
    Path("m/config.json").write_text('{"hidden_size": 6, "num_hidden_layers": 4, "model_type": "llama"}')
    assert main(["steer", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("vector.safetensors").exists()
