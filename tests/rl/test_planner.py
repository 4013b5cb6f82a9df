"""The planner against published sizes, and the commands that show tables and plans."""

from __future__ import annotations

import json

import pytest
from laconic_cli.main import main

from eval_math.errors import BadInput
from rl.head_table import HeadTable, random_table, save_table
from rl.planner import ModelShape, RpcPlan, WindowPlan, read_shape

LLAMA, QWEN, QWQ = (ModelShape(32, 8, 128, 0), ModelShape(28, 4, 128, 0), ModelShape(64, 8, 128, 0))


def test_bytes_per_token_of_known_models():
    assert [shape.token_bytes for shape in (LLAMA, QWEN, ModelShape(36, 8, 128, 0))] == [131_072, 57_344, 147_456]


@pytest.mark.parametrize(
    ("shape", "weights", "tokens", "whole", "rpc"),
    [
        (QWEN, 15.2, 8192, 30.6, 25.0),
        (QWEN, 15.2, 16384, 45.6, 28.7),
        (QWEN, 15.2, 32768, 75.7, 36.2),
        (QWQ, 65.5, 8192, 135.5, 109.7),
        (QWQ, 65.5, 16384, 204.2, 126.9),
        (QWQ, 65.5, 32768, None, 163.4),
    ],
)
def test_peak_memory_of_the_rpc_paper_within_two_percent(shape, weights, tokens, whole, rpc):
    """Its efficiency figure in GB, batch 32, prompt 128, interval 4096."""
    plan = RpcPlan()
    if whole:
        assert weights + shape.whole(128 + tokens, 32) / 1e9 == pytest.approx(whole, rel=0.02)
    assert weights + shape.whole(plan.peak(128, tokens), 32) / 1e9 == pytest.approx(rpc, rel=0.02)


@pytest.mark.parametrize(("interval", "ratio", "newest"), [(8, 2, 3), (10, 3, 4), (7, 4, 1), (5, 1, 2)])
def test_length_of_rpc_is_that_of_its_algorithm(interval, ratio, newest):
    plan, prompt = RpcPlan(interval, ratio, newest), 5
    size, kept, most = prompt, 0, 0
    for generated in range(1, 100):
        size += 1
        most = max(most, size)
        if size - prompt - kept - newest == interval:
            kept += interval // ratio
            size = prompt + kept + newest
        assert (size, most) == (plan.length(prompt, generated), max(most, plan.peak(prompt, generated)))
        assert plan.peak(prompt, generated) == most or ratio == 1


@pytest.mark.parametrize(("sparsity", "tokens", "ratio"), [(0.5, 3000, 0.513), (0.2, 1000, 0.816), (0.6, 32000, 0.401)])
def test_share_of_windowed_heads(sparsity, tokens, ratio):
    found = LLAMA.windowed(tokens, 4, WindowPlan(sparsity)) / LLAMA.whole(tokens, 4)
    assert found == pytest.approx(ratio, abs=0.003)
    assert LLAMA.windowed(80, 1, WindowPlan(sparsity)) == LLAMA.whole(80)


def test_the_plan_command_reads_config_json_alone(tmp_path, capsys):
    config = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
              "intermediate_size": 14336, "vocab_size": 128256}  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert main(["heads", "plan", "--model", str(path), "--tokens", "32768", "--json", "-"]) == 0
    shown = capsys.readouterr()
    figures = json.loads(shown.out)
    assert figures["token_bytes"] == 131_072 and figures["bytes_per_row"]["whole"] == 32768 * 131_072
    assert figures["weights"] == pytest.approx(8.03e9, rel=0.01)
    assert "rlkv:sparsity=0.5" in shown.err and "rows in 80 GiB" in shown.err
    assert main(["heads", "plan", "--model", str(path), "--prompt", "0"]) == 2
    path.write_text(json.dumps({**config, "kv_lora_rank": 512}))
    with pytest.raises(BadInput, match="MLA"):
        read_shape(path)
    path.write_text("{}")
    with pytest.raises(BadInput, match="num_attention_heads"):
        read_shape(path)


def test_the_show_command_marks_whole_heads_and_compares(tmp_path, capsys):
    table = HeadTable(((0.9, 0.1), (0.2, 0.8)), "rlkv", {"model": "m"})
    save_table(table, tmp_path / "a.safetensors")
    save_table(table.inverted(), tmp_path / "b.tsv")
    words = ["heads", "show", str(tmp_path / "a.safetensors"), "--svg", str(tmp_path / "a.svg")]
    assert main([*words, "--other", str(tmp_path / "b.tsv")]) == 0
    shown = capsys.readouterr().out
    assert "0.900*" in shown and "0.100 " in shown and "rank correlation -1.00, both keep 0%" in shown
    assert (tmp_path / "a.svg").read_text().count('class="chosen"') == 2
    assert main(["heads", "show", str(tmp_path / "none.tsv")]) == 2
    assert "laconic heads find" in capsys.readouterr().err
    save_table(random_table((3, 3), 0), tmp_path / "c.tsv")
    assert main([*words, "--other", str(tmp_path / "c.tsv")]) == 2
