"""R1-Compress's search: the likeliest of the shortest versions, chunk by chunk, after what was chosen before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from writer import ScriptedWriter, write_rows

from cot.datagen.job import Job, JobConfig, run_job
from cot.datagen.student import Student
from cot.datagen.supply import Supply
from cot.r1_compress import R1Compress
from eval_math.errors import BadInput

CHUNKS = (
    "Now we begin, so 2+3=5, which is what we wanted to know first.",
    "Wait, is that right, I ask? Yes, 2+3=5 again, it is.",
    "Then we take 5+4=9, which is the sum that we were asked for.",
)
SOURCE = {
    "question": "2+3+4?",
    "answer": "9",
    "output": "\n\n".join(CHUNKS) + "</think>The answer is \\boxed{9}.",
}


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.named("embedded")


@dataclass
class Versions(ScriptedWriter):
    """Gives ``texts[chunk][sample]``; a completion is as likely as ``likely`` says, text by text (0 unless listed)."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    likely: dict[str, float] = field(default_factory=dict)

    def generate(self, requests, *, on_trace=None):
        requests = list(requests)
        for request in requests:
            chunk = request.messages[-1].content.removeprefix("Shorten: ")
            self.answer = lambda text, listed=self.texts[chunk], n=request.sample: listed[n]
            yield from super().generate([request])

    def score(self, items):
        super().score(items)
        texts = ["".join(map(chr, completion)) for _, completion in items]
        return [[self.likely.get(text, -9.0)] * len(text) for text in texts]


FIRST = ["So 2+3=5.", "Now 2+3=5, first."]
SECOND = ["Wait? 2+3=5, yes.", "Wait, 2+3=5."]
THIRD = ["Then 5+4=9.", "So the sum 5+4=9."]


def engine(**likely: float) -> Versions:
    return Versions(
        texts=dict(zip(CHUNKS, (FIRST, SECOND, THIRD), strict=True)), likely={k: v for k, v in likely.items()}
    )


def run(tmp_path, student, rewriter: R1Compress, writer: ScriptedWriter, name="a"):
    source = write_rows(tmp_path / "s.jsonl", [SOURCE])
    stats = run_job(Job(JobConfig((source,), tmp_path / name), rewriter, student), Supply(lambda: writer)).stats
    lines = (tmp_path / name / "train.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["completion"][0]["content"] for line in lines]
    return [text.removeprefix("<think>").split("</think>")[0] for text in texts], stats


def settings(**changes) -> R1Compress:
    base = {"min_words": 8, "versions": 2, "keep": 1.0, "compressor": "embedded"}
    return R1Compress(**(base | changes))


def test_the_likeliest_version_of_each_chunk_is_taken(tmp_path, student):
    writer = engine(**{FIRST[1]: -1, SECOND[0]: -2, CHUNKS[1]: -3, THIRD[1]: -0.5})
    assert run(tmp_path, student, settings(), writer)[0] == ["\n\n".join([FIRST[1], SECOND[0], THIRD[1]])]


def test_the_order_of_versions_decides_nothing_but_ties(tmp_path, student):
    writer = engine(**{FIRST[1]: -1, SECOND[0]: -2, CHUNKS[1]: -3, THIRD[1]: -0.5})
    writer.texts = {chunk: listed[::-1] for chunk, listed in writer.texts.items()}
    assert run(tmp_path, student, settings(), writer)[0] == ["\n\n".join([FIRST[1], SECOND[0], THIRD[1]])]
    tied = run(tmp_path, student, settings(), engine(), "b")[0]
    shortest = [min(listed, key=student.count) for listed in (FIRST, SECOND, THIRD)]
    assert tied == ["\n\n".join(shortest)]


def test_scores_follow_what_was_chosen(tmp_path, student):
    for best, name in ((FIRST[0], "a"), (FIRST[1], "b")):
        writer = engine(**{best: -1})
        run(tmp_path, student, settings(), writer, name)
        prompts = ["".join(map(chr, prompt)) for prompt, _ in writer.scored]
        second = [
            prompt
            for prompt, (_, text) in zip(prompts, writer.scored, strict=True)
            if "".join(map(chr, text)) in SECOND
        ]
        assert second
        assert all(prompt.endswith(f"<think>{best}\n\n") for prompt in second)
        assert all(prompt.startswith("2+3+4?") for prompt in prompts)


def test_keeping_one_asks_no_scorer(tmp_path, student):
    writer = engine()
    rewriter = settings(keep=1 / 3)
    assert rewriter.needs == {"generate"}
    texts, _ = run(tmp_path, student, rewriter, writer)
    assert writer.scored == []
    assert texts == ["\n\n".join(min(listed, key=student.count) for listed in (FIRST, SECOND, THIRD))]


def test_mean_and_sum_can_part(tmp_path, student):
    # One short and unlikely version, one long and likely: the mean takes the likely, the sum the short one.
    likely = {"So 2+3=5.": -2.0, "Now 2+3=5, first.": -1.5, CHUNKS[0]: -9.0}
    mean = run(tmp_path, student, settings(), engine(**likely))[0][0]
    total = run(tmp_path, student, settings(score="sum"), engine(**likely), "b")[0][0]
    assert mean.startswith("Now 2+3=5, first.")
    assert total.startswith("So 2+3=5.")


def test_without_versions_the_source_is_all_there_is(tmp_path, student):
    texts, stats = run(tmp_path, student, settings(versions=0), engine())
    # The text is the source's, which is no shorter, so the row is refused; the search has changed nothing.
    assert texts == []
    assert dict(stats.gates) == {"shorter": 1}
    rejected = json.loads((tmp_path / "a" / "rejected.jsonl").read_text("utf-8"))
    assert rejected["text"] == "\n\n".join(CHUNKS)


def test_refused_versions_are_never_chosen(tmp_path, student):
    writer = engine(**{"So 2+3=6.": 0.0})
    writer.texts = {**writer.texts, CHUNKS[0]: ["So 2+3=6.", "So 2+3=5."]}
    texts, stats = run(tmp_path, student, settings(), writer)
    assert texts[0].startswith("So 2+3=5.")
    assert stats.gates["numeric_facts"] == 1


def test_a_job_killed_between_chunks_asks_nothing_twice(tmp_path, student):
    first = engine()
    score, calls = first.score, []

    def dying(items):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(items)

    first.score = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, student, settings(), first)
    second = engine()
    resumed = run(tmp_path, student, settings(), second)[0]
    assert second.asked == []
    assert len(second.scored) == 2 * 3
    assert resumed == run(tmp_path, student, settings(), engine(), "b")[0]


def test_another_model_may_score(tmp_path, student):
    writer, judge = engine(), engine(**{FIRST[1]: -1.0})
    source = write_rows(tmp_path / "s.jsonl", [SOURCE])
    job = Job(JobConfig((source,), tmp_path / "a"), settings(), student)
    run_job(job, Supply(lambda: writer), Supply(lambda: judge))
    assert (writer.scored, judge.asked) == ([], [])
    assert len(judge.scored) == 9


def test_reflections_are_counted(tmp_path, student):
    _, stats = run(tmp_path, student, settings(), engine(**{SECOND[0]: -1}))
    assert stats.figures["reflections_source"].total >= stats.figures["reflections_kept"].total == 1


@pytest.mark.parametrize("bad", [{"versions": -1}, {"keep": 0}, {"keep": 1.5}, {"compressor": "x"}])
def test_bad_settings(bad):
    with pytest.raises(BadInput):
        R1Compress(**bad)
