"""R1-Compress on long traces of real models: segments, gates and search, with a rule for a writer."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from writer import ScriptedWriter, write_rows

from cot.datagen.job import Job, JobConfig, run_job
from cot.datagen.student import Student
from cot.datagen.supply import Supply
from cot.r1_compress import R1Compress
from cot.segments import count_reflections

SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+$")
TRACES = 24


class Trimmer(ScriptedWriter):
    """Leaves out every third sentence that holds no number, formula or reflection; version by version another third."""

    def generate(self, requests, *, on_trace=None):
        for request in list(requests):
            chunk = request.messages[-1].content.removeprefix("Shorten: ")
            self.answer = lambda _, chunk=chunk, n=request.sample: trimmed(chunk, n)
            yield from super().generate([request])


def trimmed(chunk: str, version: int) -> str:
    sentences = SENTENCE.findall(chunk)
    plain = [
        at for at, each in enumerate(sentences) if not re.search(r"[\d\\$=]", each) and not count_reflections(each)
    ]
    dropped = {at for place, at in enumerate(plain) if place % 3 == version % 3}
    return "".join(each for at, each in enumerate(sentences) if at not in dropped).strip()


@pytest.fixture(scope="module")
def long_rows(data_folder: Path) -> list[dict]:
    with gzip.open(data_folder / "traces" / "traces.jsonl.gz", "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    chosen = [
        r for r in rows if r["style"] == "long" and r["correct"] and r["closed"] and r["benchmark"] != "countdown4"
    ]
    return [
        {
            "id": r["id"],
            "benchmark": r["benchmark"],
            "question": r["problem"],
            "answer": r["gold"],
            "output": r["trace"],
        }
        for r in chosen
        if r["trace"].count("</think>") == 1 and len(r["trace"].split()) < 4000
    ][:TRACES]


def test_real_traces_become_shorter_and_keep_their_answers_and_doubts(long_rows, tmp_path):
    assert len(long_rows) >= 10
    source = write_rows(tmp_path / "s.jsonl", long_rows)
    rewriter = R1Compress(versions=3, compressor="embedded")
    job = Job(JobConfig((source,), tmp_path / "a"), rewriter, Student.named("embedded"))
    engine = Trimmer()
    stats = run_job(job, Supply(lambda: engine)).stats
    made = [json.loads(line) for line in (tmp_path / "a" / "train.jsonl").read_text("utf-8").splitlines()]
    assert stats.statuses["excluded"] + stats.statuses["error"] <= 2
    assert len(made) >= 0.6 * len(long_rows)
    by_id = {row["id"]: row for row in long_rows}
    for row in made:
        origin = by_id[row["source_id"]]["output"]
        text = row["completion"][0]["content"]
        assert text.split("</think>")[1] == origin.split("</think>")[1]
        assert 0.3 < row["ratio_measured"] < 0.95
        assert count_reflections(text.split("</think>")[0]) == count_reflections(origin.split("</think>")[0])
    assert stats.figures["chunks"].total / len(long_rows) > 5
    print(
        {name: each.figures()["mean"] for name, each in stats.figures.items()}, dict(stats.gates), dict(stats.statuses)
    )
