"""Training rows: where they are found, how they are read, and what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from writer import write_rows

from cot.chat import open_chat
from cot.training.data import Encoder, check_template
from cot.training.rows import find_data, read_pair_rows, read_sft_rows
from eval_math.errors import BadInput

QUESTION = "Jack has 4 nuts. Jack gets 41 nuts from Carl. How many nuts does Jack have now?"
WRITTEN = "<think>So 4+41=45.</think>The answer is \\boxed{45}."


@pytest.fixture(scope="module")
def chat(embedded_model):
    return open_chat(embedded_model)


def good() -> dict:
    turn = [{"role": "assistant", "content": WRITTEN}]
    return {
        "id": 1,
        "prompt": [{"role": "user", "content": QUESTION}],
        "completion": turn,
        "condition": "short",
        "n": 3,
    }


def test_rows_are_read_from_files_folders_gzip_and_saved_datasets(tmp_path):
    line = json.dumps(good()) + "\n"
    (tmp_path / "rows.jsonl").write_text(line)
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "data-1.jsonl").write_text(line * 2)
    with gzip.open(folder / "data-2.jsonl.gz", "wt") as handle:
        handle.write(line)
    saved = tmp_path / "saved"
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list([good()] * 4)}).save_to_disk(saved / "datasets")
    for path, count in ((tmp_path / "rows.jsonl", 1), (folder, 3), (saved, 4)):
        rows = read_sft_rows(find_data(path))
        assert len(rows) == count
        assert rows[0].completion == WRITTEN and rows[0].condition == "short" and rows[0].id == "1"
    assert len(read_sft_rows(find_data(folder), limit=2)) == 2
    (folder / "data-train.jsonl").write_text(line)
    assert len(read_sft_rows(find_data(folder))) == 1


def test_files_named_for_what_is_held_out_are_not_trained_on(tmp_path):
    line = json.dumps(good()) + "\n"
    for name in ("data-a.jsonl", "data-validation.jsonl", "data_test.jsonl.gz", "validation.jsonl"):
        (tmp_path / name).write_text(line)
    assert [file.name for file in find_data(tmp_path).files] == ["data-a.jsonl"]
    (tmp_path / "data-a.jsonl").unlink()
    with pytest.raises(BadInput, match="neither"):
        find_data(tmp_path)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory) -> Path:
    """A folder of `laconic compress shortest`, half of its questions held out."""
    from cot.datagen.dataset import Layout
    from cot.datagen.export import export_dataset
    from cot.datagen.job import JobConfig
    from cot.datagen.student import Student
    from cot.shortest import Shortest, make_dataset

    folder = tmp_path_factory.mktemp("compressed")
    samples = [
        {"id": f"p{n}", "question": f"What is 2+3+{n}?", "answer": str(5 + n), "correct": True, "sample": sample,
         "output": f"{'So 2+3=5. ' * (1 + 2 * sample)}So 5+{n}={5 + n}.</think>The answer is \\boxed{{{5 + n}}}."}
        for n in range(12) for sample in (0, 1)
    ]  # fmt: skip
    job = JobConfig((write_rows(folder / "s.jsonl", samples),), folder / "made", layout=Layout(validation=0.5))
    make_dataset(job, Shortest(), Student.named("embedded"))
    export_dataset(folder / "made", ["messages", "arrow"])
    return folder / "made"


def test_a_folder_of_compress_is_read_without_its_validation_rows(compressed, chat):
    found = find_data(compressed)
    assert [file.name for file in found.files] == ["train.jsonl"]
    rows = read_sft_rows(found)
    held_out = read_sft_rows(find_data(compressed / "validation.jsonl"))
    assert rows and held_out and len(rows) + len(held_out) == 12
    assert not {each.prompt for each in rows} & {each.prompt for each in held_out}
    assert read_sft_rows(find_data(compressed / "arrow")) == [
        replace(each, where=f"{compressed / 'arrow'}, row {n}") for n, each in enumerate(rows, 1)
    ]
    assert check_template(chat, rows) == []


def test_the_pairs_of_compress_are_read_from_their_file(compressed, chat):
    pairs = read_pair_rows(find_data(compressed / "pairs.jsonl"))
    assert len(pairs) == 12 and all(len(pair.chosen) < len(pair.rejected) for pair in pairs)
    encoded = Encoder(chat).pair(pairs[0])
    assert len(encoded.chosen_ids) < len(encoded.rejected_ids)
    with pytest.raises(BadInput, match=r"no column chosen.*pairs\.jsonl"):
        read_pair_rows(find_data(compressed))


def test_an_unfinished_dataset_is_not_trained_on(compressed, tmp_path):
    folder = shutil.copytree(compressed, tmp_path / "made")
    (folder / "_SUCCESS").unlink()
    with pytest.raises(BadInput, match="not finished"):
        find_data(folder)


def test_the_data_hash_follows_the_content(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text(json.dumps(good()) + "\n")
    second.write_text(json.dumps(good()) + "\n")
    before = find_data(first).sha256()
    assert before == find_data(second).sha256()
    second.write_text(json.dumps({**good(), "id": 2}) + "\n")
    assert before != find_data(second).sha256()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "no column prompt"),
        ({"prompt": "text"}, "no list of turns"),
        ({"prompt": [{"role": "user"}]}, "a turn of prompt"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "a turn of prompt"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "prompt ends with a turn of the assistant"),
        ({"completion": []}, "no list of turns"),
        ({"completion": [{"role": "user", "content": "x"}]}, "one turn of the assistant"),
        ({"completion": [{"role": "assistant", "content": "  "}]}, "completion is empty"),
        ({"condition": 3}, "condition 3"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, change, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(good()) + "\n" + json.dumps({**good(), **change}) + "\n")
    with pytest.raises(BadInput, match=f"rows.jsonl, line 2: .*{said}"):
        read_sft_rows(find_data(path))


def test_pairs_need_two_different_completions(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pair = {"prompt": good()["prompt"], "chosen": good()["completion"]}
    path.write_text(json.dumps({**pair, "rejected": [{"role": "assistant", "content": "no"}]}) + "\n")
    assert read_pair_rows(find_data(path))[0].rejected == "no"
    path.write_text(json.dumps({**pair, "rejected": pair["chosen"]}) + "\n")
    with pytest.raises(BadInput, match="same text"):
        read_pair_rows(find_data(path))


def test_nothing_to_read_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for path, said in ((tmp_path / "empty.jsonl", "no rows"), (tmp_path, "neither"), (tmp_path / "no", "no such")):
        with pytest.raises(BadInput, match=said):
            read_sft_rows(find_data(path))
