"""Merged sequences: groups, labels, stop labels, padding, merged embeddings."""

from __future__ import annotations

import random
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_math.errors import BadInput
from latent.layout import IGNORED, Parts, group_bounds, merge_embeddings, merged_sequence, pad_batch, split_row

END = 99
parts = st.builds(
    Parts,
    prompt=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    thought=st.lists(st.integers(10, 49), min_size=1, max_size=30),
    tail=st.lists(st.integers(50, 60), max_size=5).map(lambda answer: [END, *answer]),
)


@settings(max_examples=200, deadline=None)
@given(parts, st.integers(1, 9), st.integers(0, 1000))
def test_groups_labels_and_stop_labels(row, rate, seed):
    line = merged_sequence(row, rate, random.Random(seed))
    n_latents = -(-len(row.thought) // rate)
    first, last = len(row.prompt), len(row.prompt) + n_latents
    assert len(line.groups) == len(line.labels) == len(line.predicts) == last + len(row.tail)
    latents = line.groups[first:last]
    assert list(chain(*latents)) == row.thought and all(len(group) == rate for group in latents[:-1])
    assert all(label in group for label, group in zip(line.labels[first:last], latents, strict=True))
    assert line.labels[:first] == [IGNORED] * first and line.labels[last:] == row.tail
    # One stop label, after the last latent, in every row and at every rate.
    assert [at for at, label in enumerate(line.labels) if label == END] == [last]
    # The start and each latent predict what comes next: a latent, or the end after the last one.
    assert [at for at, predicts in enumerate(line.predicts) if predicts] == list(range(first - 1, last))
    assert line == merged_sequence(row, rate, random.Random(seed))


def test_labels_can_be_left_to_end_and_answer():
    row = Parts([1], [10, 11, 12], [END, 50])
    assert merged_sequence(row, 2, random.Random(0), label_groups=False).labels == [IGNORED] * 3 + [END, 50]


def test_every_token_of_a_group_is_drawn():
    row = Parts([1], [10, 11, 12], [END])
    drawn = [merged_sequence(row, 3, random.Random(seed)).labels[1] for seed in range(300)]
    assert {token: round(drawn.count(token) / 300, 1) for token in (10, 11, 12)} == {10: 0.3, 11: 0.3, 12: 0.3}


def test_bounds():
    assert group_bounds(5, 2) == [(0, 2), (2, 4), (4, 5)] and group_bounds(0, 3) == []


@pytest.mark.parametrize("left", [False, True])
def test_padding_has_no_labels_and_no_tokens(left):
    lines = [merged_sequence(Parts([1, 2], [10] * n, [END, 50]), 2, random.Random(0)) for n in (1, 7)]
    batch = pad_batch(lines, left=left)
    assert batch["groups"].shape == (2, 8, 2)
    for at, line in enumerate(lines):
        real = batch["attention_mask"][at].bool()
        assert int(real.sum()) == len(line.groups) and bool(real[-1 if left else 0])
        assert batch["labels"][at][real].tolist() == line.labels
        assert batch["position_ids"][at][real].tolist() == list(range(len(line.groups)))
        assert not batch["predicts"][at][~real].any()
        assert (batch["groups"][at][~real] == -1).all() and (batch["labels"][at][~real] == IGNORED).all()


def test_one_token_is_its_embedding_bit_for_bit():
    for dtype in (torch.float32, torch.bfloat16):
        table = torch.randn(50, 16).to(dtype)
        ids = torch.arange(50)
        assert torch.equal(merge_embeddings(table, ids[:, None]), table)
        assert torch.equal(merge_embeddings(table, torch.stack([ids, -torch.ones_like(ids)], 1)), table)


@pytest.mark.parametrize("rate", [2, 5])
def test_root_keeps_the_spread_and_mean_shrinks_it(rate):
    table = torch.randn(5000, 64)
    groups = torch.randint(5000, (4000, rate))
    assert float(merge_embeddings(table, groups).std() / table.std()) == pytest.approx(1, abs=0.05)
    assert float(merge_embeddings(table, groups, mean=True).std() / table.std()) == pytest.approx(rate**-0.5, abs=0.05)


def test_order_in_a_group_does_not_matter():
    table = torch.randn(50, 8)
    assert torch.allclose(
        merge_embeddings(table, torch.tensor([1, 2, 3])), merge_embeddings(table, torch.tensor([3, 1, 2])), atol=1e-6
    )


def test_rows_are_cut_at_the_tags(chat):
    start, end = chat.tags.start_id, chat.tags.end_id
    assert split_row(chat, [5, start], [6, 7, end, 8]) == Parts([5, start], [6, 7], [end, 8])
    assert split_row(chat, [5], [start, 6, end, 8]) == Parts([5, start], [6], [end, 8])
    # What the template puts after its start tag belongs to the thought.
    assert split_row(chat, [5, start, 9], [6, end]) == Parts([5, start], [9, 6], [end])
    for completion in ([6, 7], [start, 6], [start, end, 8]):
        with pytest.raises(BadInput, match=r"<think> \.\.\. </think>"):
            split_row(chat, [5], completion)
