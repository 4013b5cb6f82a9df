"""Overlap with test questions: eight words in a row, or a short question as a whole."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot.datagen.contamination import ContaminationIndex

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."


@pytest.fixture
def index() -> ContaminationIndex:
    return ContaminationIndex([QUESTION, "What is $2+2$?", "Compute $\\sin 60^\\circ$."])


@pytest.mark.parametrize(
    "question, words",
    [
        (QUESTION, "natalia sold clips to 48 of her friends"),
        ("  NATALIA   sold clips to 48 of\nher friends!", "natalia sold clips to 48 of her friends"),
        ("Last year she sold half as many clips in May, too.", "she sold half as many clips in may"),
        ("what is 2 + 2", "what is 2 2"),
        ("Natalia sold clips to 48 of her sisters in April.", None),
        ("Natalia sold clips.", None),
        ("What is $2+3$?", None),
        ("", None),
        ("???", None),
    ],
)
def test_eight_words_in_a_row_or_the_whole_short_question(index, question, words):
    assert index.find(question) == words


def test_the_number_of_words_can_be_set():
    assert ContaminationIndex([QUESTION], n_words=4).find("So she sold half as many.") == "she sold half as"
    assert ContaminationIndex([QUESTION], n_words=5).find("So she sold half.") is None


def test_an_empty_index_finds_nothing():
    assert ContaminationIndex([]).find(QUESTION) is None
    assert len(ContaminationIndex([])) == 0


def grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[at : at + 8]) for at in range(max(1, len(words) - 7))} if words else set()


TEXT = st.lists(st.sampled_from(["a", "b", "A,", "\u00e9 ", "1.5"]), max_size=20).map(" ".join)


@given(st.lists(TEXT, max_size=4), TEXT)
def test_hashes_find_what_comparing_words_finds(questions, other):
    index = ContaminationIndex(questions)
    known = {gram for question in questions for gram in grams(question)}
    for question in [*questions, other]:
        assert (index.find(question) is not None) == bool(grams(question) & known)


def test_a_hundred_thousand_questions_fit():
    questions = (
        f"Word{i} one{i % 7} two{i} three four five six seven eight{i} nine ten eleven" for i in range(100_000)
    )
    started = time.perf_counter()
    index = ContaminationIndex(questions)
    assert time.perf_counter() - started < 60
    assert index.n_questions == 100_000
    assert len(index) <= 500_000
    assert index.find("Word99 one1 two99 three four five six seven") is not None
    assert index.find("Word99 one2 two99 three four five six seven") is None
