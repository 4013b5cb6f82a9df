"""Baked folders against the same model with a hook that adds the step at every position."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from eval_math.errors import BadInput, StoreError
from steering.bake import bake, push
from steering.vector import SteeringVector, VectorInfo, save_vector

WIDTH, LAYERS = 64, 4
KINDS = ("llama", "llama_tied", "llama_biased", "llama_scaled_rope", "mistral", "qwen2", "qwen2_old", "qwen3")
TEXT = [[5, 9, 200, 3, 77, 41, 8, 101, 54, 17, 30, 222], [1, 2, 3, 4, 250, 6, 77, 8, 9, 10, 11, 12]]


def configuration(kind):
    from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    shape = {
        "vocab_size": 262, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 384, "pad_token_id": 256,
        "eos_token_id": 259, "bos_token_id": None, "initializer_range": 0.1, "tie_word_embeddings": False,
    }  # fmt: skip
    name, _, variant = kind.partition("_")
    if name in ("mistral", "qwen3"):
        shape |= {"sliding_window": None, "head_dim": 32}
    if name == "qwen2":
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    if name in ("qwen2", "qwen3"):
        shape |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "rms_norm_eps": 1e-5}
    if variant == "biased":
        shape |= {"attention_bias": True, "mlp_bias": True}
    if variant == "scaled_rope":
        rope = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
        shape |= {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **rope}}
    shape["tie_word_embeddings"] = variant == "tied"
    return {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[name](**shape)


def save_random(kind, folder, dtype=torch.float32, **saving):
    """A random model, norms and biases included, so that one which is lost shows."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(configuration(kind))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(std=0.2)
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(folder, **saving)
    return folder


def rewrite(path, **changes):
    found = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**found, **changes}.items() if v != "gone"}))


@pytest.fixture(scope="session")
def folders(tmp_path_factory, model_folders):
    root = tmp_path_factory.mktemp("bake")
    made = {kind: save_random(kind, root / kind) for kind in KINDS}
    old = {"rope_parameters": "gone", "rope_theta": 1000000.0, "layer_types": "gone", "dtype": "gone"}
    rewrite(
        made["qwen2_old"] / "config.json",
        **old, torch_dtype="float32", sliding_window=4096, use_sliding_window=False,
    )  # fmt: skip
    for folder in made.values():
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(model_folders["qwen2"] / name, folder)
    return made


def vector_for(folder, blocks=(1,), size=3.0, strength=0.5, **info):
    config = json.loads((folder / "config.json").read_text())
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    random = torch.Generator().manual_seed(3)
    directions = {b: size * torch.randn(width, generator=random) / width**0.5 for b in blocks}
    about = {"model_id": folder.name, "model_type": config["model_type"], "hidden_size": width, "num_layers": layers}
    about |= {"gamma": strength, "apply_layers": tuple(blocks), "extract_layers": tuple(blocks)}
    return SteeringVector(directions, VectorInfo(**{**about, **info}))


def load(folder, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options).eval().requires_grad_(False)


@contextmanager
def hooked(model, vector, strength=None):
    """The reference: every position, without the library."""
    gamma = vector.info.gamma if strength is None else strength
    steps = {block: gamma * vector.directions[block] for block in vector.info.apply_layers}
    blocks = model.model.layers
    handles = [blocks[b].register_forward_hook(lambda m, a, output, s=step: output + s) for b, step in steps.items()]
    yield model
    for handle in handles:
        handle.remove()


