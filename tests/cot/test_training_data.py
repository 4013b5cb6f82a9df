"""Rows, tokens, templates and order of a training: exact ids, refused rows, and an order that no machine changes."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from cot.chat import open_chat
from cot.training.config import DpoConfig, SftConfig, World, resolved
from cot.training.contract import check_peft, check_probe, check_trl, check_version
from cot.training.data import DROPS, DROPS_LATER, NEVER_CLOSED, Encoder, check_template, end_of_turn, keep_fitting
from cot.training.order import data_order, update_count
from cot.training.rows import SftRow
from eval_math.errors import BadInput, MissingPart
from eval_math.records import Message, Request

QUESTION = "Jack has 4 nuts. Jack gets 41 nuts from Carl. How many nuts does Jack have now?"
THINKING = "So 4+41=45."
ANSWER = "The answer is \\boxed{45}."
WRITTEN = f"<think>{THINKING}</think>{ANSWER}"

LLAMA = (
    "{%- for m in messages -%}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
OPENS = (
    "{%- for m in messages -%}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|><think>\\n' }}{%- endif -%}"
)
DOUBLES = OPENS.replace("m['content']", "('<think>' if m['role'] == 'assistant' else '') + m['content']")
DROPPING = LLAMA.replace("m['content']", "m['content'].split('</think>')[-1]")
QWEN3 = (
    "{%- set ns = namespace(last=0) -%}"
    "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' and '</think>' in m['content'] -%}"
    "{%- set thought = m['content'].split('</think>')[0].split('<think>')[-1].strip('\\n') -%}"
    "{%- set rest = m['content'].split('</think>')[-1].lstrip('\\n') -%}"
    "{%- if loop.index0 > ns.last -%}{{ '<|assistant|><think>\\n' + thought + '\\n</think>\\n\\n' + rest + '<|end|>' }}"
    "{%- else -%}{{ '<|assistant|>' + rest + '<|end|>' }}{%- endif -%}"
    "{%- else -%}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}"
    "{%- endif -%}"
)


def row(completion: str = WRITTEN, question: str = QUESTION) -> SftRow:
    return SftRow("a", (Message("user", question),), completion, None, "rows.jsonl, line 1")


@pytest.fixture(scope="module")
def chat(embedded_model):
    return open_chat(embedded_model)


@pytest.fixture
def with_template(embedded_model):
    def make(template: str):
        chat = open_chat(embedded_model)
        chat.tokenizer.chat_template = template
        return chat

    return make


def told(chat, rows) -> str:
    return "\n".join(check_template(chat, rows))


def test_the_prompt_is_what_the_engine_shows_and_the_completion_ends_the_turn(chat):
    encoded = Encoder(chat).row(row())
    assert encoded.prompt_ids == chat.render(Request("x", messages=(Message("user", QUESTION),)))
    assert chat.decode_all(encoded.completion_ids) == f"{THINKING}</think>{ANSWER}<|end|>"
    n = len(encoded.prompt_ids)
    assert encoded.labels == [-100] * n + encoded.completion_ids
    assert encoded.input_ids == encoded.prompt_ids + encoded.completion_ids
    assert encoded.completion_ids[-1] in chat.end_ids


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (LLAMA, WRITTEN),
        (QWEN3, WRITTEN),
        (OPENS, f"{THINKING}</think>{ANSWER}"),
    ],
)
def test_a_start_tag_is_written_once_whichever_side_writes_it(with_template, template, written):
    chat = with_template(template)
    encoded = Encoder(chat).row(row())
    assert chat.decode_all(encoded.completion_ids) == written + "<|end|>"
    assert chat.decode_all(encoded.input_ids).count("<think>") == 1


def test_blanks_that_the_prompt_gives_after_its_tag_are_not_repeated(with_template):
    chat = with_template(OPENS)
    body = f"{THINKING}</think>{ANSWER}"
    for text in (f"<think>\n{body}", f"\n<think>{body}", body):
        whole = chat.decode_all(Encoder(chat).row(row(text)).input_ids)
        assert whole.endswith(f"<think>\n{THINKING}</think>{ANSWER}<|end|>"), text


def test_qwen3_thinking_stays_although_its_template_drops_it_from_history(with_template):
    chat = with_template(QWEN3)
    history = (Message("user", QUESTION), Message("assistant", WRITTEN), Message("user", QUESTION))
    encoded = Encoder(chat).row(replace(row(), prompt=history))
    assert THINKING not in chat.decode_all(encoded.prompt_ids)
    assert chat.decode_all(encoded.completion_ids).count(THINKING) == 1


def test_an_end_token_is_taken_once_and_refused_inside(chat):
    encoder = Encoder(chat)
    assert encoder.row(row(WRITTEN + "<|end|>")) == encoder.row(row())
    with pytest.raises(BadInput, match=r"rows.jsonl, line 1.*ends a turn"):
        encoder.row(row(f"{THINKING}<|end|>{ANSWER}"))


def test_the_end_of_turn_is_the_templates_not_any_stop_token(with_template):
    chat = with_template(LLAMA)
    pad = chat.tokenizer.pad_token_id
    both = replace(chat, end_ids=chat.end_ids | {pad})
    assert end_of_turn(both) == chat.tokenizer.eos_token_id
    both.tokenizer.chat_template = LLAMA.replace("<|end|>", "<|pad|>")
    assert end_of_turn(both) == pad
    with pytest.raises(BadInput, match="none of its tokens stops generation"):
        end_of_turn(replace(chat, end_ids=frozenset()))


def test_the_template_check_is_silent_on_templates_that_keep_what_is_written(chat, with_template):
    assert check_template(chat, [row()]) == []
    assert check_template(with_template(LLAMA), [row()]) == []


def test_the_template_check_speaks_of_dropped_and_altered_thinking(with_template):
    assert DROPS in told(with_template(DROPPING), [row()])
    words = told(with_template(QWEN3), [row()])
    assert "alters the thinking" in words and DROPS_LATER in words and DROPS not in words
    assert "1 of 1 rows" in words


def test_the_template_check_speaks_of_doubled_tags(with_template):
    assert "doubles the tag <think>" in told(with_template(DOUBLES), [row()])
    twice = told(with_template(LLAMA), [row(f"<think>{WRITTEN}")])
    assert "<think> stands more than once" in twice


def test_the_template_check_speaks_of_text_that_is_not_there_once(with_template):
    upper = LLAMA.replace("m['content']", "m['content'].replace('answer', 'result')")
    assert "exactly once" in told(with_template(upper), [row(ANSWER)])


def test_the_template_check_speaks_of_thinking_that_never_ends(chat, with_template):
    assert NEVER_CLOSED in told(chat, [row(ANSWER)])  # its generation prompt opens thinking
    assert NEVER_CLOSED in told(with_template(LLAMA), [row(f"<think>{THINKING}")])
    assert NEVER_CLOSED not in told(with_template(LLAMA), [row(ANSWER)])


@pytest.fixture(scope="module")
def styles(embedded_model, tmp_path_factory):
    """Three tokenizer folders that differ from the embedded one by their template alone, opened as any student's."""
    from transformers import AutoTokenizer

    chats = {}
    for name, template in (("qwen3", QWEN3), ("llama", LLAMA), ("opens", OPENS)):
        folder = tmp_path_factory.mktemp(name)
        tokenizer = AutoTokenizer.from_pretrained(embedded_model)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        chats[name] = open_chat(folder)
    return chats


