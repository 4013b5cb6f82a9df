"""Opening engines by name; what goes wrong at start."""

import subprocess
import sys

import pytest

from cot.engine import CAPABILITIES, Engine, EngineConfig, ModelAccess
from cot.engines import ENGINES, choose_engine, engines_with, open_engine
from eval_math.errors import BadInput


def test_table_names_known_capabilities():
    assert set(ENGINES) == {"hf", "vllm", "openai"}
    assert all(entry.capabilities <= set(CAPABILITIES) for entry in ENGINES.values())
    assert engines_with("steer") == ["hf", "vllm"]
    assert engines_with("nothing") == []


def test_unknown_engine_lists_the_known():
    with pytest.raises(BadInput, match="auto, hf, vllm, openai"):
        choose_engine("vlm")


def test_auto_prefers_vllm_where_installed(monkeypatch):
    monkeypatch.setattr("cot.engines.find_spec", lambda name: None)
    assert choose_engine("auto") == "hf"
    monkeypatch.setattr("cot.engines.find_spec", lambda name: object())
    assert choose_engine("auto") == "vllm"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"options": {"attn_implementatoin": "sdpa"}}, "attn_implementation"),
        ({"dtype": "float8"}, "float32"),
        ({"device": "tpu"}, "expected auto, cpu"),
        ({"device": "cuda:99"}, "GPU"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_model_len": 100_000}, "max_model_len"),
        ({"model": "./missing/folder"}, "no such folder"),
    ],
)
def test_bad_configurations(random_model, change, complaint):
    config = EngineConfig(**{"model": str(random_model), "engine": "hf", **change})
    with pytest.raises(BadInput, match=complaint):
        open_engine(config)


def test_hf_engine_keeps_the_protocols(hf_engine):
    assert isinstance(hf_engine, Engine)
    assert isinstance(hf_engine, ModelAccess)


def test_importing_the_package_loads_nothing_heavy():
    heavy = "[m for m in ('torch', 'vllm', 'transformers') if m in sys.modules]"
    code = f"import sys, cot.engines, cot.chat, cot.thinking; print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
