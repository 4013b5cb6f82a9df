"""Modes, windows, and requests that choose for themselves: each does what it says to each state."""

from dataclasses import replace

import pytest
import torch

from eval_math.errors import BadInput
from steering.application import Steering, steer
from steering.counting import Window

BLOCK, WIDTH, LAYERS = 1, 64, 4


@pytest.fixture(scope="module")
def step():
    return 8 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)) / WIDTH**0.5


def states_at(engine, ids, start, steering):
    """Outputs of every block without and with steering, for one scored text: (plain, steered)."""

    def run():
        found = []

        def read(model):
            return [
                layer.register_forward_hook(lambda m, a, o: found.append(o.clone())) for layer in model.model.layers
            ]

        handles = engine.apply_model(read)
        try:
            engine.score([(ids[:start], ids[start:])])
        finally:
            for handle in handles:
                handle.remove()
        return [state[0] for state in found[-4:]]

    plain = run()
    with steer(engine, steering):
        return plain, run()


IDS = "some words to be read here"


@pytest.mark.parametrize("mode", ["add", "add_preserve_norm", "ablate", "clamp", "replace"])
def test_each_mode_does_what_it_says_to_each_state(engine, step, mode):
    ids, strength = engine.encode(IDS), 0.7
    plain, steered = states_at(engine, ids, 6, Steering({BLOCK: step}, "all", "eos", strength, mode))
    before, after = plain[BLOCK].double(), steered[BLOCK].double()
    unit = (step / step.norm()).double()
    p, q = before @ unit, after @ unit
    if mode == "add":
        assert torch.allclose(after, before + strength * step.double(), atol=1e-5)
    elif mode == "add_preserve_norm":
        assert torch.allclose(after.norm(dim=-1), before.norm(dim=-1), rtol=1e-5)
        wanted = before + strength * step.double()
        assert torch.allclose(
            torch.cosine_similarity(after, wanted), torch.ones(len(ids), dtype=torch.float64), atol=1e-6
        )
    elif mode == "ablate":
        assert torch.allclose(q, (1 - strength) * p, atol=1e-4)
    else:
        target = strength * float(step.norm())
        wanted = torch.full_like(p, target) if mode == "replace" else p.clamp(min=target)
        assert torch.allclose(q, wanted, atol=1e-3)
    if mode != "add_preserve_norm":
        across = before - p[:, None] * unit, after - q[:, None] * unit
        assert torch.allclose(*across, atol=1e-4), "only the projection may move"
    assert torch.equal(plain[BLOCK - 1], steered[BLOCK - 1])


def test_ablation_takes_the_direction_out(engine, step):
    _, steered = states_at(engine, engine.encode(IDS), 6, Steering({BLOCK: step}, "all", "eos", 1.0, "ablate"))
    assert float((steered[BLOCK] @ (step / step.norm())).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("window", "expected"),
    [(Window(0, 3), range(5, 8)), (Window(2), range(7, 26)), (Window(1, 4), range(6, 9)), (Window(), range(5, 26))],
)
def test_a_window_steers_the_states_that_predict_its_tokens(engine, step, window, expected):
    ids = engine.encode(IDS)[:26]
    plain, steered = states_at(engine, ids, 6, Steering({BLOCK: step}, "last", "eos", window=window))
    moved = ((steered[BLOCK] - plain[BLOCK]).abs().max(-1).values > 1e-6).nonzero()[:, 0].tolist()
    assert moved == list(expected)


def test_a_fading_weight_falls_to_nothing(engine, step):
    ids = engine.encode(IDS)
    window = Window(fade_tokens=10)
    plain, steered = states_at(engine, ids, 6, Steering({BLOCK: step}, "all", "eos", window=window))
    share = (steered[BLOCK] - plain[BLOCK]).norm(dim=-1) / step.norm()
    wanted = [1.0] * 6 + [max(0.0, 1 - k / 10) for k in range(1, len(ids) - 5)]
    assert share.tolist() == pytest.approx(wanted, abs=1e-4)


