"""Gates on real long traces: what is left out passes, what is changed does not."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from cot.datagen.contamination import ContaminationIndex
from cot.datagen.gates import GATES, Candidate, GateSettings, check
from cot.datagen.numbers import invented, read_facts
from cot.datagen.student import split_output

THOUGHT = {"<|begin_of_thought|>": "<think>", "<|end_of_thought|>": "</think>"}


@pytest.fixture(scope="module")
def pairs(data_folder: Path) -> list[dict[str, str]]:
    lines = (data_folder / "traces" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def candidate(pair: dict[str, str], text: str | None = None) -> Candidate:
    long = pair["long"]
    for mark, tag in THOUGHT.items():
        long = long.replace(mark, tag)
    output = split_output(long)
    assert output is not None
    text = pair["short"] if text is None else text
    return Candidate(pair["problem"], output.thinking, text, text, pair["gold"], output.answer)


def shares(candidates: list[Candidate]) -> dict[str, float]:
    counts = Counter(rejection.gate for each in candidates for rejection in check(each, GateSettings()))
    return {gate: counts[gate] / len(candidates) for gate in GATES}


def some_sentences(text: str, rng: random.Random) -> str:
    sentences = re.split(r"(?<=[.!?\n])(?=\s)", text)
    return "".join(sentence for sentence in sentences if rng.random() < 0.6)


def test_independent_short_solutions_fail_on_numbers_alone(pairs):
    """They solve the problem in another way, so their numbers are often new; nothing else about them is wrong."""
    share = shares([candidate(pair) for pair in pairs])
    assert 0.05 < share.pop("numeric_facts") < 0.35
    assert share.pop("shorter") <= 0.03
    assert max(share.values()) <= 0.01, share


def test_leaving_out_sentences_passes(pairs):
    rng = random.Random(0)
    share = shares([candidate(pair, some_sentences(candidate(pair).source, rng)) for pair in pairs])
    assert share["numeric_facts"] <= 0.01
    assert sum(share.values()) <= 0.04, share


def test_one_changed_digit_is_caught(pairs):
    rng = random.Random(1)
    tried = caught = 0
    for pair in pairs:
        whole = candidate(pair)
        given = (read_facts(whole.source), read_facts(whole.question))
        for _ in range(4):
            text = some_sentences(whole.source, rng)
            digits = [match.start() for match in re.finditer(r"\d", text)]
            place = rng.choice(digits)
            text = text[:place] + rng.choice("0123456789".replace(text[place], "")) + text[place + 1 :]
            tried += 1
            caught += any(True for _ in invented(text, given))
    assert caught >= 0.97 * tried, (caught, tried)


def test_test_questions_are_found_and_others_are_not(pairs):
    questions = [pair["problem"] for pair in pairs]
    index = ContaminationIndex(questions[::2])
    assert all(index.find(question) for question in questions[::2])
    assert sum(index.find(question) is not None for question in questions[1::2]) <= 6
