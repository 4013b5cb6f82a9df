"""The tokenizer and the chat template: digits apart, any text without loss, thinking opened by the prompt."""

from __future__ import annotations

import pytest

from cot.embedded import MODEL_PATH, embedded_model_path
from cot.embedded.problems import make_problems
from cot.embedded.tokens import VOCABULARY_SIZE, chat_prompt
from cot.embedded.traces import write_trace

FOREIGN = [
    "Janet\u2019s ducks lay 16 eggs per day. She eats three for breakfast; how much is 1/2 of $18.50?",
    "Find $\\frac{3}{4}x^2 + \\sqrt{7}$ if \\[x \\in \\mathbb{R}\\] and $x_1 = -2$.",
    "\u6f22\u5b57 \u0440\u0443\u0441 \u00e9\u00e8 \U0001f600 \u2264\u221e \u200b tab\tend\r\n\r\n  two  spaces ",
    "a 1 b 23  4\n5",
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_model_path())


@pytest.mark.parametrize("text", FOREIGN)
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert max(ids) < VOCABULARY_SIZE


def test_the_recipe_builds_the_shipped_tokenizer(tokenizer, tmp_path):
    from cot.embedded.tokens import save_tokenizer

    save_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (MODEL_PATH / "tokenizer.json").read_text()


def test_digits_are_single_tokens_and_words_are_whole(tokenizer):
    pieces = tokenizer.tokenize("So 137+45=182. Wait, is that correct?")
    assert [tokenizer.convert_tokens_to_string([each]) for each in pieces] == [
        "So", " ", "1", "3", "7", "+", "4", "5", "=", "1", "8", "2", ".", " Wait", ",", " is", " that", " correct", "?",
    ]  # fmt: skip


def test_training_text_has_no_broken_words(tokenizer):
    import random

    for problem in make_problems("train", 50):
        text = problem.question + " " + write_trace(problem, 4, random.Random(0))
        words = len(tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text))
        assert len(tokenizer.tokenize(text)) == words


def test_a_prefix_that_ends_before_a_digit_is_tokenised_as_in_the_whole_text(tokenizer):
    whole = tokenizer("The total is 42", add_special_tokens=False)["input_ids"]
    for prefix, rest in (("The total is ", "42"), ("The total is", " 42")):
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prefix, rest)]
        assert parts[0] + parts[1] == whole


def test_template_opens_or_closes_thinking(tokenizer):
    user = [{"role": "user", "content": "hi"}]

    def render(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)

    assert render(user) == chat_prompt("hi") == "<|user|>hi<|end|><|assistant|><think>"
    assert render(user, enable_thinking=True) == chat_prompt("hi")
    assert render(user, enable_thinking=False) == chat_prompt("hi", thinking=False)
    folded = render([{"role": "system", "content": "Be concise."}, *user])
    assert folded == chat_prompt("Be concise.\n\nhi")


def test_template_keeps_earlier_turns(tokenizer):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>a</think>b"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|user|>hi<|end|><|assistant|><think>a</think>b<|end|>"


def test_special_tokens(tokenizer):
    assert tokenizer.eos_token == "<|end|>" and tokenizer.pad_token_id != tokenizer.eos_token_id
    for token in ("<think>", "</think>", "<|user|>", "<|assistant|>", "<|end|>"):
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    shown = tokenizer.decode(tokenizer("a</think>b<|end|>")["input_ids"], skip_special_tokens=True)
    assert shown == "a</think>b"
