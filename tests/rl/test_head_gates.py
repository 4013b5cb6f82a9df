"""Gates of 1 are the model itself, gates of 0 streaming attention; what learns and what does not."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, left_padded_ids, tiny

from eval_math.errors import BadInput
from rl.gates import GATES, Window, gated
from rl.windows import window_mask

WINDOW = Window(2, 5)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_gates_of_one_are_the_model_bit_for_bit(family, dtype, padded):
    model = tiny(family).to(dtype)
    ids, mask = left_padded_ids((30, 22, 9), 30)
    given = mask if padded else None
    real = mask.bool() if padded else torch.ones_like(mask, dtype=torch.bool)
    with torch.no_grad():
        before = model(ids, attention_mask=given).logits
        with gated(model, WINDOW):
            assert torch.equal(model(ids, attention_mask=given).logits[real], before[real])
        assert torch.equal(model(ids, attention_mask=given).logits, before)
    assert not any(hasattr(layer.self_attn, GATES) for layer in model.model.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_of_zero_are_streaming_attention(family):
    """The oracle is the model's own attention under an explicit mask."""
    model = tiny(family)
    ids, mask = left_padded_ids((30, 22, 9), 30)
    columns = torch.arange(30)
    causal = (columns[None] <= columns[:, None])[None] & mask[:, None].bool()
    local = window_mask(causal, WINDOW.sink, WINDOW.recent)[:, None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        wanted = model(ids, attention_mask=local, position_ids=positions).logits
        with gated(model, WINDOW) as gates:
            gates.values.zero_()
            found = model(ids, attention_mask=mask, position_ids=positions).logits
    assert torch.equal(found[mask.bool()], wanted[mask.bool()])


@pytest.mark.parametrize("window", [Window(2, 40), Window(31, 1)])
def test_a_window_over_everything_changes_nothing(window):
    model = tiny("llama")
    ids, _ = left_padded_ids((30, 30), 30)
    with torch.no_grad():
        before = model(ids).logits
        with gated(model, window) as gates:
            gates.values.zero_()
            assert torch.allclose(model(ids).logits, before, atol=1e-5)


def test_the_gradient_of_a_gate_is_the_difference_of_both_outputs():
    """By finite differences; the model's norms are in float32, so the step is no smaller."""
    model = tiny("llama", layers=1).double()
    ids, _ = left_padded_ids((20, 20), 20)
    with gated(model, WINDOW) as gates:
        gates.values.data = gates.values.data.double() * 0.5
        loss = loss_of(model, ids)
        (gradient,) = torch.autograd.grad(loss, [gates.values])
        for head in range(4):
            step = 1e-2
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    gates.values[0, head] += sign * step
                    losses.append(float(loss_of(model, ids)))
                    gates.values[0, head] -= sign * step
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float(gradient[0, head]), rel=0.03, abs=1e-5)


def loss_of(model, ids) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def test_a_model_is_given_back_as_it_was_also_after_an_error():
    model = tiny("llama")
    with pytest.raises(ZeroDivisionError), gated(model, WINDOW) as gates:
        gates.values.data.zero_()
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
    assert "kv_gates" not in dict(model.named_parameters())


def test_opened_gates_close_again():
    model = tiny("llama")
    with gated(model, WINDOW) as gates:
        gates.values.data.fill_(0.3)
        with gates.opened():
            assert float(gates.values.detach().min()) == 1
        assert float(gates.values.detach().max()) == pytest.approx(0.3)


def test_a_model_with_windows_of_its_own_is_refused():
    model = tiny("llama")
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(BadInput, match="every layer has full attention"), gated(model, WINDOW):
        pass


@pytest.mark.parametrize("given", [(-1, 4), (2, 0)])
def test_a_window_without_the_query_itself_is_refused(given):
    with pytest.raises(BadInput, match="0 or more and 1 or more"):
        Window(*given)
