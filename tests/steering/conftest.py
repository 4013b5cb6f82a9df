"""Two tiny random models as folders, a bytewise tokenizer with think tags, and engines over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cot.engine import EngineConfig
from eval_math.records import Message, Pair, Request, Sampling

TEMPLATE = (
    "{%- for m in messages -%}{{- '<|user|>' + m['content'] + '<|end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|><think>' -}}{%- endif -%}"
)
CONTROL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]
WIDTH, LAYERS = 64, 4


def save_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({s: i for i, s in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def save_model(folder: Path, kind: str) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    shape = {
        "vocab_size": 262, "hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512,
        "tie_word_embeddings": False, "pad_token_id": 256, "eos_token_id": 259, "bos_token_id": None,
        "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(7)
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](**shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: save_model(root / kind, kind) for kind in ("llama", "qwen2")}


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def engine(request, model_folders):
    import torch

    from cot.engines import open_engine

    torch.set_num_threads(1)
    engine = open_engine(EngineConfig(str(model_folders[request.param]), "hf", dtype="float32", batch_size=3))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def pairs() -> list[Pair]:
    def pair(n: int) -> Pair:
        long = "Okay. " * n + f"{n}+{n}={2 * n}. Wait, again: {2 * n}."
        return Pair(f"p{n}", f"What is {n}+{n}?", long, f"{2 * n}.", "self:embedded")

    return [pair(n) for n in range(1, 8)]


@pytest.fixture(scope="session")
def requests() -> list[Request]:
    texts = ["What is 1+1?", "Hi", "A long question, with many more words than the others have?", "2*3?"]
    return [
        Request(f"r{n}", messages=(Message("user", t),), sampling=Sampling(max_tokens=24)) for n, t in enumerate(texts)
    ]


@pytest.fixture
def small_vector():
    """Three random directions of six numbers, two of four blocks steered."""
    import torch

    from steering.vector import SteeringVector, VectorInfo

    info = VectorInfo("m", "llama", 6, 4, (1, 3), (1, 3), gamma=0.1 + 0.2)
    generator = torch.Generator().manual_seed(0)
    return SteeringVector({b: torch.randn(6, generator=generator) for b in (0, 1, 3)}, info)