@pytest.mark.parametrize("style", ["qwen3", "llama", "opens"])
def test_what_is_trained_is_what_the_student_decodes_in_every_style(styles, style):
    chat = styles[style]
    thinking = f"\n{THINKING}\n"
    encoded = Encoder(chat).row(row(f"<think>{thinking}</think>\n\n{ANSWER}"))
    # The engines show this prompt, and split what follows it as they split any output.
    assert encoded.prompt_ids == chat.render(Request("x", messages=(Message("user", QUESTION),)))
    found = chat.split(encoded.prompt_ids, encoded.completion_ids)
    assert found.closed and found.thinking is not None and found.thinking.strip() == THINKING
    assert found.answer.strip() == ANSWER
    text = chat.decode_all(encoded.input_ids)
    assert text.count("<think>") == text.count("</think>") == text.count(THINKING) == 1
    assert text.index("<think>") < text.index(THINKING) < text.index("</think>")
    assert encoded.completion_ids.count(encoded.completion_ids[-1]) == 1
    assert chat.decode_all(encoded.completion_ids[-1:]) == "<|end|>"


def test_the_warnings_of_the_three_styles(styles):
    stock = row(f"<think>\n{THINKING}\n</think>\n\n{ANSWER}")
    assert check_template(styles["llama"], [stock]) == []
    (only,) = check_template(styles["qwen3"], [stock])
    assert only.startswith(DROPS_LATER)
    assert check_template(styles["opens"], [stock]) == []
    assert NEVER_CLOSED in told(styles["opens"], [row(ANSWER)])


