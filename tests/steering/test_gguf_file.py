"""GGUF control vectors: layer N is block N, bit-exact both ways, read by the package itself; hostile files refused."""

import logging
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eval_math.errors import BadInput, MissingPart
from steering.gguf_file import export_gguf, import_gguf
from steering.sites import ModelShape
from steering.vector import VectorInfo, load_vector, save_vector

WIDTH, LAYERS = 6, 4
SHAPE = ModelShape(WIDTH, LAYERS, "llama")
INFO = VectorInfo("m", "llama", WIDTH, LAYERS, (1, 3), (1, 3), gamma=0.1 + 0.2)


@pytest.fixture
def vector(small_vector):
    return small_vector


@pytest.fixture
def gguf():
    return pytest.importorskip("gguf", reason="GGUF tests need the package gguf (extra laconic[gguf])")


def write_gguf(gguf, path, tensors, arch="controlvector", hint="llama", **values):
    """As repeng's export_gguf does it."""
    writer = gguf.GGUFWriter(path, arch)
    if hint:
        writer.add_string(f"{arch}.model_hint", hint)
    writer.add_uint32(f"{arch}.layer_count", len(tensors))
    for key, value in values.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float64
        add(f"laconic.{key}", value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def floats(*values):
    return np.array(values, np.float32)


def test_gguf_names_and_metadata_read_by_the_package_itself(gguf, vector, tmp_path):
    path = tmp_path / "sub" / "v.gguf"
    export_gguf(vector, path)
    reader = gguf.GGUFReader(path)
    values = {key: field.contents() for key, field in reader.fields.items()}
    assert values["general.architecture"] == "controlvector" and values["controlvector.model_hint"] == "llama"
    assert values["controlvector.layer_count"] == 2
    assert values["laconic.sign"] == "add->concise" and values["laconic.model_id"] == "m"
    assert values["laconic.num_layers"] == 4 and values["laconic.gamma"] == 0.1 + 0.2
    found = {t.name: t for t in reader.tensors}
    assert list(found) == ["direction.1", "direction.3"], "block 0 has a direction but is not steered"
    for block in (1, 3):
        tensor = found[f"direction.{block}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and tensor.shape.tolist() == [WIDTH]
        assert tensor.data.tobytes() == vector.directions[block].numpy().tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["v.gguf"]


def test_gguf_round_trip_is_bit_exact(gguf, vector, tmp_path):
    export_gguf(vector, tmp_path / "v.gguf")
    loaded = import_gguf(tmp_path / "v.gguf")
    assert loaded.directions.keys() == {1, 3}
    assert all(torch.equal(loaded.directions[b], vector.directions[b]) for b in (1, 3))
    info = loaded.info
    assert (info.model_id, info.model_type, info.hidden_size, info.num_layers) == ("m", "llama", WIDTH, LAYERS)
    assert info.apply_layers == (1, 3) and info.gamma == INFO.gamma and info.gamma_unit == "raw"
    save_vector(loaded, tmp_path / "v.safetensors")
    again = load_vector(tmp_path / "v.safetensors", SHAPE)
    export_gguf(again, tmp_path / "w.gguf")
    assert (tmp_path / "w.gguf").read_bytes() == (tmp_path / "v.gguf").read_bytes()


def test_gguf_layer_n_is_block_n_of_a_repeng_file(gguf, tmp_path):
    tensors = {f"direction.{n}": floats(n, 0, 0, 0, 0, 0.5) for n in (3, 2, 1)}
    path = write_gguf(gguf, tmp_path / "v.gguf", tensors)
    vector = import_gguf(path, SHAPE, sign=1)
    assert {b: t[0].item() for b, t in vector.directions.items()} == {1: 1, 2: 2, 3: 3}
    assert vector.info.apply_layers == (1, 2, 3) and vector.info.extract_layers == ()
    minus = import_gguf(path, SHAPE, sign=-1, block=2, model_id="mine")
    assert minus.directions[2].tolist() == [-2, 0, 0, 0, 0, -0.5] and minus.info.apply_layers == (2,)
    assert minus.info.model_id == "mine" and minus.info.extra["sign_source"] == "given: -1"
    with pytest.raises(BadInput, match="no direction for block 0; it has 1, 2, 3"):
        import_gguf(path, SHAPE, sign=1, block=0)


def test_gguf_block_0_is_read_but_not_written(gguf, vector, tmp_path):
    path = write_gguf(gguf, tmp_path / "v.gguf", {"direction.0": floats(1, 2, 3, 4, 5, 6)})
    assert import_gguf(path, SHAPE, sign=1).info.apply_layers == (0,)
    with pytest.raises(BadInput, match=r"block 0.*llama\.cpp refuses"):
        export_gguf(vector, tmp_path / "w.gguf", (0, 1))
    with pytest.raises(BadInput, match="block 2"):
        export_gguf(vector, tmp_path / "w.gguf", (2,))
    with pytest.raises(BadInput, match=r"0 \.\.\. 3"):
        export_gguf(vector, tmp_path / "w.gguf", (4,))
    assert not (tmp_path / "w.gguf").exists()


def test_gguf_of_others_needs_sign_and_shape(gguf, tmp_path, caplog):
    path = write_gguf(gguf, tmp_path / "v.gguf", {"direction.1": floats(*range(WIDTH))}, hint="qwen2")
    with pytest.raises(BadInput, match="how many blocks"):
        import_gguf(path, sign=1)
    with pytest.raises(BadInput, match="which way is shorter"):
        import_gguf(path, SHAPE)
    with pytest.raises(BadInput, match="sign 0"):
        import_gguf(path, SHAPE, sign=0)
    with pytest.raises(BadInput, match="hidden_size 6, the one named has 8"):
        import_gguf(path, ModelShape(8, LAYERS, "qwen2"), sign=1)
    with pytest.raises(BadInput, match=r"0 \.\.\. 0 expected"):
        import_gguf(path, ModelShape(WIDTH, 1, "qwen2"), sign=1)
    assert import_gguf(path, ModelShape(WIDTH, LAYERS, "unknown"), sign=1).info.model_type == "qwen2"
    with caplog.at_level(logging.WARNING):
        import_gguf(path, SHAPE, sign=1)
    assert "type qwen2, the one named is llama" in caplog.text


@pytest.mark.parametrize(
    ("tensors", "options", "said"),
    [
        ({"direction.1": floats(*[float("nan")] * 6)}, {}, r"direction\.1 has 6 value"),
        ({"direction.1": floats(1, 2), "direction.2": floats(1, 2, 3)}, {}, r"widths \[2, 3\]"),
        ({"direction.1": floats(*range(7))}, {}, "hidden_size 7"),
        ({"direction.9": floats(*range(6))}, {}, "9 given"),
        ({"direction.1": np.zeros((2, 6), np.float32)}, {}, "expected F32"),
        ({"direction.1": np.zeros(6, np.float64)}, {}, "F64"),
        ({"direction.1": np.zeros(6, np.int32)}, {}, "I32"),
        ({"direction.1": floats(*range(6)), "other.weight": floats(1)}, {}, "'other.weight'"),
        ({"direction.x": floats(*range(6))}, {}, "'direction.x'"),
        ({"direction.-1": floats(*range(6))}, {}, "'direction.-1'"),
        ({}, {}, "no tensor direction"),
        ({"direction.1": floats(*range(6))}, {"arch": "llama"}, "architecture is 'llama'"),
        ({"direction.1": floats(*range(6))}, {"gamma": float("nan")}, "laconic.gamma is nan"),
        ({"direction.1": floats(*range(6))}, {"gamma": "x"}, "laconic.gamma is 'x'"),
        ({"direction.1": floats(*range(6))}, {"num_layers": "x"}, "num_layers x"),
    ],
)
def test_gguf_files_that_do_not_fit_are_refused(gguf, tmp_path, tensors, options, said):
    path = write_gguf(gguf, tmp_path / "v.gguf", tensors, **options)
    with pytest.raises(BadInput, match=said):
        import_gguf(path, SHAPE, sign=1)


def test_gguf_float16_is_taken_exactly(gguf, tmp_path):
    values = np.array([0.1, 2, 3, 4, 5, 6], np.float16)
    path = write_gguf(gguf, tmp_path / "v.gguf", {"direction.1": values})
    assert import_gguf(path, SHAPE, sign=1).directions[1].tolist() == values.astype(np.float32).tolist()


def test_gguf_damaged_files_are_refused(gguf, vector, tmp_path):
    path = tmp_path / "v.gguf"
    with pytest.raises(BadInput, match="no such file"):
        import_gguf(path)
    export_gguf(vector, path)
    whole = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="empty"):
        import_gguf(path)
    last_tensor_ends = whole.rindex(vector.directions[3].numpy().tobytes()) + 4 * WIDTH
    for cut in (*range(1, 400, 7), last_tensor_ends - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInput, match=r"v\.gguf"):
            import_gguf(path)
    np.save(tmp_path / "a.npy", floats(1))
    for other, said in (((tmp_path / "a.npy").read_bytes(), "looks like an .npy"), (bytes(99), "not a readable GGUF")):
        path.write_bytes(other)
        with pytest.raises(BadInput, match=said):
            import_gguf(path)


def test_gguf_with_absurd_counts_is_refused_at_once(gguf, tmp_path):
    path, head = tmp_path / "v.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    key = struct.pack("<Q", 1) + b"k"
    many = 2**62
    for content in (
        b"GGUF" + struct.pack("<IQQ", 3, many, many),
        head + struct.pack("<Q", many) + b"k",
        head + key + struct.pack("<IIQ", 9, 0, many) + bytes(50),
        head + key + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000,
        head + key + struct.pack("<I", 77),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="not a readable GGUF"):
            import_gguf(path)


def test_gguf_damaged_bytes_give_a_vector_or_bad_input_and_nothing_else(gguf, vector, tmp_path):
    path, rng = tmp_path / "v.gguf", random.Random(0)
    export_gguf(vector, path)
    whole, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            import_gguf(path)
        except BadInput:
            refused += 1
    assert refused > 30


def test_without_the_package_the_error_names_the_extra(vector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingPart, match=r"laconic\[gguf\]"):
        export_gguf(vector, tmp_path / "v.gguf")
    assert not (tmp_path / "v.gguf").exists()
    (tmp_path / "v.gguf").write_bytes(b"GGUF")
    with pytest.raises(MissingPart, match=r"laconic\[gguf\]"):
        import_gguf(tmp_path / "v.gguf")


def laconic(*words, cwd):
    command = [str(Path(sys.executable).with_name("laconic")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_commands_gguf_both_ways(gguf, vector, tmp_path):
    save_vector(vector, tmp_path / "v.safetensors")
    done = laconic("steer", "export-vector", "v.safetensors", "--out", "v.gguf", "--blocks", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--control-vector-scaled v.gguf:0.3" in done.stdout
    done = laconic("steer", "import", "v.gguf", "--out", "w.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = load_vector(tmp_path / "w.safetensors", SHAPE)
    assert list(loaded.directions) == [1] and torch.equal(loaded.directions[1], vector.directions[1])
