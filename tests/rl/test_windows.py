"""Windowed heads: the mask is the definition, other heads are untouched, and the model is as before afterwards."""

from __future__ import annotations

import pytest

from cot.embedded import embedded_model_path
from cot.engine import EngineConfig
from cot.engines import open_engine
from eval_math.errors import BadInput
from eval_math.records import Message, Request, Sampling
from rl.windows import WindowedHeads, head_grid, window_mask

torch = pytest.importorskip("torch")

QUESTIONS = ("Ada has 5 eggs.", "Ada has 12 eggs. Then Ada buys 30 more eggs. How many eggs does Ada have now?")


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def engine(request):
    torch.set_num_threads(1)
    options = {"attn_implementation": request.param}
    engine = open_engine(EngineConfig(str(embedded_model_path()), "hf", options=options))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def gqa(tmp_path_factory):
    """A random model with two query heads on each KV head."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("gqa")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=768, hidden_size=64, intermediate_size=64, num_hidden_layers=2, head_dim=16,
                         num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded_model_path()).save_pretrained(folder)
    engine = open_engine(EngineConfig(str(folder), "hf"))
    yield engine
    engine.close()


def everything(engine) -> tuple[tuple[int, int], ...]:
    layers, heads = head_grid(engine)
    return tuple((layer, head) for layer in range(layers) for head in range(heads))


def answers(engine, method=None, tokens=40):
    asked = [Request(q, messages=(Message("user", q),), sampling=Sampling(max_tokens=tokens)) for q in QUESTIONS]
    with (method or WindowedHeads()).attach(engine):
        return {t.problem_id: t.token_ids for t in engine.generate(asked)}


def test_the_mask_is_the_definition():
    keys, queries, pads = 9, 4, (0, 2)
    visible = torch.zeros(2, queries, keys, dtype=torch.bool)
    for row, pad in enumerate(pads):
        for query in range(queries):
            visible[row, query, pad : keys - queries + query + 1] = True
    found = window_mask(visible, sink=1, recent=3)
    for row, pad in enumerate(pads):
        for query in range(queries):
            i = keys - queries + query - pad
            for key in range(keys):
                j = key - pad
                assert bool(found[row, query, key]) == (0 <= j <= i and (j < 1 or j > i - 3)), (row, query, key)


def test_a_window_longer_than_the_text_changes_nothing(engine):
    wide = WindowedHeads(everything(engine), sink=4, recent=2000)
    assert answers(engine, wide) == answers(engine)


def test_a_narrow_window_changes_what_is_said_and_leaves_no_trace(engine):
    before = answers(engine)
    assert answers(engine, WindowedHeads(everything(engine), 1, 2)) != before
    assert answers(engine) == before


def test_hooks_come_off_after_an_error(engine):
    before = answers(engine)
    with pytest.raises(RuntimeError, match="stop"), WindowedHeads(everything(engine), 1, 2).attach(engine):
        raise RuntimeError("stop")
    assert answers(engine) == before


def test_decoding_with_a_cache_equals_one_pass_over_the_whole(engine):
    """Left-padded rows, prefill and cached steps see the keys that one masked pass over the full text sees."""
    method = WindowedHeads(everything(engine)[::2], 2, 5)
    said = answers(engine, method)
    for question in QUESTIONS:
        prompt = engine.prompt_ids(Request(question, messages=(Message("user", question),)))
        ids = [*prompt, *said[question]]
        with method.attach(engine):
            logits = engine.apply_model(lambda model, ids=ids: model(torch.tensor([ids])).logits[0])
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == list(said[question])


def test_a_kv_head_takes_its_query_heads_along(gqa):
    """Windowing every KV head must equal a plain model under that mask; one of two must not."""
    ids = torch.arange(20, 44)[None]
    plain = gqa.apply_model(lambda model: model(ids).logits)
    visible = torch.ones(24, 24, dtype=torch.bool).tril()[None]
    local = torch.zeros(1, 1, 24, 24).masked_fill(~window_mask(visible, 2, 4)[:, None], torch.finfo(torch.float32).min)
    wanted = gqa.apply_model(lambda model: model(ids, attention_mask=local).logits)
    found = []
    for heads in (everything(gqa), everything(gqa)[::2]):
        with WindowedHeads(heads, 2, 4).attach(gqa):
            found.append(gqa.apply_model(lambda model: model(ids).logits))
    assert torch.allclose(found[0], wanted, atol=1e-5) and not torch.allclose(wanted, plain, atol=1e-2)
    assert not torch.allclose(found[1], wanted, atol=1e-2) and not torch.allclose(found[1], plain, atol=1e-2)


@pytest.mark.parametrize("heads", [((99, 0),), ((0, 99),), ((-1, 0),)])
def test_heads_that_are_not_there(engine, heads):
    with pytest.raises(BadInput, match=r"the model has layers 0 \.\.\. "), WindowedHeads(heads).attach(engine):
        pass


@pytest.mark.parametrize("knobs", [{"sink": -1}, {"recent": 0}])
def test_bad_windows(knobs):
    with pytest.raises(BadInput, match="expected"):
        WindowedHeads(((0, 0),), **knobs)