def farthest(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("blocks", [(1,), (0, 2, 3)], ids=["one", "several"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_the_hooked_model(folders, tmp_path, kind, blocks):
    vector = vector_for(folders[kind], blocks)
    baked = bake(folders[kind], vector, tmp_path / "out")
    model, ids = load(folders[kind]), torch.tensor(TEXT)
    plain = model(ids).logits
    with hooked(model, vector):
        expected = model(ids).logits
    error = farthest(load(baked.folder)(ids).logits, expected)
    assert error < 1e-5 and farthest(plain, expected) > 100 * max(error, 1e-6)
    assert (baked.blocks, baked.strength, baked.dtype) == (blocks, 0.5, "float32") and baked.rounding == 0


@pytest.mark.parametrize("kind", ["llama_tied", "qwen2_old", "qwen3"])
def test_cached_decoding_and_padding_agree(folders, tmp_path, kind):
    vector = vector_for(folders[kind], (1, 2))
    ours, model = load(bake(folders[kind], vector, tmp_path / "out").folder), load(folders[kind])
    settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 256}
    ids, mask = torch.tensor([TEXT[0], [256] * 5 + TEXT[1][:7]]), torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0
    plain = model.generate(ids, attention_mask=mask, **settings)
    with hooked(model, vector):
        expected = model.generate(ids, attention_mask=mask, **settings)
    found = ours.generate(ids, attention_mask=mask, **settings)
    assert found.tolist() == expected.tolist() != plain.tolist()
    whole, cache, steps = ours(found[:1]).logits, None, []
    for token in found[:1].T:
        out = ours(token[None], past_key_values=cache, use_cache=True)
        cache, steps = out.past_key_values, [*steps, out.logits]
    assert farthest(torch.cat(steps, 1), whole) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_carries_over(folders, tmp_path, kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    baked = bake(folders[kind], vector_for(folders[kind]), tmp_path / "out")
    before, after = (AutoConfig.from_pretrained(folder) for folder in (folders[kind], baked.folder))
    extra = int(kind == "qwen3")
    assert after.num_hidden_layers == LAYERS + extra
    assert after.model_type == ("qwen3" if extra else "llama") and after.architectures == [baked.architecture_after]
    assert after.head_dim == (getattr(before, "head_dim", None) or WIDTH // before.num_attention_heads)
    for key in (
        "rope_parameters", "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps",
        "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "hidden_act", "eos_token_id",
        "bos_token_id", "pad_token_id", "dtype",
    ):  # fmt: skip
        assert getattr(after, key) == getattr(before, key), key
    assert getattr(after, "sliding_window", None) is None
    _, info = AutoModelForCausalLM.from_pretrained(baked.folder, output_loading_info=True)
    assert not any(info.values()), info
    assert not extra or after.layer_types == ["full_attention"] * 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mistral", "qwen3"])
def test_half_precision_stays(tmp_path, kind, dtype):
    from safetensors.torch import load_file

    folder = save_random(kind, tmp_path / "model", dtype)
    vector = vector_for(folder)
    baked = bake(folder, vector, tmp_path / "out")
    assert {t.dtype for t in load_file(baked.folder / "model.safetensors").values()} == {dtype}
    assert f"torch.{baked.dtype}" == str(dtype) and 1e-5 < baked.rounding < 4e-3
    model, ids = load(folder), torch.tensor(TEXT)
    ours, plain = load(baked.folder), model(ids).logits
    with hooked(model.float(), vector):
        exact = model(ids).logits
    assert ours.dtype == dtype and farthest(ours(ids).logits, exact) < 0.1 * farthest(plain, exact)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_inserted_block_adds_the_step_and_nothing_else(tmp_path, dtype, attention):
    """Bit for bit at every position where attention sums in float32; eager attention rounds its weights first."""
    folder = save_random("qwen3", tmp_path / "model", dtype)
    vector = vector_for(folder)
    model = load(bake(folder, vector, tmp_path / "out").folder, attn_implementation=attention)
    seen = []
    model.model.layers[2].register_forward_hook(lambda m, arguments, output: seen.append((arguments[0], output)))
    model(torch.randint(0, 250, (2, 300), generator=torch.Generator().manual_seed(1)))
    [(before, after)] = seen
    step = (0.5 * vector.directions[1]).to(dtype)
    if attention == "sdpa" and dtype != torch.float32:
        assert torch.equal(after, before + step)
    error = (after.double() - before.double() - step.double()).abs()
    least = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert bool((error <= least * (1 + step.double().abs() + after.double().abs())).all())


def test_shards_stay_shards(tmp_path):
    for kind in ("llama", "qwen3"):
        folder = save_random(kind, tmp_path / kind, max_shard_size="150KB")
        vector = vector_for(folder, (0, 3))
        out = bake(folder, vector, tmp_path / f"{kind}-out").folder
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1 and index["metadata"]["total_size"] > 0
        assert {p.name for p in out.glob("*.safetensors")} == {p.name for p in folder.glob("*.safetensors")}
        model, ids = load(folder), torch.tensor(TEXT)
        with hooked(model, vector):
            assert farthest(model(ids).logits, load(out)(ids).logits) < 1e-5


def test_a_llama_can_be_baked_again_and_the_steps_add_up(folders, tmp_path):
    vector = vector_for(folders["llama"])
    once = bake(folders["llama"], vector, tmp_path / "once", strength=0.2).folder
    twice = bake(once, vector, tmp_path / "twice", strength=0.3).folder
    model, ids = load(folders["llama"]), torch.tensor(TEXT)
    with hooked(model, vector, strength=0.5):
        assert farthest(load(twice)(ids).logits, model(ids).logits) < 1e-5


def test_block_and_strength_override_the_file(folders, tmp_path):
    vector = vector_for(folders["qwen3"], (0, 2), gamma_unit="unit")
    baked = bake(folders["qwen3"], vector, tmp_path / "out", block=2, strength=0.7)
    assert (baked.blocks, baked.strength) == ((2,), 0.7)
    weight = load(baked.folder).model.layers[3].self_attn.o_proj.weight
    direction = vector.directions[2]
    torch.testing.assert_close(weight[:, 0], 0.7 * direction / direction.norm())
    assert not weight[:, 1:].any()


@pytest.mark.parametrize("written", ["LlamaTokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast"])
def test_the_tokenizer_stays_as_it_is_though_the_model_type_changes(folders, tmp_path, written):
    from cot.chat import open_chat

    folder = shutil.copytree(folders["qwen2"], tmp_path / "model")
    rewrite(folder / "tokenizer_config.json", tokenizer_class=written)
    baked = bake(folder, vector_for(folder), tmp_path / "out")
    text = "Wait,  2x = 7!\n\nnaïve <think> 数学</think>"
    before, after = open_chat(folder), open_chat(baked.folder)
    assert after.encode(text) == before.encode(text) and after.decode_all(before.encode(text)) == text
    assert after.tokenizer.chat_template == before.tokenizer.chat_template
    assert after.end_ids == before.end_ids and after.tags == before.tags


def test_the_card_and_the_companion_files(folders, tmp_path):
    folder = shutil.copytree(folders["mistral"], tmp_path / "base-model")
    (folder / "LICENSE").write_text("terms")
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": true}')
    vector = vector_for(folder, estimator="mean_diff", n_pairs=12)
    out = bake(folder, vector, tmp_path / "out").folder
    card = (out / "README.md").read_text()
    shown = (vector.digest(), "base-model", "block(s), from 0 | 1", "| 0.5", "12 pairs", "All prompt tokens", "answer")
    assert [said for said in shown if said not in card] == []
    assert str(tmp_path) not in card
    for name in ("LICENSE", "generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


REFUSED = {
    "gpt2": ({"model_type": "gpt2"}, "gpt2"),
    "mixture": ({"model_type": "qwen3_moe"}, "qwen3_moe"),
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, "quantised"),
    "window": ({"model_type": "mistral", "sliding_window": 128}, "window"),
    "qwen2 window": ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64}, "window"),
    "own code": ({"auto_map": {"AutoModelForCausalLM": "m.M"}}, "own code"),
    "another head": ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    "depth": ({"num_hidden_layers": 6}, "18 tensor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_cannot_be_baked_are_refused(folders, tmp_path, case):
    changes, said = REFUSED[case]
    vector = vector_for(folders["llama"], num_layers=6 if case == "depth" else LAYERS)
    folder = shutil.copytree(folders["llama"], tmp_path / "model")
    rewrite(folder / "config.json", **changes)
    with pytest.raises(BadInput, match=said):
        bake(folder, vector, tmp_path / "out")
    assert not (tmp_path / "out").exists()


VECTORS = {
    "width": ({"hidden_size": 32}, {}, "hidden_size 32"),
    "depth": ({"num_layers": 9}, {}, "num_layers 9"),
    "out of range": ({}, {"block": 7}, "0 ... 3"),
    "no direction": ({}, {"block": 2}, "only at blocks 1"),
    "no strength": ({"strength": None}, {}, "strength"),
    "not finite": ({}, {"strength": float("nan")}, "not finite"),
    "too large": ({}, {"strength": 1e38}, "not finite"),
}


@pytest.mark.parametrize("case", VECTORS)
def test_vectors_that_do_not_fit_are_refused(folders, tmp_path, case):
    info, options, said = VECTORS[case]
    vector = vector_for(folders["llama"], size=100.0, **info)
    with pytest.raises(BadInput, match=said):
        bake(folders["llama"], vector, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_damaged_and_odd_checkpoints_are_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    vector, file = vector_for(folders["llama"]), folders["llama"] / "model.safetensors"
    tensors = load_file(file)
    key = "model.layers.1.mlp.up_proj"
    cases = {
        "missing": {k: v for k, v in tensors.items() if not k.startswith(key)},
        "no part": {**tensors, f"{key}.weight_scale": torch.ones(1)},
        "I8": {**tensors, f"{key}.weight": torch.ones(96, WIDTH, dtype=torch.int8)},
    }
    for said, changed in cases.items():
        folder = shutil.copytree(folders["llama"], tmp_path / said)
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(BadInput, match=said):
            bake(folder, vector, tmp_path / "out")
    folder = shutil.copytree(folders["llama"], tmp_path / "cut")
    (folder / "model.safetensors").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(BadInput, match="cut off"):
        bake(folder, vector, tmp_path / "out")


def test_a_folder_in_use_is_not_touched(folders, tmp_path):
    vector, out = vector_for(folders["llama"]), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(BadInput, match="not an empty folder"):
        bake(folders["llama"], vector, out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    bake(folders["llama"], vector, out)
    assert (out / "model.safetensors").is_file() and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(folders, tmp_path, monkeypatch, error):
    def stop(*_):
        raise error

    monkeypatch.setattr("steering.bake._copy_files", stop)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StoreError):
        bake(folders["llama"], vector_for(folders["llama"]), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_pushing_offline_is_one_clear_error(folders, tmp_path):
    with pytest.raises(StoreError, match="not uploaded"):
        push(folders["llama"], "someone/something", True)
    with pytest.raises(BadInput, match="no config"):
        push(tmp_path, "someone/something", True)


def test_the_command(folders, tmp_path, capsys):
    from laconic_cli.main import main

    save_vector(vector_for(folders["qwen3"]), tmp_path / "v.safetensors")
    words = ["--vector", str(tmp_path / "v.safetensors"), "--model", str(folders["qwen3"]), "--block", "1"]
    words += ["--strength", "0.3", "--out", str(tmp_path / "out")]
    assert main(["steer", "bake", *words, "--json", str(tmp_path / "figures.json")]) == 0
    assert "Qwen3ForCausalLM" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["blocks"], figures["strength"]) == ([1], 0.3) and (tmp_path / "out" / "README.md").is_file()
    assert main(["steer", "bake", *words]) == 2
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("kind", ["embedded", "qwen3", "qwen2", "mistral"])
def test_vllm_reads_the_folder(folders, tmp_path, kind):
    pytest.importorskip("vllm", reason="vLLM is not installed: baked folders are not tested there")
    from cot.embedded import embedded_model_path
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from steering.application import Steering, steer

    folder = Path(embedded_model_path()) if kind == "embedded" else folders[kind]
    vector = vector_for(folder, (1, 2), size=6.0)
    baked = bake(folder, vector, tmp_path / "out")
    reference = open_engine(EngineConfig(str(folder), "hf", dtype="float32"))
    engine = open_engine(EngineConfig(str(baked.folder), "vllm", dtype="float32", batch_size=4, max_model_len=256))
    texts = ["Tom has 3 apples. 3+4=7. Wait, 3+4=7.", "So the answer is 12.", "What is 5 times 9?"]
    ids = [reference.encode(text) for text in texts]
    items = [(i[:4], i[4:]) for i in ids]
    assert [engine.encode(text) for text in texts] == ids
    try:
        plain, found = reference.score(items), engine.score(items)
        with steer(reference, Steering({b: vector.step(b, 0.5) for b in baked.blocks}, "all", "eos")):
            expected = reference.score(items)
    finally:
        reference.close()
        engine.close()
    flat = [torch.tensor([x for row in rows for x in row]) for rows in (plain, found, expected)]
    assert farthest(flat[1], flat[2]) < min(1e-4, farthest(flat[0], flat[2]) / 100)
