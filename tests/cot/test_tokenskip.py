"""TokenSkip keeps the words that matter, at the ratio that is asked for."""

from __future__ import annotations

import json

import pytest
from writer import ScriptedWriter, sums, write_rows

from cot.datagen.job import Job, JobConfig, run_job
from cot.datagen.student import Student
from cot.datagen.supply import Supply
from cot.methods import parse_method
from cot.token_importance import classifier_importance
from cot.tokenskip import TokenSkip, kept_words
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Problem


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.named("embedded")


def run(tmp_path, student, rewriter, engine=None, n=40):
    source = write_rows(tmp_path / "s.jsonl", sums(n))
    stats = run_job(Job(JobConfig((source,), tmp_path / "a"), rewriter, student), Supply(lambda: engine)).stats
    return [json.loads(line) for line in (tmp_path / "a" / "train.jsonl").read_text("utf-8").splitlines()], stats


def test_important_words_are_kept_in_their_order_within_the_ratio():
    words = ["a ", "b ", "cc ", "d"]
    assert kept_words(words, [1, 3, 2, 4], 0.5, len) == "b d"
    assert kept_words(words, [1, 1, 1, 1], 0.5, len) == "a b "
    assert kept_words(words, [1, 3, 2, 4], 1.0, len) == "a b cc d"


def test_each_row_has_one_ratio_and_keeps_to_it(tmp_path, student):
    rows, stats = run(tmp_path, student, TokenSkip(), ScriptedWriter())
    assert len(rows) == stats.sources == 40
    for row in rows:
        asked, content = row["ratio_requested"], row["prompt"][0]["content"]
        if asked == 1:
            assert (row["ratio_measured"], "<ratio>" in content) == (1, False)
        else:
            assert content.endswith(f" <ratio>{asked:g}</ratio>")
            assert asked - 0.15 <= row["ratio_measured"] <= asked + 0.03
    assert len({row["ratio_requested"] for row in rows}) == 6


def test_numbers_go_last(tmp_path, student):
    for row in run(tmp_path, student, TokenSkip(ratios=(0.7,)), ScriptedWriter())[0]:
        assert row["completion"][0]["content"].split("</think>")[0].count("=") == 2


def test_surprise_decides_between_words(tmp_path, student):
    class Surprised(ScriptedWriter):
        def score(self, items):
            super().score(items)
            return [[-9.0 if chr(token) in "Okay" else -0.1 for token in completion] for _, completion in items]

    rows, _ = run(tmp_path, student, TokenSkip(ratios=(0.7,), keep_numbers=False), Surprised())
    assert all("Okay," in row["completion"][0]["content"] for row in rows)
    calm, _ = (
        run(tmp_path / "b", student, TokenSkip(ratios=(0.7,)), ScriptedWriter())
        if (tmp_path / "b").mkdir()
        else ([], 0)
    )
    assert all("Okay" not in row["completion"][0]["content"] for row in calm)


def test_a_token_classifier_may_judge(tmp_path, student):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    letters = {token: at for at, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "[PAD]", *map(chr, range(33, 127))])}
    raw = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    tokenizer.save_pretrained(tmp_path / "bert")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    model = BertForTokenClassification(BertConfig(vocab_size=len(letters), num_labels=2, **shape))
    model.save_pretrained(tmp_path / "bert")
    words = ["So", "1+1=2", "and", "on" * 600]
    found = classifier_importance(str(tmp_path / "bert"), words)
    assert len(found) == 4
    assert all(0 < each < 1 for each in found)
    ids = [letters[letter] for letter in "So1+1=2andon" + "on" * 249][:510]
    with torch.inference_mode():
        logits = model.eval()(input_ids=torch.tensor([ids])).logits[0].softmax(-1)[:, 1]
    assert found[0] == pytest.approx(float(logits[:2].mean()), abs=1e-5)
    with pytest.raises(BadInput, match="cannot be loaded"):
        classifier_importance(str(tmp_path / "none"), words)
    assert TokenSkip(classifier=str(tmp_path / "bert")).needs == frozenset()
    rows, _ = run(tmp_path, student, TokenSkip(classifier=str(tmp_path / "bert")), ScriptedWriter(), n=6)
    assert rows


def test_asking_for_a_ratio():
    problem = Problem("p", "embedded", "How many?", "10")
    assert parse_method("tokenskip:ratio=0.6").messages(problem, prompt(problem))[0].content == (
        "How many? <ratio>0.6</ratio>"
    )
    assert parse_method("tokenskip:ratio=1").messages(problem, prompt(problem)) == prompt(problem)
    with pytest.raises(BadInput):
        parse_method("tokenskip:ratio=0")


def test_bad_ratios():
    for ratios in ((), (0.0,), (1.2,)):
        with pytest.raises(BadInput):
            TokenSkip(ratios=ratios)