def test_rows_that_do_not_fit_are_dropped_whole_and_counted(chat):
    encoder = Encoder(chat)
    rows = [encoder.row(row()), encoder.row(row(f"<think>{THINKING * 5}</think>{ANSWER}"))]
    sizes = [len(each.input_ids) for each in rows]
    kept = keep_fitting(rows, lambda each: len(each.input_ids), sizes[0])
    assert kept.rows == rows[:1] and kept.dropped == 1 and kept.longest == sizes[1]
    assert keep_fitting(rows, lambda each: len(each.input_ids), sizes[1]).dropped == 0
    with pytest.raises(BadInput, match=f"all 2 rows are longer than max_length={sizes[0] - 1}"):
        keep_fitting(rows, lambda each: len(each.input_ids), sizes[0] - 1)


def test_the_order_gives_every_row_its_passes_and_full_updates():
    lengths = list(range(1, 11))
    order = data_order(lengths, batch=4, epochs=2, seed=0)
    assert update_count(10, 4, 2) == 5 and len(order) == 20
    assert all(order.count(each) == 2 for each in range(10))
    filled = data_order(lengths, batch=8, epochs=1, seed=0)
    assert len(filled) == 16 and set(filled) == set(range(10))
    assert update_count(10, 4, 0.1) == 1


def test_the_order_is_the_seeds_and_sorted_within_an_update():
    lengths = [7, 3, 9, 1, 5, 8, 2, 6]
    order = data_order(lengths, batch=4, epochs=1, seed=3)
    assert order == data_order(lengths, batch=4, epochs=1, seed=3) != data_order(lengths, batch=4, epochs=1, seed=4)
    for update in (order[:4], order[4:]):
        assert [lengths[each] for each in update] == sorted(lengths[each] for each in update)


def test_a_pool_puts_rows_of_like_length_together():
    lengths = [1, 100] * 32

    def kinds(pool: int) -> list[int]:
        order = data_order(lengths, 8, 1, 0, pool=pool)
        return [len({lengths[row] for row in order[at : at + 8]}) for at in range(0, 64, 8)]

    assert kinds(pool=8) == [1] * 8
    assert 2 in kinds(pool=1)


def test_the_global_batch_is_shared_out_or_refused():
    config = SftConfig(batch_size=32, micro_batch=4)
    assert World(0, 1).accumulation(config) == 8
    assert World(1, 2).accumulation(config) == 4
    with pytest.raises(BadInput, match=r"3 process\(es\) \* micro_batch=4 = 12"):
        World(0, 3).accumulation(config)
    assert World.from_environment({"RANK": "1", "WORLD_SIZE": "2"}) == World(1, 2)
    assert World.from_environment({}) == World(0, 1)


def test_settings_are_decided_by_size_and_checked():
    small, large = resolved(SftConfig(), 2_000_000, False), resolved(SftConfig(), 7_000_000_000, True)
    assert (small.tuning, small.learning_rate, small.dtype) == ("full", 3e-4, "float32")
    assert (large.tuning, large.learning_rate, large.dtype) == ("lora", 2e-4, "bfloat16")
    assert resolved(SftConfig(tuning="full"), 7_000_000_000, True).learning_rate == 1e-5
    assert resolved(SftConfig(learning_rate=0.5), 1, False).learning_rate == 0.5
    assert (small.gradient_checkpointing, large.gradient_checkpointing) == ("off", "on")
    for wrong in ({"epochs": 0}, {"learning_rate": -1.0}, {"micro_batch": 0}, {"warmup": 1.0}, {"lora_targets": ()}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            SftConfig(**wrong)
    with pytest.raises(BadInput, match="beta"):
        DpoConfig(beta=0)


def test_the_installed_trl_keeps_its_side_and_another_is_refused():
    check_trl()
    with pytest.raises(MissingPart, match=r"trl 1\.\d+\.\d+ is installed, >=9"):
        check_version("trl", ">=9")
    with pytest.raises(MissingPart, match="no-such-package is not installed"):
        check_version("no-such-package", ">=1")
    with pytest.raises(MissingPart, match=r"makes \[1\] of tokenised rows, where \[2\]"):
        check_probe(lambda: ([1], [2]))

    def gone():
        raise ImportError("no name DataCollator")

    with pytest.raises(MissingPart, match="lacks what laconic relies on"):
        check_probe(gone)


def test_lora_without_peft_says_what_to_install(monkeypatch):
    check_peft()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPart, match=r"pip install 'peft.*--tuning full"):
        check_peft()
