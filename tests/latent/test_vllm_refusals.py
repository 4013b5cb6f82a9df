"""What a latent reasoner in vLLM is not served with, and what a folder marked for it is."""

import json
import shutil

import pytest

from eval_math.errors import BadInput
from latent.config import LatentConfig
from latent.noise import SEEDS
from latent.reasoner import save_extras
from latent.serving import ARCHITECTURES, mark_for_vllm

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
VOCABULARY = 768


@pytest.fixture(scope="module")
def mixture_folder(embedded_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("marked") / "model"
    shutil.copytree(embedded_model, folder)
    save_extras(None, LatentConfig("latent-sft", "mixture", 713, 714, max_steps=60), folder)
    mark_for_vllm(folder)
    return folder


def engine_config(folder, **options):
    from vllm import EngineArgs

    return EngineArgs(model=str(folder), max_model_len=512, dtype="float32", **options).create_engine_config()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"tensor_parallel_size": 2}, "tensor_parallel_size=1"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size=1"),
        ({"enable_lora": True}, "LoRA"),
        ({"enable_prompt_embeds": True}, "prompt embeddings"),
        ({"async_scheduling": True}, "async scheduling"),
        ({"scheduling_policy": "priority"}, "fcfs"),
        ({"distributed_executor_backend": "mp"}, "uni"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative"),
        ({"hf_overrides": {"latent_slots": 10}}, "needs 61"),
        ({"hf_overrides": {"latent_slots": 3_000_000}}, "at most"),
        ({"hf_overrides": {"latent": {"heat": 1}}}, "heat"),
        ({"hf_overrides": {"latent": {"temperature": -1}}}, "temperature"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_change(mixture_folder, options, word):
    with pytest.raises(ValueError, match=word):
        engine_config(mixture_folder, **options)


def test_the_other_model_runner_is_refused(mixture_folder, monkeypatch):
    monkeypatch.setattr("vllm.envs.VLLM_USE_V2_MODEL_RUNNER", True, raising=False)
    with pytest.raises(ValueError, match="VLLM_USE_V2_MODEL_RUNNER=0"):
        engine_config(mixture_folder)


def test_prefix_caching_is_switched_off_and_fewer_slots_admit_fewer(mixture_folder):
    from latent.vllm_config import served_by

    config = engine_config(
        mixture_folder, enable_prefix_caching=True, max_num_seqs=16, hf_overrides={"latent_slots": 200}
    )
    assert not config.cache_config.enable_prefix_caching
    assert served_by(config).running == 3
    assert config.model_config.get_vocab_size() == VOCABULARY + SEEDS + 200


def test_a_marked_folder_stays_one_for_transformers(mixture_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    assert type(AutoModelForCausalLM.from_pretrained(mixture_folder)).__name__ == "LlamaForCausalLM"
    assert json.loads((mixture_folder / "config.json").read_text())["architectures"] == [ARCHITECTURES["llama"]]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma", "vocab_size": 10}))
    with pytest.raises(BadInput, match="gemma"):
        mark_for_vllm(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused(mixture_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(mixture_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 700}))
    with pytest.raises(BadInput, match="715"):
        mark_for_vllm(folder)
