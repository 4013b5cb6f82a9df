"""Gates: what each lets pass and what it stops, on small texts."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot.datagen.contamination import ContaminationIndex
from cot.datagen.gates import GATES, Candidate, GateSettings, Rejection, check, clean, measure
from eval_math.errors import BadInput

SETTINGS = GateSettings()
SOURCE = (
    "Okay, let me think about this step by step. Now Liam has 12 apples and buys 5 more. So 12+5=17. "
    "Wait, let me double-check: 12+5=17. Yes, that is right. Now he sells half of them, so $x = 17/2$ is 8.5. "
    "Alternatively, 50% of 17 is 8.5. Therefore the answer is 8.5."
)
GOOD = Candidate(
    question="Liam has 12 apples and buys 5 more. He sells half. How many does he have?",
    source=SOURCE,
    text="So 12+5=17. Then $x = 17/2$ is 8.5. Therefore the answer is 8.5.",
    raw="So 12+5=17. Then $x = 17/2$ is 8.5. Therefore the answer is 8.5.",
    answer="8.5",
    answer_text="The answer is \\boxed{8.5}.",
    n_source_tokens=100,
    n_tokens=40,
    instruction="Rewrite the reasoning below so that it is shorter. Keep every number and every check that matters.",
)
CHUNK = dataclasses.replace(
    GOOD, before="Liam has 12 apples.", source="Then 12+5=17, so n = 17 now.", text="So n = 17.", last=False
)


def rejected(candidate: Candidate, settings: GateSettings = SETTINGS, **changes: object) -> dict[str, str]:
    changed = dataclasses.replace(candidate, **changes)  # type: ignore[arg-type]
    return {rejection.gate: rejection.reason for rejection in check(changed, settings)}


CHECKED = "So 12+5=17. Then 17-3=14. Wait, check that: 12+5=17, yes. Wait, once more: 17-3=14."


@pytest.mark.parametrize(
    "text, before, again",
    [
        ("So 12+5=17. So 17-3=14. So 12+5=17.", "", "12+5=17"),
        ("So 17-3=14.", "So 12+5=17. Then 17-3=14.", "17-3=14"),
        ("So 20-3=17. So 17-3=14.", "So 12+5=17.", "20-3=17"),
        ("So 12+5=17. So 17-3=14.", "", None),
        ("So 12+5=17. So 17-3=14. Wait, 12+5=17.", "", None),
    ],
)
def test_a_check_in_a_chunk_stays_one_or_goes(text, before, again):
    found = rejected(CHUNK, source=CHECKED, text=text, before=before, last=False)
    assert found.get("checks_marked") == (again and f"{again} is stated again, and no word says that this is a check")


def test_a_chunk_takes_no_step_that_its_source_does_not_take():
    source = "Wait, let me double-check: 12+5=17. Yes, that is right, 17 it is."
    found = rejected(CHUNK, source=source, before="So 12+5=17.", text="So 17+5=22. Wait.", last=False)
    assert found.get("new_steps") == "17+5=22 is a step that the source does not take"
    assert "numeric_facts" not in found  # the equation holds, and its numbers are given
    for text in ("So 12+5=17. Wait.", "Wait, 5+12=17.", "So 10+7=17. Wait, check."):
        assert "new_steps" not in rejected(CHUNK, source=source, before="So 12+5=17.", text=text, last=False)
    # A whole trace may be solved by another way.
    assert "new_steps" not in rejected(GOOD, text="So 12+5=17. So 34/2=17. Therefore the answer is 8.5.")


def test_repeats_that_the_source_does_not_mark_either_may_stay():
    source = "So 12+5=17 here. Then 17-3=14 is what is left. So 12+5=17 is what we had."
    assert "checks_marked" not in rejected(CHUNK, source=source, text="So 12+5=17. So 12+5=17.", before="", last=False)
    assert "checks_marked" not in rejected(GOOD, source=CHECKED, text="So 12+5=17. So 12+5=17.")


def test_a_good_rewrite_passes_every_gate():
    assert check(GOOD, SETTINGS) == []
    assert check(CHUNK, SETTINGS) == []


@pytest.mark.parametrize(
    "gate, changes, reason",
    [
        ("finish", {"finish": "length"}, "finish: length"),
        ("nonempty_clean", {"text": " \n", "raw": "``` ```"}, "nothing is left of '``` ```'"),
        ("nonempty_clean", {"text": "So 12+5=17.<|im_end|>"}, "<|im_end|>"),
        ("nonempty_clean", {"text": "So 12+5=17. </s>"}, "</s>"),
        ("nonempty_clean", {"text": "The given text says 12+5=17."}, "the given text"),
        ("nonempty_clean", {"text": "I'm sorry, but 12+5=17."}, "i'm sorry"),
        ("nonempty_clean", {"text": "So 12+5=17. " + GOOD.instruction}, "characters of the instruction"),
        ("shorter", {"n_tokens": 96}, "0.960 of the source's tokens"),
        ("shorter", {"n_tokens": 4}, "0.040 of the source's tokens"),
        ("shorter", {"text": SOURCE + " So."}, f"{len(SOURCE) + 4} characters"),
        ("shorter", {"n_source_tokens": 0, "n_tokens": 0, "text": SOURCE[:-3]}, "of the source's characters"),
        ("format", {"text": "So 12+5=17.</think>"}, "</think>"),
        ("format", {"text": "So {12+5=17."}, "braces"),
        ("format", {"text": "So $x = 17/2."}, "dollar signs"),
        ("format", {"text": "So \\[x = 17/2."}, "\\[ \\]"),
        ("format", {"answer_text": "\\boxed{8} No.\n\n\\boxed{8.5}"}, "2 different boxed answers"),
        ("format", {"answer_text": "<think>again</think> \\boxed{8.5}"}, "think tag"),
        ("language", {"text": "Also 12+5=17，因为他买了五个苹果。"}, "of the letters are Han"),
        ("language", {"text": "Итак, 12+5=17. Ответ 8.5."}, "Cyrillic"),
        ("repetition", {"text": "So 12+5=17 and this is what we have here now. " * 6}, "of the runs of 8 words"),
        ("numeric_facts", {"text": "So 12+5=18."}, "12+5 = 18 does not hold"),
        ("numeric_facts", {"text": "So 12+6=18."}, "6 is neither in the source nor in the question"),
        ("numeric_facts", {"text": "Now Liam has 17 apples and buys 5 more."}, "the source has 12 here"),
        ("answer_kept", {"answer_text": "The answer is \\boxed{8}."}, "'8'"),
        ("answer_kept", {"answer": "9"}, "'8.5'"),
        ("answer_kept", {"text": "So 12+5=17. The answer is 17."}, "states the answer '17', the reference is '8.5'"),
        ("answer_kept", {"answer_text": "", "text": "So the answer is 17."}, "'17'"),
    ],
)
def test_what_is_stopped(gate, changes, reason):
    assert reason in rejected(GOOD, **changes).get(gate, "passed")


@pytest.mark.parametrize(
    "gate, changes",
    [
        ("nonempty_clean", {"text": "So 12+5=17 and a < b, [1] <x>."}),
        ("nonempty_clean", {"text": "The text says 12.", "source": SOURCE + " The text says 12."}),
        ("nonempty_clean", {"text": SOURCE[:90], "instruction": f"Shorten: {SOURCE}"}),
        ("shorter", {"n_tokens": 95}),
        ("shorter", {"n_tokens": 5}),
        ("over_length", {"n_tokens": 10**6}),
        ("format", {"text": "He pays $5 of $12."}),
        ("format", {"text": "He pays $5 for $x$."}),
        ("format", {"text": "So \\{12\\} and {17}."}),
        ("format", {"text": "So {12", "source": SOURCE + " {"}),
        ("format", {"answer_text": "\\boxed{8.5}. So \\boxed{8.5}."}),
        ("format", {"answer_text": "\\boxed{1} and \\boxed{2}"}),
        ("language", {"text": "So α + β = 17 and naïve Ångström."}),
        ("language", {"text": "所以 12+5=17。", "source": "好的，所以 12+5=17，因为他买了五个。"}),
        ("repetition", {"text": "So 12+5=17 and this is what we have. " * 2}),
        ("repetition", {"text": "1 1 1 1 1 1 1 1 1"}),
        ("answer_kept", {"text": "So 12+5=17. Then half of it."}),
        ("answer_kept", {"text": "So the answer is right."}),
        ("answer_kept", {"text": "So the answer is 17/2."}),
        ("answer_kept", {"text": "So the answer is 17.", "source": SOURCE + " No, the answer is 17."}),
        ("answer_kept", {"answer": "\\frac{17}{2}"}),
        ("answer_kept", {"answer_text": "", "text": "So \\boxed{8.5}"}),
        ("reflection", {"text": "So 12+5=17."}),
        ("symbols", {"text": "So q = 17."}),
    ],
)
def test_what_passes(gate, changes):
    assert gate not in rejected(GOOD, **changes)


@pytest.mark.parametrize(
    "gate, changes",
    [
        ("symbols", {"text": "So y = 17."}),
        ("symbols", {"text": "So \\(k\\) is 17."}),
        ("answer_leak", {"text": "So n = 17, the answer is 8.5."}),
        ("answer_leak", {"text": "So n = 17, half is \\frac{17}{2}."}),
        ("answer_leak", {"text": "So it is x^2+1.", "answer": "x^2 + 1"}),
    ],
)
def test_what_is_stopped_in_a_chunk(gate, changes):
    assert gate in rejected(CHUNK, **changes)


@pytest.mark.parametrize(
    "gate, changes",
    [
        ("symbols", {"text": "I say a let's-go e.g. n = 17; that's it, i.e. \\alpha \\text{k}."}),
        ("symbols", {"text": "So y = 17.", "question": "Find y."}),
        ("answer_leak", {"answer": "17"}),
        ("answer_leak", {"text": "So 8.5 it is.", "before": "Half is 8.5."}),
        ("answer_leak", {"text": "So 2 it is.", "answer": "2"}),
        ("answer_leak", {"text": "So B it is.", "answer": "(B)"}),
        ("answer_leak", {"text": "So 2x^2+12.", "answer": "x^2+1"}),
        ("answer_leak", {"text": "So 8.5 it is.", "last": True}),
        ("answer_kept", {"text": "The answer is 17."}),
    ],
)
def test_what_passes_in_a_chunk(gate, changes):
    assert gate not in rejected(CHUNK, **changes)


def test_settings_move_the_thresholds():
    assert "over_length" in rejected(GOOD, GateSettings(most_tokens=39))
    assert "over_length" not in rejected(GOOD, GateSettings(most_tokens=40))
    assert "shorter" in rejected(GOOD, GateSettings(most_ratio=0.39))
    assert "reflection" in rejected(GOOD, GateSettings(check_reflection=True))
    kept = "So 12+5=17. Wait, let me double-check: 12+5=17. Alternatively, 50% of 17 is 8.5."
    assert "reflection" not in rejected(GOOD, GateSettings(check_reflection=True), text=kept)
    assert "repetition" in rejected(GOOD, GateSettings(compress_from=10, least_compressed=1.0))
    assert "numeric_facts" in rejected(GOOD, GateSettings(least_results_kept=1.0), text="So 12+5.")
    assert "numeric_facts" not in rejected(GOOD, GateSettings(least_results_kept=1.0))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"least_ratio": 0.9, "most_ratio": 0.5}, "least_ratio=0.9 and most_ratio=0.5"),
        ({"most_foreign": 1.5}, "most_foreign=1.5; a share from 0 to 1"),
        ({"repeat_words": 0}, "repeat_words=0; at least 1"),
        ({"benchmark": "nonsense"}, "'nonsense' has no grading policy"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        GateSettings(**changes)


def test_settings_are_plain_data():
    assert json.loads(json.dumps(dataclasses.asdict(SETTINGS))) == dataclasses.asdict(SETTINGS)


def test_other_token_counts_change_the_verdict():
    assert "shorter" not in rejected(GOOD, n_source_tokens=100, n_tokens=40)
    assert "shorter" in rejected(GOOD, n_source_tokens=40, n_tokens=40)


def test_all_reasons_are_given_or_only_the_first():
    bad = dataclasses.replace(GOOD, finish="length", n_tokens=99, text="So 12+5=18.")
    assert [rejection.gate for rejection in check(bad, SETTINGS)] == ["finish", "shorter", "numeric_facts"]
    assert [rejection.gate for rejection in check(bad, SETTINGS, first=True)] == ["finish"]
    assert all(GATES[rejection.gate](bad, SETTINGS) == rejection.reason for rejection in check(bad, SETTINGS))


def test_the_question_must_not_be_a_test_question():
    index = ContaminationIndex([GOOD.question])
    assert check(GOOD, SETTINGS, index=index) == [
        Rejection("contamination", 'a test question has the words "liam has 12 apples and buys 5 more" too')
    ]
    assert check(GOOD, SETTINGS, index=ContaminationIndex(["What is two and two?"])) == []


def test_figures_are_reported_without_a_verdict():
    figures = measure(GOOD)
    assert (figures.ratio, figures.results_kept) == (0.4, 1.0)
    assert (figures.reflections, figures.reflections_source) == (0, 3)
    assert measure(dataclasses.replace(GOOD, text="So 12.")).results_kept == 0.0
    bare = dataclasses.replace(GOOD, n_source_tokens=0)
    assert measure(bare).ratio == len(GOOD.text) / len(SOURCE)


@pytest.mark.parametrize(
    "raw, text",
    [
        ("  So 1.  ", "So 1."),
        ("<think>\nSo 1.\n</think>", "So 1."),
        ("```\nSo 1.\n\nSo 2.\n```", "So 1.\n\nSo 2."),
        ("```text\nSo 1.\n```", "So 1."),
        ("Here is the rewritten reasoning:\n\nSo 1.", "So 1."),
        ("Sure! Here's a shorter version:\n```\nSo 1.\n```", "So 1."),
        ("**Rewritten text:**\nSo 1.", "So 1."),
        ('"So 1."', "So 1."),
        ("“So 1.”", "So 1."),
        ("So 1.\n\n(Note: I removed the check.)", "So 1."),
        ("So 1.\n\nLet me know if you need more.", "So 1."),
        ("", ""),
        ('"A" is 1 and "B"', '"A" is 1 and "B"'),
        ("Here we have x: 1", "Here we have x: 1"),
        ("'tis 1'", "'tis 1'"),
        ("So:\n```\na = 1\n```\nand\n```\nb\n```", "So:\n```\na = 1\n```\nand\n```\nb\n```"),
        ("The final answer is: 4", "The final answer is: 4"),
        ("Wait, here is why: 4", "Wait, here is why: 4"),
    ],
)
def test_wrappers_are_taken_off_and_nothing_else(raw, text):
    assert clean(raw) == text


def test_cleaning_long_texts_is_quick():
    for unit in ("\n", " ", "<think>", '"', "```\n", "\n(note ", "here is "):
        assert clean("x" + unit * 20_000 + "y").startswith("x")


TEXT = st.text(
    alphabet=st.sampled_from("01259.,/%=+-*^ \n$\\{}()[]<>|abxyzWait Hmm½²×≈π字и\ud800\x00'\"`"), max_size=120
) | st.sampled_from(
    ["So 12+5=17.", "\\frac{1}{2} = 0.5", "1,200", "</think>", "The answer is 5", "\\boxed{5}", "9" * 5000]
)


@given(TEXT, TEXT, TEXT, TEXT, st.sampled_from(["5", "\\frac{1}{2}", "", "x", "yes"]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_check_never_raises_and_says_the_same_again(question, source, text, before, answer, last):
    candidate = Candidate(question, source, clean(text), text, answer, before=before, last=last, instruction=source)
    policy = GateSettings(benchmark="gsm8k", check_reflection=True, least_results_kept=0.5)
    once = check(candidate, policy)
    assert once == check(dataclasses.replace(candidate), policy)
    assert clean(clean(text)) == clean(text)
    assert 0 <= measure(candidate).results_kept <= 1
