"""Model folders, rendering and identity hashes."""

import json
import shutil

import pytest

from cot.chat import max_length, model_hash, open_chat, resolve_model, template_hash
from eval_math.errors import BadInput
from eval_math.records import Message, Request

HELLO = (Message("user", "hi"),)


@pytest.fixture
def copied(random_model, tmp_path):
    return shutil.copytree(random_model, tmp_path / "model")


def test_render_is_the_chat_template_then_the_prefill(random_model):
    chat = open_chat(random_model)
    ids = chat.render(Request("p", messages=HELLO, prefill_ids=(5, 6)))
    assert ids == [259, *chat.encode("hi"), 257, 260, 5, 6]


def test_template_arguments_reach_the_template(random_model):
    chat = open_chat(random_model)
    opened = chat.render(Request("p", messages=HELLO, template={"thinking": True}))
    closed = chat.render(Request("p", messages=HELLO, template={"thinking": False}))
    assert opened[-1] == chat.tags.start_id
    assert closed[-2:] == [chat.tags.start_id, chat.tags.end_id]
    assert chat.opens_thinking(opened) and not chat.opens_thinking(closed)


def test_prompt_ids_are_taken_as_they_are(random_model):
    assert open_chat(random_model).render(Request("p", prompt_ids=(1, 2), prefill_ids=(3,))) == [1, 2, 3]


def test_texts_hide_special_tokens_and_keep_tags(random_model):
    chat = open_chat(random_model)
    assert chat.decode([*chat.encode("a b"), 262, 257, 256]) == "a b</think>"
    assert chat.end_ids == {257}


def test_no_chat_template_matters_only_for_messages(copied, write_tokenizer):
    write_tokenizer(copied, template=None)
    chat = open_chat(copied)
    assert chat.render(Request("p", prompt_ids=(1,))) == [1]
    with pytest.raises(BadInput, match="no chat template"):
        chat.render(Request("p", messages=HELLO))


def test_template_that_refuses(copied, write_tokenizer):
    write_tokenizer(copied, template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadInput, match="roles must alternate"):
        open_chat(copied).render(Request("p", messages=HELLO))


@pytest.mark.parametrize(
    ("remove", "complaint"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights")],
)
def test_incomplete_folder(copied, remove, complaint):
    (copied / remove).unlink()
    with pytest.raises(BadInput, match=complaint):
        resolve_model(str(copied))


def test_folder_without_tokenizer(copied):
    (copied / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="no tokenizer"):
        open_chat(copied)


def test_missing_folder_names_the_choices():
    with pytest.raises(BadInput, match="no such folder"):
        resolve_model("./nowhere/model")


def test_embedded_is_a_folder(embedded_model):
    assert resolve_model("embedded") == embedded_model


def test_max_length(copied):
    assert max_length(copied, None) == 512
    assert max_length(copied, 100) == 100
    with pytest.raises(BadInput, match="2 to 512"):
        max_length(copied, 513)


def test_stretched_positions_may_exceed_the_config(copied):
    config = json.loads((copied / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "factor": 4.0}
    (copied / "config.json").write_text(json.dumps(config))
    assert max_length(copied, 2000) == 2000


def test_hashes_follow_content_not_place(random_model, copied, write_tokenizer):
    assert model_hash(copied) == model_hash(random_model)
    assert template_hash(open_chat(copied).tokenizer) == template_hash(open_chat(random_model).tokenizer)
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_hash(copied) != model_hash(random_model)
    write_tokenizer(copied, template="{{ 'x' }}")
    assert template_hash(open_chat(copied).tokenizer) != template_hash(open_chat(random_model).tokenizer)


def test_large_weights_with_the_same_header_and_other_numbers_have_another_hash(copied, random_model, monkeypatch):
    monkeypatch.setattr("cot.chat.HASHED_WHOLE_BYTES", 100_000)
    assert model_hash(copied) == model_hash(random_model)
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    assert len(whole) > 200_000
    header = 8 + int.from_bytes(whole[:8], "little")
    numbers = bytes(byte ^ 1 for byte in whole[header:])
    weights.write_bytes(whole[:header] + numbers)
    assert model_hash(copied) != model_hash(random_model)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert model_hash(copied) != model_hash(random_model)
