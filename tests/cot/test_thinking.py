"""The one splitter: which ids are thinking, which are answer."""

import pytest

from cot.thinking import ThinkTags, find_tags, prompt_state, split, think_end

START, END, STOP = 300, 301, 302
IDS = ThinkTags(START, END)
TEXT = ThinkTags()


def decode(ids):
    names = {START: "<think>", END: "</think>", STOP: ""}
    return "".join(names.get(i) if i in names else chr(i) for i in ids)


def ids(text):
    """Characters as ids; S, E and . stand for the start tag, the end tag and the stop token."""
    special = {"S": START, "E": END, ".": STOP}
    return [special.get(c, ord(c)) for c in text]


TABLE = {
    "opened by prompt": ("qS", "abEcd.", "ab", "cd", 3, 3, True),
    "opened by output": ("q", "SabEcd.", "ab", "cd", 4, 3, True),
    "opened by output after blanks": ("q", "  SabEc", "  ab", "c", 6, 1, True),
    "closed by prompt": ("qSE", "cd.", None, "cd", 0, 3, False),
    "closed by prompt, stray end tag": ("qSE", "cEd.", None, "cd", 0, 4, False),
    "no tags": ("q", "cd.", None, "cd", 0, 3, False),
    "start tag lost": ("q", "abEc.", "ab", "c", 3, 2, True),
    "opened by prompt, never closed": ("qS", "abc", "abc", "", 3, 0, False),
    "opened by output, never closed": ("q", "Sabc", "abc", "", 4, 0, False),
    "several end tags": ("qS", "aEbEc.", "a", "bc", 2, 4, True),
    "reopened in the answer": ("qS", "aEbSc.", "a", "bc", 2, 4, True),
    "start tag late in an answer": ("qSE", "cSd", None, "cd", 0, 3, False),
    "ends at the end tag": ("qS", "abE", "ab", "", 3, 0, True),
    "at once closed": ("qS", "Ec.", "", "c", 1, 2, True),
    "nothing generated": ("qS", "", "", "", 0, 0, False),
    "several turns": ("qSaEcq2S", "bEd", "b", "d", 2, 1, True),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_split_by_ids(case):
    prompt, output, thinking, answer, n_thinking, n_answer, closed = case
    got = split(ids(prompt), ids(output), IDS, decode)
    assert (got.thinking, got.answer, got.closed) == (thinking, answer, closed)
    assert (got.n_thinking, got.n_answer) == (n_thinking, n_answer)
    assert got.n_thinking + got.n_answer == len(output)


def spelled(text):
    return [ord(c) for c in text.replace("S", "<think>").replace("E", "</think>").replace(".", "")]


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_split_by_text_agrees_where_tags_are_several_tokens(case):
    prompt, output, thinking, answer, *_, closed = case
    got = split(spelled(prompt), spelled(output), TEXT, decode)
    assert (got.thinking, got.answer, got.closed) == (thinking, answer, closed)
    assert got.n_thinking + got.n_answer == len(spelled(output))
    if closed:
        assert decode(spelled(output)[: got.n_thinking]).endswith("</think>")


def test_end_tag_inside_a_token():
    pieces = {1: "so", 2: "</thi", 3: "nk>\n\n4", 4: "2"}
    got = split([9], [1, 2, 3, 4], TEXT, lambda tokens: "".join(pieces.get(t, "") for t in tokens))
    assert (got.thinking, got.answer, got.n_thinking, got.n_answer) == ("so", "\n\n42", 3, 1)


def test_prompt_states_and_think_end_positions():
    assert [prompt_state(ids(p), IDS, decode) for p in ("q", "qS", "qSE", "qSEqS")] == [
        "none",
        "open",
        "closed",
        "open",
    ]
    assert think_end(ids("qS"), ids("abEc"), IDS, decode) == 4
    assert think_end(ids("qSEx"), ids("abE"), IDS, decode) == 2
    assert think_end(ids("qS"), ids("ab"), IDS, decode) is None
    assert think_end(ids("qS"), ids("abE"), TEXT, decode) is None


def test_a_pair_of_tags_in_the_prompt_does_not_hide_the_thinking_of_the_output():
    prompt = ids("useSEq")
    for output, end in {"": 4, "ab": 4, "abSc": 4, "S": None, " Sab": None, "SabEc": 9, " SaEbSc": 9}.items():
        assert think_end(prompt, ids(output), IDS, decode) == end, output


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_think_end_agrees_with_split(case):
    prompt, output, *_, n_thinking, _, closed = case
    end = think_end(ids(prompt), ids(output), IDS, decode)
    if closed:
        assert end == len(prompt) + n_thinking - 1
    elif n_thinking:
        assert end is None
    else:
        assert end is None or end < len(prompt)


def test_a_running_request_follows_the_tags_as_they_come(random_model):
    import time

    import numpy as np

    from cot.chat import open_chat
    from cot.engines.vllm_rows import Fed
    from cot.engines.work import Work
    from eval_math.records import Request

    chat = open_chat(random_model)
    prompt, output = chat.encode("use <think></think>. q"), chat.encode(" <think>ab</think>4</think>2")
    fed = Fed.of(Work(Request("p", prompt_ids=tuple(prompt)), tuple(prompt), 0, 99, time.perf_counter()), chat)
    whole, ends = np.array([*prompt, *output]), [fed.think_end]
    for length in range(1, len(output) + 1):
        fed.scan(whole[: len(prompt) + length])
        ends.append(fed.think_end)
    closed, end = prompt.index(chat.tags.end_id), len(prompt) + output.index(chat.tags.end_id)
    assert ends == [closed] * 2 + [None] * 3 + [end] * (len(output) - 4)


def test_tags_of_a_tokenizer(random_model):
    from cot.chat import open_chat

    assert find_tags(open_chat(random_model).tokenizer) == ThinkTags(261, 262)


def test_unknown_tags_fall_back_to_text(tmp_path, write_tokenizer):
    from cot.chat import open_chat

    write_tokenizer(tmp_path, tags=False)
    chat = open_chat(tmp_path)
    assert chat.tags == ThinkTags()
    got = chat.split(chat.encode("q<think>"), chat.encode("ab</think>cd"))
    assert (got.thinking, got.answer, got.n_thinking, got.n_answer) == ("ab", "cd", 10, 2)
