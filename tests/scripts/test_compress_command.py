"""`laconic compress` through its front door, on the embedded reasoner: no key, no network, nothing given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from laconic_cli.main import main

from cot.datagen.export import load_dataset
from cot.embedded import embedded_model_path
from eval_math.errors import BadInput

COMMON = ("--engine", "hf", "--limit", "8", "--max-tokens", "400", "--export", "messages", "arrow", "parquet")


@pytest.fixture(scope="module", autouse=True)
def needs_the_reasoner():
    try:
        embedded_model_path()
    except BadInput as error:
        pytest.skip(f"the embedded reasoner is not built: {error}")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compress") / "c3ot"
    assert main(["compress", "c3ot", "--out", str(out), *COMMON]) == 0
    return out


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_c3ot_needs_nothing_but_a_folder(made):
    listed = rows(made / "train.jsonl")
    stats = json.loads((made / "stats.json").read_text("utf-8"))
    assert stats["sources"] == 8
    assert {row["condition"] for row in listed} == {"long", "short"}
    short = [row for row in listed if row["condition"] == "short"]
    assert len(short) >= 6
    assert all(row["ratio_measured"] < 0.5 for row in short)
    card = (made / "README.md").read_text("utf-8")
    assert "unknown to the tool" in card
    assert f"| short | {len(short)} |" in card
    assert (made.with_name("c3ot-traces") / "summary.json").exists()


def test_the_same_command_goes_on_where_it_stopped(made, capsys):
    before = (made / "train.jsonl").read_bytes()
    assert main(["compress", "c3ot", "--out", str(made), *COMMON, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"] == 8
    assert (made / "train.jsonl").read_bytes() == before
    assert main(["compress", "c3ot", "--out", str(made), *COMMON, "--tries", "1"]) == 2
    assert "method.tries: 3 stored, 1 asked" in capsys.readouterr().err


def test_exports_hold_the_same_texts(made):
    from datasets import load_from_disk

    listed = rows(made / "train.jsonl")
    arrow = load_from_disk(str(made / "arrow"))["train"]
    assert [row["completion"][0]["content"] for row in arrow] == [row["completion"][0]["content"] for row in listed]
    assert arrow.to_list() == load_dataset(made)["train"].to_list()
    assert arrow.features["ratio_requested"].dtype == "float64"
    talks = rows(made / "messages-train.jsonl")
    assert [talk["messages"][-1]["role"] for talk in talks] == ["assistant"] * len(listed)
    assert (made / "parquet" / "train.parquet").exists()


def test_every_refusal_can_be_explained(made, capsys):
    key = rows(made / "train.jsonl")[0]["row_key"]
    assert main(["compress", "explain", "--out", str(made), "--row", key[:8]]) == 0
    shown = capsys.readouterr().out
    assert "short, try 0: " in shown
    assert main(["compress", "explain", "--out", str(made), "--row", "zzz"]) == 2


def test_chunks_are_rewritten_and_searched(made, tmp_path):
    traces = str(made.with_name("c3ot-traces"))
    words = ["--traces", traces, "--out", str(tmp_path / "r1"), "--engine", "hf", "--limit", "4", "--versions", "2"]
    assert main(["compress", "r1-compress", *words]) == 0
    listed = rows(tmp_path / "r1" / "train.jsonl")
    assert listed
    assert all(row["ratio_measured"] < 0.95 for row in listed)
    figures = json.loads((tmp_path / "r1" / "stats.json").read_text("utf-8"))["figures"]
    assert figures["chunks_rewritten"]["mean"] > 0


def test_words_are_left_out_by_the_models_own_surprise(made, tmp_path):
    traces = str(made.with_name("c3ot-traces"))
    words = ["--traces", traces, "--out", str(tmp_path / "skip"), "--engine", "hf", "--ratios", "0.7"]
    assert main(["compress", "tokenskip", *words]) == 0
    for row in rows(tmp_path / "skip" / "train.jsonl"):
        assert 0.55 <= row["ratio_measured"] <= 0.72


def test_bad_sources_are_named(tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"question": "1?"}\n')
    assert main(["compress", "c3ot", "--traces", str(tmp_path / "bad.jsonl"), "--out", str(tmp_path / "o")]) == 2
    assert "line 1: no field answer or gold" in capsys.readouterr().err


def test_questions_of_test_sets_are_left_out(made, tmp_path, capsys):
    taken = rows(made.with_name("c3ot-traces") / "problems.jsonl")[:3]
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(
        "".join(json.dumps({"question": row["question"], "answer": row["answer"]}) + "\n" for row in taken)
    )
    traces = made.with_name("c3ot-traces")
    for method in ("c3ot", "shortest"):
        out = tmp_path / method
        words = ["--traces", str(traces), "--apart-from", str(held_out)]
        assert main(["compress", method, "--out", str(out), *COMMON[:4], *words]) == 0
        stats = json.loads((out / "stats.json").read_text("utf-8"))
        assert stats["statuses"]["excluded"] >= 3 and stats["errors"]["contaminated"] == 3
        questions = {row["prompt"][-1]["content"].partition(": ")[2] for row in rows(out / "train.jsonl")}
        questions |= {row["prompt"][-1]["content"] for row in rows(out / "train.jsonl")}
        assert questions and not questions & {row["question"] for row in taken}
    assert (
        main(["compress", "c3ot", "--out", str(tmp_path / "x"), "--apart-from", "gsm9k", "--traces", str(traces)]) == 2
    )
    assert "gsm9k" in capsys.readouterr().err


def test_a_template_that_drops_thinking_is_spoken_of(made, tmp_path, capsys):
    from transformers import AutoTokenizer

    student = tmp_path / "student"
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    tokenizer.chat_template = (
        "{%- for m in messages -%}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
    )
    tokenizer.save_pretrained(student)
    for name in ("config.json", "model.safetensors"):
        (student / name).symlink_to(embedded_model_path() / name)
    words = ["--traces", str(made.with_name("c3ot-traces")), "--student", str(student)]
    assert main(["compress", "shortest", "--out", str(tmp_path / "rows"), *COMMON[:4], *words]) == 0
    assert "drops the thinking of an answer" in capsys.readouterr().err


def test_reference_solutions_become_thoughts(tmp_path, capsys):
    marked = {"question": "Ada has 4 pens and buys 3 boxes of 2. How many?", "answer": "10",
              "solution": "She buys 3*2 = <<3*2=6>>6 pens.\nNow 4+6 = <<4 + 6=10>>10.\n#### 10"}  # fmt: skip
    bare = {"question": "Two and two?", "answer": "4", "solution": "It is four.\n#### 4"}
    source = tmp_path / "problems.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in (marked, bare)))
    words = ["compress", "reference", "--benchmark", str(source)]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    (row,) = rows(tmp_path / "a" / "train.jsonl")
    assert row["completion"][0]["content"] == "<think>3*2=6. 4+6=10</think>\\boxed{10}"
    assert json.loads((tmp_path / "a" / "stats.json").read_text())["errors"] == {"no steps": 1}
    assert main([*words, "--out", str(tmp_path / "b"), "--steps", "solution"]) == 0
    texts = {row["completion"][0]["content"] for row in rows(tmp_path / "b" / "train.jsonl")}
    assert "<think>She buys 3*2 = 6 pens.\nNow 4+6 = 10.</think>\\boxed{10}" in texts and len(texts) == 2
    source.write_text(json.dumps(bare) + "\n")
    assert main([*words, "--out", str(tmp_path / "c")]) == 2
    assert "none of 1 problems has a solution with equations" in capsys.readouterr().err
