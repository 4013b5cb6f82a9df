"""Models for the engine tests: a random byte-level one, made here, and the embedded reasoner where it is built."""

from __future__ import annotations

from pathlib import Path

import pytest

TEMPLATE = (
    "{%- for message in messages -%}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>"
    "{%- if thinking is defined and thinking -%}<think>{%- endif -%}"
    "{%- if thinking is defined and not thinking -%}<think></think>{%- endif -%}"
    "{%- endif -%}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TAGS = ("<think>", "</think>")


def save_tokenizer(folder: Path, *, template: str | None = TEMPLATE, tags: bool = True) -> None:
    """A byte-level tokenizer: ids 0-255 are bytes, then the special tokens, then the tags."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: at for at, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    if tags:
        tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = template
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    fast.save_pretrained(folder)


def save_model(folder: Path, *, layers: int = 2, seed: int = 0) -> None:
    """A random Llama with sharp logits, so that greedy choices are far from ties."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
        eos_token_id=257,
        pad_token_id=256,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random-llama")
    save_model(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def write_tokenizer():
    return save_tokenizer


@pytest.fixture(scope="session")
def hf_engine(random_model: Path):
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    engine = open_engine(EngineConfig(model=str(random_model), engine="hf", batch_size=4))
    yield engine
    engine.close()


@pytest.fixture
def forced(hf_engine):
    """The hf engine, and a context in which its model says the given ids, whatever it is asked."""
    from contextlib import contextmanager

    @contextmanager
    def force(script):
        left = list(script)

        def speak(module, args, output):
            output.logits = output.logits.clone()
            output.logits[:, -1] = -100.0
            output.logits[:, -1, left.pop(0)] = 100.0
            return output

        handle = hf_engine.apply_model(lambda model: model.register_forward_hook(speak))
        try:
            yield
        finally:
            handle.remove()

    return hf_engine, force


@pytest.fixture(scope="session")
def watch_rows():
    """A context that collects, by problem id, which token id was fed at which position, as `current_rows` tells."""
    from collections import defaultdict
    from contextlib import contextmanager

    @contextmanager
    def watch(engine, find):
        fed = defaultdict(dict)

        def note(module, args, output):
            for row in engine.current_rows():
                ids = args[0] if row.batch_row is None else args[0][row.batch_row]
                tokens = ids[row.offset : row.offset + row.length].tolist()
                fed[row.request.problem_id].update(enumerate(tokens, row.first_position))

        handle = engine.apply_model(lambda model: find(model).register_forward_hook(note))
        try:
            yield fed
        finally:
            handle.remove()

    return watch


@pytest.fixture(scope="session")
def hf_embedded(embedded_model: Path):
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    engine = open_engine(EngineConfig(engine="hf", batch_size=32))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_embedded(embedded_model: Path):
    pytest.importorskip("vllm", reason="vllm is not installed: its engine is not tested")
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    engine = open_engine(EngineConfig(engine="vllm", batch_size=16, options={"enforce_eager": True}))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def questions(embedded_model: Path):
    """Questions of held-out problems of the embedded reasoner."""
    from cot.embedded import make_problems

    return [problem.question for problem in make_problems("test", 40)]
