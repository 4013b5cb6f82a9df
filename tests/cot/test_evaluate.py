"""The loop: what is stored, what a resumed run does again, and how interruptions and failures end."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from scripted import ScriptedEngine, toy

from cot.evaluate import EvalConfig, check, default_folder, describe_run, evaluate, evaluate_into
from cot.method import Method
from cot.progress import Progress
from cot.prompting import Concise
from cot.runs import GRADES, TRACES, content_hash, open_run, read_info
from eval_math.errors import BadInput, EngineError, RunMismatch
from eval_math.files import read_records
from eval_math.records import Grade, Json, Request, Sampling, Trace, unit_seed

CONFIG = EvalConfig("toy", sampling=Sampling(max_tokens=200))
PROBLEMS, OUTPUTS = toy(13)


def go(
    folder: Path,
    engine: ScriptedEngine,
    config: EvalConfig = CONFIG,
    method: Method | None = None,
    *,
    overwrite: bool = False,
):
    method = method or Method()
    with open_run(folder, describe_run(method, engine, config), PROBLEMS, overwrite=overwrite) as run:
        return evaluate(PROBLEMS, method, engine, run, config)


def traces(folder: Path) -> list[Trace]:
    return list(read_records(Trace, folder / TRACES))


def grades(folder: Path) -> list[Grade]:
    return list(read_records(Grade, folder / GRADES))


def undisturbed(tmp_path: Path, config: EvalConfig = CONFIG) -> str:
    go(tmp_path / "undisturbed", ScriptedEngine(OUTPUTS), config)
    return content_hash(tmp_path / "undisturbed")


def test_a_run_holds_every_trace_and_grade_in_order(tmp_path):
    engine = ScriptedEngine(OUTPUTS)
    outcome = go(tmp_path / "run", engine, replace(CONFIG, samples=2))
    assert (outcome.planned, outcome.found, outcome.generated, outcome.failed) == (26, 0, 26, 0)
    expected = [(problem.id, n) for problem in PROBLEMS for n in (0, 1)]
    assert [(t.problem_id, t.sample) for t in traces(tmp_path / "run")] == expected
    assert [(g.problem_id, g.sample) for g in grades(tmp_path / "run")] == expected
    assert [g.correct for g in grades(tmp_path / "run")][::2] == [i % 5 != 4 for i in range(13)]
    first = traces(tmp_path / "run")[0]
    assert (first.n_thinking_tokens, first.method, len(first.key)) == (11, "none", 32)
    assert {r.sampling.seed for r in engine.asked} == {unit_seed(0, *unit) for unit in expected}
    assert read_info(tmp_path / "run").config["samples"] == 2


def test_running_again_generates_nothing(tmp_path):
    go(tmp_path / "run", ScriptedEngine(OUTPUTS))
    before = (tmp_path / "run" / TRACES).read_bytes()
    engine = ScriptedEngine(OUTPUTS)
    outcome = go(tmp_path / "run", engine)
    assert (outcome.found, outcome.generated, engine.asked) == (13, 0, [])
    assert (tmp_path / "run" / TRACES).read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, EngineError])
def test_an_interrupted_run_keeps_what_is_finished_and_ends_up_the_same(tmp_path, error):
    def stop(request: Request) -> None:
        if request.problem_id == "p/6":
            raise error("stop")

    engine = ScriptedEngine(OUTPUTS, before=stop)
    with pytest.raises(error):
        go(tmp_path / "run", engine)
    assert engine.closed
    assert [t.problem_id for t in traces(tmp_path / "run")] == ["p/3", "p/2", "p/1", "p/0", "p/7"]
    engine = ScriptedEngine(OUTPUTS)
    outcome = go(tmp_path / "run", engine)
    assert (outcome.found, outcome.generated) == (5, 8)
    assert sorted(r.problem_id for r in engine.asked) == sorted(f"p/{i}" for i in (4, 5, 6, 8, 9, 10, 11, 12))
    assert content_hash(tmp_path / "run") == undisturbed(tmp_path)


def test_a_trace_without_grade_is_graded_without_generating(tmp_path):
    go(tmp_path / "run", ScriptedEngine(OUTPUTS))
    path = tmp_path / "run" / GRADES
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[:4] + kept[9:]))
    engine = ScriptedEngine(OUTPUTS)
    go(tmp_path / "run", engine)
    assert engine.asked == []
    assert path.read_text().splitlines(keepends=True) == kept


def test_engine_errors_are_stored_counted_and_done_again_on_request(tmp_path, caplog):
    outcome = go(tmp_path / "run", ScriptedEngine(OUTPUTS, fail={"p/3": "too long"}))
    assert outcome.failed == 1
    assert "failed on 1 unit(s), e.g. too long" in caplog.text
    assert traces(tmp_path / "run")[3].error == "too long"
    assert grades(tmp_path / "run")[3].status == "unparsable"
    engine = ScriptedEngine(OUTPUTS)
    go(tmp_path / "run", engine)
    assert engine.asked == []
    outcome = go(tmp_path / "run", engine, replace(CONFIG, retry_errors=True))
    assert [r.problem_id for r in engine.asked] == ["p/3"]
    assert (outcome.failed, outcome.generated) == (0, 1)
    assert content_hash(tmp_path / "run") == undisturbed(tmp_path)


def test_an_engine_that_leaves_requests_out_is_an_error(tmp_path):
    @dataclass
    class Lazy(ScriptedEngine):
        def generate(self, requests, *, on_trace=None):
            yield from super().generate(list(requests)[:-2])

    with pytest.raises(EngineError, match="2 of 13 requests were left unanswered"):
        go(tmp_path / "run", Lazy(OUTPUTS))
    assert go(tmp_path / "run", ScriptedEngine(OUTPUTS)).generated == 2


def test_an_engine_that_answers_what_was_not_asked_is_an_error(tmp_path):
    @dataclass
    class Confused(ScriptedEngine):
        def answer(self, request):
            return replace(super().answer(request), sample=7)

    with pytest.raises(EngineError, match="which was not asked"):
        go(tmp_path / "run", Confused(OUTPUTS))


def test_a_changed_configuration_and_changed_prompts_are_refused(tmp_path, monkeypatch):
    go(tmp_path / "run", ScriptedEngine(OUTPUTS))
    with pytest.raises(RunMismatch, match=r"sampling\.temperature: 0.0 stored, 0.6 asked"):
        go(tmp_path / "run", ScriptedEngine(OUTPUTS), replace(CONFIG, sampling=Sampling(200, temperature=0.6)))
    with pytest.raises(RunMismatch, match=r"method.name: 'none' stored, 'concise' asked"):
        go(tmp_path / "run", ScriptedEngine(OUTPUTS), method=Concise())
    monkeypatch.setattr("eval_math.prompts.BOXED", "Answer.")
    with pytest.raises(RunMismatch, match="belongs to another request"):
        go(tmp_path / "run", ScriptedEngine(OUTPUTS))


def test_overwrite_does_again_only_what_other_requests_brought_about(tmp_path):
    go(tmp_path / "run", ScriptedEngine(OUTPUTS))
    path = tmp_path / "run" / TRACES
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(traces(tmp_path / "run")[2].key, "0" * 32)
    path.write_text("".join(lines))
    with pytest.raises(RunMismatch, match="the trace of 'p/2', sample 0, belongs to another request"):
        go(tmp_path / "run", ScriptedEngine(OUTPUTS))
    engine = ScriptedEngine(OUTPUTS)
    go(tmp_path / "run", engine, overwrite=True)
    assert [request.problem_id for request in engine.asked] == ["p/2"]
    assert content_hash(tmp_path / "run") == undisturbed(tmp_path)


@dataclass
class Tuned(ScriptedEngine):
    more: dict[str, Json] = field(default_factory=dict)

    @property
    def identity(self):
        identity = super().identity
        return replace(identity, settings={**identity.settings, **self.more})


def test_settings_that_decide_the_output_must_be_the_same_to_resume(tmp_path):
    go(tmp_path / "run", Tuned(OUTPUTS, more={"base_url": "http://a/v1", "device": "cpu", "api_key": "secret"}))
    assert "secret" not in (tmp_path / "run" / "run.json").read_text()
    go(tmp_path / "run", Tuned(OUTPUTS, more={"base_url": "http://a/v1", "device": "cuda", "retries": 9}))
    with pytest.raises(RunMismatch, match=r"settings\.base_url: 'http://a/v1' stored, 'http://b/v1' asked"):
        go(tmp_path / "run", Tuned(OUTPUTS, more={"base_url": "http://b/v1"}))
    with pytest.raises(RunMismatch, match=r"settings\.max_model_len: 1000 stored, 900 asked"):
        go(tmp_path / "run", Tuned(OUTPUTS, max_model_len=900, more={"base_url": "http://a/v1"}))


def test_another_batch_size_may_resume(tmp_path):
    go(tmp_path / "run", ScriptedEngine(OUTPUTS, batch_size=3))
    go(tmp_path / "run", ScriptedEngine(OUTPUTS, batch_size=5))
    assert [s["settings"]["batch_size"] for s in read_info(tmp_path / "run").sessions] == [3, 5]


def test_what_does_not_fit_is_refused_before_anything_is_written():
    engine = ScriptedEngine(OUTPUTS, max_model_len=150)
    with pytest.raises(BadInput, match="max_tokens=200 is more than the model's length of 150"):
        check(PROBLEMS, Method(), engine, CONFIG)
    engine = ScriptedEngine(OUTPUTS, max_model_len=60)
    with pytest.raises(BadInput, match="the prompt of problem 'p/10' has 77 tokens and the model's length is 60"):
        check(PROBLEMS, Method(), engine, replace(CONFIG, sampling=Sampling(max_tokens=10)))
    with pytest.raises(BadInput, match="two problems share an id"):
        check([PROBLEMS[0], PROBLEMS[0]], Method(), ScriptedEngine(OUTPUTS), CONFIG)
    with pytest.raises(BadInput, match="samples=0"):
        replace(CONFIG, samples=0)


def test_a_method_that_needs_more_than_the_engine_has_is_refused():
    @dataclass(frozen=True)
    class Needy(Method):
        needs: ClassVar[frozenset[str]] = frozenset({"latent"})

    with pytest.raises(BadInput, match="needs 'latent'"):
        check(PROBLEMS, Needy(), ScriptedEngine(OUTPUTS), CONFIG)


def test_the_summary_is_written(tmp_path):
    row = evaluate_into(tmp_path / "run", PROBLEMS, Method(), ScriptedEngine(OUTPUTS), CONFIG)
    assert (row.n, row.benchmark, row.model) == (13, "toy", "tiny")
    assert row.accuracy == pytest.approx(11 / 13)
    assert row.thinking_tokens_mean == pytest.approx(11 + 6)
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())["rows"][0]
    assert (stored["n"], stored["truncated"]) == (13, 0)


def test_every_configuration_has_a_folder_of_its_own():
    engine = ScriptedEngine(OUTPUTS)

    def folder(**changes: object) -> Path:
        config = replace(CONFIG, **changes)
        return default_folder(Path("runs"), describe_run(Method(), engine, config), PROBLEMS)

    assert folder() == folder(retry_errors=True)
    assert folder().name.startswith("toy-tiny-none-")
    assert len({folder(), folder(seed=1), folder(samples=2), folder(sampling=Sampling(9))}) == 4


def test_progress_says_done_speed_accuracy_and_time_left():
    stream = io.StringIO()
    with Progress("toy none", 10, 4, stream=stream) as progress:
        progress.graded(True)
        progress.graded(False)
        progress.answered(100)
        line = progress.line()
    assert line.startswith("toy none: 5/10, ")
    assert "tokens/s, accuracy 0.500, " in line
    assert line.endswith(" left")
    assert stream.getvalue().startswith("toy none: 5/10")
