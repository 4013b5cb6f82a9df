"""Chunks: they restore the text, keep their lengths, and cut no formula."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cot.datagen.student import split_output
from cot.segments import Chunk, count_reflections, join_chunks, split_chunks
from eval_math.errors import BadInput

BLANKS = ["\n\n", "\n", "\r\n\r\n", " ", "\x85", "\u2003"]
PIECES = st.sampled_from(
    [*BLANKS, "word", "two words ", "End. ", "é ", "$x + y", "$", "\\[", "\\]", "\\boxed{", "}", "```\n"]
)
TEXTS = st.lists(PIECES, max_size=80).map("".join) | st.text(max_size=200)


def words(n: int, mark: str = "w") -> str:
    return " ".join(f"{mark}{i}" for i in range(n))


@given(TEXTS, st.integers(1, 6), st.integers(0, 10), st.sampled_from(["paragraph", "sentence"]))
@example("", 1, 0, "paragraph")
@example("\n\n\n\n", 1, 0, "paragraph")
@example(" \r\n\r\n a \r\n\r\n\r\n b\n \n", 1, 0, "paragraph")
@settings(max_examples=400, deadline=None)
def test_chunks_restore_the_text_and_keep_their_lengths(text, least, more, boundary):
    chunks = split_chunks(text, least, least + more, boundary)
    assert join_chunks(chunks) == text
    assert all(not chunk.separator.strip() for chunk in chunks)
    for chunk in chunks[:-1]:
        assert chunk.n_words >= least
    if not any(mark in text for mark in "$\\`"):
        assert all(chunk.n_words <= least + more for chunk in chunks)


def test_a_chunk_closes_at_the_first_blank_line_after_enough_words():
    text = f"{words(3)}\n\n{words(4)}\n \n{words(6)}\n{words(2)}\n\n\n{words(5)}"
    chunks = split_chunks(text, 5, 50)
    assert [chunk.n_words for chunk in chunks] == [7, 8, 5]
    assert [chunk.separator for chunk in chunks] == ["\n \n", "\n\n\n", ""]


def test_white_space_at_the_ends_is_kept():
    assert split_chunks("\n a b \n\n", 1, 9) == [Chunk("\n a b", " \n\n")]
    assert split_chunks(" \n ", 1, 9) == [Chunk("", " \n ")]
    assert split_chunks("", 1, 9) == []


def test_a_short_tail_joins_the_chunk_before_it_where_there_is_room():
    text = f"{words(10)}\n\n{words(4)}"
    assert [chunk.n_words for chunk in split_chunks(text, 10, 50)] == [14]
    assert [chunk.n_words for chunk in split_chunks(text, 8, 50)] == [10, 4]
    assert [chunk.n_words for chunk in split_chunks(text, 10, 12)] == [10, 4]


def test_too_long_a_paragraph_is_cut_at_its_last_sentence_end_else_at_the_last_word():
    text = f"{words(6)} end. {words(4)} end! {words(9)}"
    assert [chunk.n_words for chunk in split_chunks(text, 3, 13)] == [12, 9]
    assert [chunk.n_words for chunk in split_chunks(words(25), 3, 10)] == [10, 10, 5]
    late = f"a. {words(30)}"
    assert split_chunks(late, 5, 20)[0].n_words == 20


@pytest.mark.parametrize(
    "span",
    [
        "$a + b + c + d = e$",
        "$$a + b\n+ c + d$$",
        "\\[ a + b\n\n + c + d \\]",
        "\\( a + b + c + d \\)",
        "\\boxed{a + {b + c} + d}",
        "```py\na = 1\n\nb = 2 + 3 + 4\n```",
    ],
)
def test_a_span_is_never_cut_even_where_it_is_longer_than_a_chunk(span):
    for before in range(4):
        text = f"{words(before)}\n{span}\n{words(6)}".strip()
        chunks = split_chunks(text, 1, 3)
        assert join_chunks(chunks) == text
        assert sum(span in chunk.text for chunk in chunks) == 1, chunks
        assert all(chunk.n_words <= 3 for chunk in chunks if span not in chunk.text)


def test_currency_opens_no_formula():
    text = "It costs $5 to enter.\n\nHe has $7 left."
    assert [chunk.text for chunk in split_chunks(text, 2, 20)] == text.split("\n\n")


def test_traces_without_blank_lines_are_cut_at_sentence_ends():
    text = "So 12+5=17. Wait, let me double-check: 12+5=17. Yes, that is right. So 17*2=34."
    chunks = split_chunks(text, 3, 9, boundary="sentence")
    assert [chunk.text for chunk in chunks] == [
        "So 12+5=17. Wait, let me double-check: 12+5=17.",
        "Yes, that is right.",
        "So 17*2=34.",
    ]
    assert len(split_chunks(text, 3, 400)) == 1


@pytest.mark.parametrize("least, most", [(0, 5), (6, 5), (-1, 5)])
def test_limits_that_cannot_be_met_are_refused(least, most):
    with pytest.raises(BadInput, match=f"min_words={least}, max_words={most}; 1 <= min <= max"):
        split_chunks("a", least, most)
    with pytest.raises(BadInput, match="boundary='line'; paragraph or sentence"):
        split_chunks("a", 1, 2, "line")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unit",
    [
        "word word\n\n",
        "word ",
        "\n",
        "$x ",
        "\\[ a ",
        "\\boxed{ ",
        "``` \n",
        "! ",
        "!)",
        "\\boxed{1} ",
        "$x$ ",
        " \t",
        "\r",
    ],
)
def test_time_is_linear(unit):
    def seconds(n):
        text = unit * n
        started = time.perf_counter()
        assert join_chunks(split_chunks(text)) == text
        return time.perf_counter() - started

    small = max(min(seconds(10_000) for _ in range(2)), 0.005)
    assert seconds(100_000) < 40 * small


def test_reflections_are_counted_as_whole_words():
    text = "Wait, 3 waiters. Hmm, alternatively let's check. await Let me verify this. Is that right? It is right."
    assert count_reflections(text) == 6
    assert count_reflections("So 12+5=17. Therefore the answer is 17.") == 0
    assert count_reflections("Wait, is that correct? 12+5=17. Yes, it is.") == 2


def test_real_traces_are_cut_by_the_rules(data_folder):
    with gzip.open(data_folder / "traces" / "traces.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    sizes, over = [], 0
    for row in rows:
        for text in (row["trace"], row["trace"].replace("\n", "\r\n")):
            chunks = split_chunks(text)
            assert join_chunks(chunks) == text
            assert all(chunk.n_words >= 50 for chunk in chunks[:-1])
            over += sum(chunk.n_words > 400 for chunk in chunks)
            sizes += [chunk.n_words for chunk in chunks]
    assert len(rows) > 1000
    assert over <= 0.001 * len(sizes)
    long = next(row for row in rows if row["style"] == "long" and row["closed"] and "</think>" in row["trace"])
    output = split_output(long["trace"])
    assert output is not None and len(split_chunks(output.thinking)) > 3
