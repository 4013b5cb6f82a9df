"""The two-group cache: equal to masks over everything, its bytes equal to the formula, rows that join and leave."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, VOCABULARY, left_padded_ids, tiny

from cot.engines.batch import left_padded
from cot.engines.cache import growing_cache
from eval_math.errors import BadInput
from rl.gates import Window
from rl.head_cache import ATTENTION, register, two_group_cache
from rl.windows import window_mask

WINDOW = Window(2, 5)
KEPT = ((True, False, True, False), (False, False, False, False), (True, True, True, True))
"""A layer of each kind: mixed, none whole, all whole."""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny(request.param)


def use_groups(model) -> None:
    register()
    model.set_attn_implementation(ATTENTION)


def oracle(model, ids, mask, kept=KEPT, window=WINDOW):
    """Logits of a whole pass with a mask by head in each layer."""
    handles = []
    columns = torch.arange(ids.shape[1])
    causal = (columns[None] <= columns[:, None])[None] & mask[:, None].bool()
    local = window_mask(causal, window.sink, window.recent)
    for layer, row in zip(model.model.layers, kept, strict=True):
        by_head = torch.stack([causal if keeps else local for keeps in row for _ in range(2)], 1)

        def masked(module, arguments, keywords, by_head=by_head):
            return arguments, {**keywords, "attention_mask": by_head}

        handles.append(layer.self_attn.register_forward_pre_hook(masked, with_kwargs=True))
    try:
        with torch.no_grad():
            return model(ids, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    finally:
        for handle in handles:
            handle.remove()


def decoded(model, ids, mask, pieces, kept=KEPT, window=WINDOW):
    """Logits of the same tokens in pieces of given lengths, and the cache."""
    cache, found, at = two_group_cache(kept, window), [], 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for piece in pieces:
        end = at + piece
        with torch.no_grad():
            output = model(
                ids[:, at:end],
                attention_mask=mask[:, :end],
                position_ids=positions[:, at:end],
                past_key_values=cache,
            )
        found.append(output.logits)
        at = end
    return torch.cat(found, 1), cache


@pytest.mark.parametrize("pieces", [(12, *[1] * 28), (40,), (3, 7, 1, 9, 1, 1, 18), (1,) * 40, (6, 4, *[1] * 30)])
@pytest.mark.parametrize("lengths", [(40, 40), (40, 33, 30)])
def test_any_pieces_give_what_the_masks_give(model, pieces, lengths):
    ids, mask = left_padded_ids(lengths, 40)
    if pieces[0] < 11 and min(lengths) < 40:
        pytest.skip("a first piece of padding alone has no first token")
    wanted = oracle(model, ids, mask)
    use_groups(model)
    found, _ = decoded(model, ids, mask, pieces)
    assert (found - wanted)[mask.bool()].abs().max() < 1e-5


def test_all_heads_whole_is_the_model_bit_for_bit(model):
    ids, mask = left_padded_ids((40, 33), 40)
    kept = tuple((True,) * 4 for _ in KEPT)
    stock, at = growing_cache(model), 0
    wanted = []
    with torch.no_grad():
        for piece in (12, *[1] * 28):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, at : at + piece]
            wanted.append(model(ids[:, at : at + piece], attention_mask=mask[:, : at + piece], position_ids=positions,
                                past_key_values=stock).logits)  # fmt: skip
            at += piece
    use_groups(model)
    found, _ = decoded(model, ids, mask, (12, *[1] * 28), kept)
    assert torch.equal(found[mask.bool()], torch.cat(wanted, 1)[mask.bool()])


@pytest.mark.parametrize("whole", range(5))
def test_bytes_are_the_formula_before_at_and_beyond_the_window(whole):
    model = tiny("llama")
    use_groups(model)
    kept = tuple(tuple(head < whole for head in range(4)) for _ in range(3))
    for length in (3, WINDOW.size - 1, WINDOW.size, WINDOW.size + 1, 40):
        ids, mask = left_padded_ids((length, length), length)
        _, cache = decoded(model, ids, mask, (2, *[1] * (length - 2)), kept)
        states = whole * length + (4 - whole) * min(length, WINDOW.size)
        assert sum(layer.held_bytes() for layer in cache.layers) == 3 * 2 * 2 * 16 * 4 * states
        room = 3 * 2 * 2 * 16 * 4 * (whole * 512 + (4 - whole) * WINDOW.size)
        assert sum(layer.held_bytes() for layer in cache.layers) <= sum(
            layer.allocated_bytes() for layer in cache.layers
        ) <= room  # fmt: skip


def test_order_in_the_ring_does_not_matter():
    model = tiny("llama")
    use_groups(model)
    ids, mask = left_padded_ids((40, 40), 40)
    wanted, cache = decoded(model, ids, mask, (12, *[1] * 27))
    wanted, _ = decoded(model, ids, mask, (12, *[1] * 28))
    for layer in cache.layers:
        # The newest token's slot stays: the next write goes where its position says.
        slot = int(WINDOW.slots(torch.tensor([39])))
        others = [at for at in range(WINDOW.size) if at != slot]
        order = torch.arange(WINDOW.size)
        order[others] = torch.tensor(others[1:] + others[:1])
        layer.ring_keys, layer.ring_values = layer.ring_keys[:, :, order], layer.ring_values[:, :, order]
    with torch.no_grad():
        found = model(ids[:, 39:], attention_mask=mask, position_ids=torch.full((2, 1), 39), past_key_values=cache)
    assert torch.allclose(found.logits[:, 0], wanted[:, 39], atol=1e-5)


def test_rows_leave_and_join_as_if_alone():
    model = tiny("llama")
    use_groups(model)
    ids, mask = left_padded_ids((14, 9), 14)
    first, cache = decoded(model, ids, mask, (14,))
    alone = ids[1:, 5:]
    wanted, _ = decoded(model, torch.cat([alone, alone[:, :6]], 1), torch.ones(1, 15, dtype=torch.long), (9, *[1] * 6))
    for layer in cache.layers:
        layer.batch_select_indices(torch.tensor([1]))
        layer.trim(5)
    longer = left_padded([ids[0].tolist() * 2], 0, ids.device)
    _, other = decoded(model, longer.ids, longer.mask, (28,))
    for mine, new in zip(cache.layers, other.layers, strict=True):
        mine.join(new, 28)
    both = torch.cat([torch.nn.functional.pad(torch.ones(1, 9, dtype=torch.long), (19, 0)), longer.mask])
    found = []
    for step in range(6):
        both = torch.cat([both, torch.ones(2, 1, dtype=torch.long)], 1)
        fed = torch.stack([alone[0, step], torch.tensor(step)])[:, None]
        with torch.no_grad():
            output = model(fed, attention_mask=both, position_ids=torch.tensor([[9 + step], [28 + step]]),
                           past_key_values=cache)  # fmt: skip
        found.append(output.logits[0, 0])
    assert torch.allclose(torch.stack(found), wanted[0, 9:], atol=1e-5)
    assert torch.allclose(first[1, 5:], wanted[0, :9], atol=1e-5)


def test_generate_of_transformers_takes_the_cache():
    model = tiny("llama")
    ids, mask = left_padded_ids((12, 12), 12)
    sequence, wanted = ids, []
    for _ in range(20):
        logits = oracle(model, sequence, torch.ones_like(sequence))[:, -1]
        sequence = torch.cat([sequence, logits.argmax(-1)[:, None]], 1)
        wanted.append(logits)
    use_groups(model)
    cache = two_group_cache(KEPT, WINDOW)
    found = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=20, do_sample=False,
                           eos_token_id=VOCABULARY, pad_token_id=0)  # fmt: skip
    assert torch.equal(found, sequence)
    assert cache.get_seq_length() == 31
    cache.reset()
    again = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=20, do_sample=False,
                           eos_token_id=VOCABULARY, pad_token_id=0)  # fmt: skip
    assert torch.equal(again, sequence)


def test_what_cannot_work_says_so():
    model = tiny("llama")
    use_groups(model)
    ids, mask = left_padded_ids((12, 12), 12)
    with pytest.raises(BadInput, match="past_key_values=two_group_cache"):
        model(ids, use_cache=False)
    _, cache = decoded(model, ids, mask, (12,))
    with pytest.raises(BadInput, match="num_beams=1"):
        cache.reorder_cache(torch.tensor([1, 0]))
