"""Ranking and files of head tables."""

from __future__ import annotations

import math

import pytest

from eval_math.errors import BadInput
from rl.head_table import HeadTable, load_table, random_table, save_table

TABLE = HeadTable(((0.2, 1.0, -0.3), (1.02, 0.2, 0.0)), "rlkv", {"model": "m", "model_hash": "abc"})


def test_ranking_clips_then_goes_by_the_raw_score_then_by_place():
    assert TABLE.ranked() == [(1, 0), (0, 1), (0, 0), (1, 1), (1, 2), (0, 2)]


def test_exactly_so_many_are_kept_and_more_sparsity_keeps_a_subset():
    table = random_table((5, 7), 0)
    before: set[tuple[int, int]] = {(at, h) for at in range(5) for h in range(7)}
    for step in range(21):
        sparsity = step / 20
        kept = table.kept(sparsity)
        now = {(at, h) for at, row in enumerate(kept) for h, keeps in enumerate(row) if keeps}
        assert len(now) == round((1 - sparsity) * 35) and now <= before
        before = now
    assert not before


def test_a_floor_keeps_the_best_of_every_layer():
    table = HeadTable(((0.9, 0.8), (0.1, 0.2)), "tsv")
    assert table.kept(0.5) == ((True, True), (False, False))
    assert table.kept(0.5, floor=1) == ((True, False), (False, True))
    with pytest.raises(BadInput, match="floor=2 needs 4 whole heads"):
        table.kept(0.5, floor=2)


def test_inverted_and_random():
    assert TABLE.inverted().ranked() == TABLE.ranked()[::-1]
    assert random_table((4, 4), 1).ranked() != random_table((4, 4), 2).ranked()
    assert sorted(random_table((4, 4), 1).ranked()) == [(at, h) for at in range(4) for h in range(4)]


@pytest.mark.parametrize("name", ["t.safetensors", "t.tsv"])
def test_files_keep_values_and_order(tmp_path, name):
    save_table(TABLE, tmp_path / name)
    found = load_table(tmp_path / name)
    assert found.scores == TABLE.scores and found.ranked() == TABLE.ranked()
    assert found.fingerprint() == TABLE.fingerprint()
    if name.endswith("safetensors"):
        assert (found.kind, found.provenance) == ("rlkv", TABLE.provenance)


@pytest.mark.parametrize("shape", [(32, 8), (28, 4), (36, 8)])
def test_published_tables_are_bare_text(tmp_path, shape):
    """Layers x KV heads, tab-separated, as `%.18e`; values a little outside [0, 1] occur."""
    rows = [["%.18e" % (-0.0048 + (at * shape[1] + h) / 251) for h in range(shape[1])] for at in range(shape[0])]
    (tmp_path / "adapter_weights.tsv").write_text("\n".join("\t".join(row) for row in rows))
    table = load_table(tmp_path / "adapter_weights.tsv")
    assert table.shape == shape and table.scores[0][0] == -0.0048
    assert sum(map(sum, table.kept(0.5))) == shape[0] * shape[1] // 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "0.1\t0.2\n0.3\n", "rows of"),
        ("a.tsv", "0.1\tx\n", "tab-separated numbers"),
        ("a.tsv", "", "rows of no scores"),
        ("a.tsv", "0.1\tnan\n", "no number"),
        ("a.safetensors", "nothing", "no head table"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        load_table(tmp_path / name)


def test_wrong_use_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such head table"):
        load_table(tmp_path / "none.tsv")
    with pytest.raises(BadInput, match="the model has"):
        TABLE.check(4, 4)
    with pytest.raises(BadInput, match="whose weights are others"):
        TABLE.check(2, 3, "xyz")
    TABLE.check(2, 3, "abc")
    for sparsity in (-0.1, 1.1, math.inf):
        with pytest.raises(BadInput, match="sparsity"):
            TABLE.kept(sparsity)
