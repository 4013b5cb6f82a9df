"""Reordered heads say the same, are served as slices, and go back bit for bit."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, left_padded_ids, tiny

from eval_math.errors import BadInput
from rl.gates import Window
from rl.head_cache import ATTENTION, register, two_group_cache
from rl.head_order import reordered

KEPT = ((False, True, False, True), (False, False, False, False), (False, True, True, True))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_stay_and_weights_come_back(family):
    model = tiny(family)
    ids, _ = left_padded_ids((20, 20), 20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        wanted = model(ids).logits
        with reordered(model, KEPT) as kept:
            assert kept == ((True, True, False, False), (False,) * 4, (True, True, True, False))
            assert not torch.equal(model.model.layers[0].self_attn.q_proj.weight, before[name_of("q_proj")])
            assert torch.allclose(model(ids).logits, wanted, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_cache_in_the_new_order_gives_the_same(one_thread):
    model = tiny("llama")
    register()
    model.set_attn_implementation(ATTENTION)
    ids, _ = left_padded_ids((30, 30), 30)

    def stepwise(kept):
        cache, found = two_group_cache(kept, Window(2, 5)), []
        with torch.no_grad():
            for at in range(30):
                found.append(model(ids[:, at : at + 1], past_key_values=cache).logits)
        return torch.cat(found, 1)

    wanted = stepwise(KEPT)
    with reordered(model, KEPT) as kept:
        assert torch.allclose(stepwise(kept), wanted, atol=1e-5)


def test_another_shape_and_packed_weights_are_refused():
    model = tiny("llama")
    with pytest.raises(BadInput, match="2 layers of heads given"), reordered(model, KEPT[:2]):
        pass
    model.model.layers[1].self_attn.k_proj = torch.nn.Identity()
    with pytest.raises(BadInput, match="no plain matrix"), reordered(model, KEPT):
        pass


def name_of(projection: str) -> str:
    return f"model.layers.0.self_attn.{projection}.weight"
