"""`laconic eval` through its front door: figures, resuming, and one clear error for each way to ask wrongly."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from laconic_cli.command import parse
from laconic_cli.eval import Eval, _flags, parse_options
from laconic_cli.main import main

from cot.embedded import embedded_model_path
from eval_math.errors import BadInput

BASE = ("eval", "--engine", "hf", "--benchmark", "embedded:easy", "--max-tokens", "300")
ROWS = [{"id": f"mine/{i}", "question": f"Ada has {i} eggs.", "answer": str(i)} for i in range(1, 4)]


@pytest.fixture(scope="module", autouse=True)
def needs_the_reasoner():
    try:
        embedded_model_path()
    except BadInput as error:
        pytest.skip(f"the embedded reasoner is not built: {error}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    assert main([*BASE, "--limit", "6", "--out", str(folder)]) == 0
    return folder


def words(*more: object) -> list[str]:
    return [*BASE, *map(str, more)]


def test_a_run_prints_a_table_and_leaves_a_whole_folder(finished, capsys):
    before = (finished / "traces.jsonl").stat().st_mtime_ns
    assert main(words("--limit", 6, "--out", finished)) == 0
    shown = capsys.readouterr()
    assert "embedded:easy, 6 problems, model embedded" in shown.out
    assert f"run: {finished}" in shown.out
    assert (finished / "traces.jsonl").stat().st_mtime_ns == before
    for name in ("run.json", "problems.jsonl", "traces.jsonl", "grades.jsonl", "summary.json", "report.html"):
        assert (finished / name).stat().st_size > 0


def test_json_on_standard_output_is_all_that_is_there(finished, capsys):
    assert main(words("--limit", 6, "--out", finished, "--json", "-")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["n"] == 6
    assert figures["benchmark"] == "embedded:easy"
    wanted = "accuracy accuracy_low accuracy_high thinking_tokens_mean thinking_tokens_p95 answer_tokens_mean"
    assert set(wanted.split()) <= set(figures)
    assert {"truncated", "unparsable", "tokens_per_second"} <= set(figures)


def test_the_stored_command_runs_again_from_run_json(finished, capsys):
    before = (finished / "traces.jsonl").read_bytes()
    assert main(["eval", "--config", str(finished / "run.json")]) == 0
    assert (finished / "traces.jsonl").read_bytes() == before
    assert f"run: {finished}" in capsys.readouterr().out


def test_another_configuration_needs_another_folder_or_overwrite(finished, tmp_path, capsys):
    assert main(words("--limit", 6, "--temperature", 0.6, "--out", finished)) == 2
    error = capsys.readouterr().err
    assert "sampling.temperature: 0.0 stored, 0.6 asked" in error
    assert "--overwrite" in error
    assert main(words("--limit", 2, "--out", tmp_path / "run")) == 0
    assert main(words("--limit", 3, "--out", tmp_path / "run", "--overwrite")) == 0
    assert len((tmp_path / "run" / "traces.jsonl").read_text().splitlines()) == 3


def test_methods_and_samples(tmp_path, capsys):
    flags = ("--limit", 3, "--n", 2, "--temperature", 0.8, "--method", "cut:tokens=20", "--out", tmp_path / "cut")
    assert main(words(*flags, "--json", "-")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["n"], figures["n_problems"]) == (6, 3)
    assert figures["thinking_tokens_p95"] <= 20
    assert main(words("--limit", 3, "--method", "nothink+concise", "--out", tmp_path / "no", "--json", "-")) == 0
    assert json.loads(capsys.readouterr().out)["thinking_tokens_mean"] == 0


def test_a_real_benchmark_and_a_file_of_ones_own(data_folder, tmp_path, capsys):
    flags = ("eval", "--engine", "hf", "--limit", "2", "--max-tokens", "40")
    assert main([*flags, "--benchmark", "gsm8k", "--data", str(data_folder), "--out", str(tmp_path / "g")]) == 0
    assert "gsm8k, 2 problems" in capsys.readouterr().out
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main([*flags, "--benchmark", str(tmp_path / "mine.jsonl"), "--out", str(tmp_path / "m")]) == 0
    assert len((tmp_path / "m" / "traces.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--benchmark", "gsm9k"), "unknown benchmark 'gsm9k'; did you mean 'gsm8k'"),
        (("--benchmark", "embedded:tiny"), "choose one of embedded, embedded:easy"),
        (("--split", "tests"), "has no split 'tests'; choose one of train, dev, test"),
        (("--benchmark", "BAD"), "line 2: no answer"),
        (("--method", "ascc"), "unknown method 'ascc'; did you mean 'asc'"),
        (("--method", "cut:tokens=0"), "at least 1 is expected"),
        (("--engine", "tgi"), "engine 'tgi' is unknown"),
        (("--engine-options", "x"), "'x' is not name=value"),
        (("--engine-options", "attn=eager"), "unknown option 'attn'"),
        (("--model", "EMPTY"), "no config.json"),
        (("--n", 0), "samples=0"),
        (("--limit", 0), "limit=0"),
        (("--temperature", 9), "temperature=9.0 is out of range"),
        (("--max-tokens", 100_000), "more than the model's length of 4096 tokens"),
        (("--max-model-len", 10, "--max-tokens", 5), "tokens and the model's length is 10"),
        (("--out", "THESIS"), "not empty and not a run (thesis.tex)"),
    ],
)
def test_each_wrong_request_is_one_line_and_code_2(flags, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    (tmp_path / "bad.jsonl").write_text('{"question": "q", "answer": "1"}\n{"question": "q"}\n')
    places = {"EMPTY": tmp_path / "empty", "THESIS": tmp_path / "thesis", "BAD": tmp_path / "bad.jsonl"}
    given = [str(places.get(flag, flag)) for flag in flags]
    assert main(words("--limit", 2, "--out", tmp_path / "run", *given)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("laconic: error:") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "traces.jsonl").exists()


def test_engine_options_are_json_or_text():
    given = ("a=1", "b-c=0.5", "d=true", "e=True", "f=http://x/v1", 'g={"h": [1]}')
    assert parse_options(given) == {"a": 1, "b_c": 0.5, "d": True, "e": True, "f": "http://x/v1", "g": {"h": [1]}}


def test_keys_stay_out_of_run_json():
    given = ("api_key=s3cret", "api-key=s3cret", "hf_token=s3cret", "attn_implementation=eager")
    assert _flags(Eval(engine_options=given))["engine_options"] == ["attn_implementation=eager"]


@pytest.mark.parametrize("command", [{}, None])
def test_a_run_of_another_command_holds_no_flags(tmp_path, command):
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "benchmark": "toy", "command": command}))
    with pytest.raises(BadInput, match="not made by `laconic eval`, so it holds no flags"):
        parse(Eval, ["--config", str(tmp_path / "run.json")], prog="laconic eval")


def start(folder: Path, *, most_bytes: int | None = None, limit: int = 12) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "laconic_cli.main", *words("--limit", limit, "--batch-size", 2, "--out", folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A shell that runs the tests in the background ignores Ctrl-C, and its children inherit that.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    if most_bytes is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    return process


@pytest.mark.slow
def test_a_full_disk_is_code_2_and_the_run_goes_on_later(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, most_bytes=9000)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2, error
    assert "free some space" in error
    stored = len((folder / "traces.jsonl").read_text().splitlines())
    assert 0 < stored < 12
    process = start(folder)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert len((folder / "grades.jsonl").read_text().splitlines()) == 12


@pytest.mark.slow
def test_ctrl_c_says_what_is_stored_and_the_run_goes_on_later(tmp_path):
    folder = tmp_path / "run"
    # Enough problems that a quick machine is not done before the signal comes.
    process = start(folder, limit=60)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "traces.jsonl").exists() and (folder / "traces.jsonl").stat().st_size:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert f"of 60 answers are stored in {folder}" in error
    assert "Traceback" not in error
    assert main(words("--limit", 60, "--batch-size", 8, "--out", folder)) == 0
    assert len((folder / "grades.jsonl").read_text().splitlines()) == 60
