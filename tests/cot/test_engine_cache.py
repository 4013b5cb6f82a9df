"""The growing cache holds what transformers' own does, whatever is done to it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from transformers.cache_utils import DynamicLayer  # noqa: E402

from cot.engines.batch import _closed_up  # noqa: E402
from cot.engines.cache import ROOM, GrowingLayer  # noqa: E402


def both():
    return GrowingLayer(), DynamicLayer()


def feed(layers, rows, new, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(rows, 2, new, 4, generator=generator) for _ in range(2))
    found = [layer.update(keys, values) for layer in layers]
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


def test_updates_past_the_room_kept_free():
    layers = both()
    for seed, new in enumerate([5, 1, ROOM, 1, 2 * ROOM, 3]):
        feed(layers, 3, new, seed)
    assert layers[0].get_seq_length() == layers[1].get_seq_length()


def test_a_step_copies_nothing_but_itself():
    layer = GrowingLayer()
    feed([layer, DynamicLayer()], 2, 5)
    place = layer.keys.data_ptr()
    layer.update(torch.ones(2, 2, 1, 4), torch.ones(2, 2, 1, 4))
    assert layer.keys.data_ptr() == place and layer.keys.shape[-2] == 6


@pytest.mark.parametrize("indices", [[0, 2], [3, 1], [3, 2, 1], [0, 1, 2, 3], [1], [2, 0]])
def test_selecting_rows_then_going_on(indices):
    layers = both()
    feed(layers, 4, 5)
    for layer in layers:
        layer.batch_select_indices(torch.tensor(indices))
    assert torch.equal(layers[0].keys, layers[1].keys) and torch.equal(layers[0].values, layers[1].values)
    feed(layers, len(indices), 2, 1)


def test_cropping_and_replacing_from_outside():
    layers = both()
    feed(layers, 2, 9)
    for layer in layers:
        layer.crop(4)
    feed(layers, 2, 1, 1)
    for layer in layers:
        layer.keys, layer.values = layer.keys[:, :, 2:], layer.values[:, :, 2:]
    feed(layers, 2, 3, 2)
    assert layers[0].get_seq_length() == 4 + 1 - 2 + 3


@pytest.mark.parametrize(
    ("alive", "order"), [([0, 1, 3], [0, 1, 3]), ([1, 2, 3], [3, 1, 2]), ([4, 5], [5, 4]), ([2], [2]), ([], [])]
)
def test_the_last_rows_close_the_gaps(alive, order):
    assert _closed_up(alive) == order