def test_windows_are_counted(engine, requests, step):
    for window in (Window(0, 5), Window(3, 9), Window(4)):
        with steer(engine, Steering({BLOCK: step}, "last", "eos", window=window)) as count:
            traces = list(engine.generate(requests))
        assert count.mismatches(traces) == {} and count.steered > 0 and count.gaps == 0


def test_requests_of_one_batch_choose_strength_and_vector(engine, requests, step):
    other = torch.roll(step, 7)
    choices = [{}, {"steer_scale": 0}, {"steer_scale": -1.0}, {"steer_vector": "other", "steer_scale": 0.5}]
    chosen = [replace(requests[0], problem_id=f"r{i}", extras=extras) for i, extras in enumerate(choices)]
    with steer(engine, Steering({BLOCK: step}, "last", "eos", vectors={"other": {BLOCK: other}})) as count:
        together = {t.problem_id: t.token_ids for t in engine.generate(chosen)}
    assert count.gaps == 0
    alone = []
    for one in ({BLOCK: step}, None, {BLOCK: -step}, {BLOCK: 0.5 * other}):
        if one is None:
            alone.extend(t.token_ids for t in engine.generate(requests[:1]))
            continue
        with steer(engine, Steering(one, "last", "eos")):
            alone.extend(t.token_ids for t in engine.generate(requests[:1]))
    assert [together[f"r{i}"] for i in range(4)] == alone
    assert len(set(alone)) == 4


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ({"steer_scale": "much"}, "steer_scale"),
        ({"steer_vector": "none such"}, "known: none"),
        ({"steer_scale": True}, "finite"),
    ],
)
def test_bad_choices_of_a_request_are_named(engine, requests, step, extras, said):
    steering = Steering({BLOCK: step})
    with pytest.raises(BadInput, match=said):
        steering.chosen(replace(requests[0], extras=extras))


def test_a_bad_choice_ends_its_own_request_only(engine, requests, step):
    bad = [{"steer_scale": "much"}, {"steer_vector": "none such"}, {"steer_scale": float("inf")}]
    wrong = [replace(requests[0], problem_id=f"bad{i}", extras=extras) for i, extras in enumerate(bad)]
    with steer(engine, Steering({BLOCK: step})) as count:
        alone = {t.problem_id: t.token_ids for t in engine.generate(requests)}
        count.clear()
        traces = {t.problem_id: t for t in engine.generate([wrong[0], *requests, *wrong[1:]])}
    assert {name: traces[name].token_ids for name in alone} == alone and len(traces) == len(requests) + 3
    for name, said in (("bad0", "steer_scale 'much'"), ("bad1", "steer_vector 'none such'"), ("bad2", "finite")):
        assert traces[name].finish == "error" and said in (traces[name].error or "")
    assert count.mismatches(traces.values()) == {}
    assert [t.finish == "error" for t in engine.generate(wrong)] == [False] * 3, "the check must go with the steering"


def test_bad_settings_are_refused(step):
    for settings, said in (
        ({"mode": "push"}, "mode"),
        ({"strength": float("nan")}, "strength"),
        ({"vectors": {"a": {BLOCK + 1: step}}}, "blocks"),
    ):
        with pytest.raises(BadInput, match=said):
            Steering({BLOCK: step}, **settings)
    for window in ({"start": 3, "stop": 3}, {"start": -1}, {"fade_tokens": 0}):
        with pytest.raises(BadInput, match="window"):
            Window(**window)


def test_a_window_past_the_probe_is_no_steering_without_effect(engine, requests, step):
    """The probe that proves the hooks is short: it is read without the window."""
    with steer(engine, Steering({BLOCK: step}, "last", "eos", window=Window(200))) as count:
        late = {t.problem_id: t.token_ids for t in engine.generate(requests)}
    assert count.steered == 0
    assert late == {t.problem_id: t.token_ids for t in engine.generate(requests)}


def test_a_clamp_that_nothing_falls_short_of_is_allowed(engine, requests, step):
    with steer(engine, Steering({BLOCK: step}, "last", "eos", -1000.0, "clamp")) as count:
        list(engine.generate(requests))
    assert count.gaps == 0
