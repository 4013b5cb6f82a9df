"""Calibration against direct measurement, and against derivatives by automatic differentiation."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from eval_math.errors import BadInput
from steering.bound import safe_strength
from steering.calibration import CalibrationConfig, Sensitivity, Task, calibrate, measure_states
from steering.forcing import Response, divergences, log_probabilities

torch = pytest.importorskip("torch")

BLOCK = 1
RESPONSES = tuple(Response(tuple(range(40 + i, 60 + i)), 5) for i in range(6))


def task_of(model, responses=RESPONSES, **more) -> Task:
    step = torch.linspace(-1, 1, model.config.hidden_size)
    return Task(model, BLOCK, step, responses, **more)


def run(engine, config, responses=RESPONSES, **more):
    return engine.apply_model(lambda model: calibrate(task_of(model, responses, **more), config))


def test_empirical_meets_the_budget(engine):
    found = run(engine, CalibrationConfig(eps=0.05), generic=RESPONSES[:2])
    assert found.task.mean == pytest.approx(0.05, rel=0.011)
    assert found.task.p95 <= found.task.largest and found.generic is not None and found.generic.mean > 0
    direct = engine.apply_model(
        lambda m: divergences(
            log_probabilities(m, RESPONSES),
            log_probabilities(m, RESPONSES, BLOCK, found.strength * task_of(m).step),
        )
    )
    assert float(direct.mean()) == pytest.approx(found.task.mean, rel=1e-4)
    strengths = [point.strength for point in found.curve]
    assert strengths == sorted(strengths) and found.strength in strengths
    assert found.share == pytest.approx(found.strength * found.step_norm / found.state_norm)


def test_budget_grows_the_strength(engine):
    found = [run(engine, CalibrationConfig(eps=eps)).strength for eps in (0.001, 0.01, 0.1)]
    assert found == sorted(found) and len(set(found)) == 3


def test_a_doubled_step_has_half_the_strength(engine):
    def both(model):
        once = task_of(model)
        return [calibrate(replace(once, step=k * once.step), CalibrationConfig(mode=m)).strength
                for m in ("empirical", "fisher", "paper", "bound") for k in (1, 2)]  # fmt: skip

    found = engine.apply_model(both)
    for once, twice in zip(found[::2], found[1::2], strict=True):
        assert once == pytest.approx(2 * twice, rel=0.02)


def single_states() -> list[Response]:
    return [Response(r.ids[: at + 1], at) for r in RESPONSES for at in range(r.start, len(r.ids))]


def test_fisher_is_exact_for_single_states_and_small_budgets(engine):
    found = run(engine, CalibrationConfig(mode="fisher", eps=1e-4, states=1000), single_states())
    assert found.task.mean == pytest.approx(1e-4, rel=0.05)


def test_the_bound_holds_for_every_state(engine):
    config = CalibrationConfig(mode="bound", eps=1e-2, states=1000, aggregate="max")
    found = run(engine, config, single_states())
    assert 0 < found.task.largest <= 1e-2
    bolder = run(engine, replace(config, aggregate="median"), single_states())
    assert bolder.strength > found.strength
    paper = run(engine, replace(config, mode="paper"), single_states())
    fisher = run(engine, replace(config, mode="fisher"), single_states())
    assert paper.strength < fisher.strength


def test_sensitivity_equals_automatic_differentiation(engine):
    def measured(model) -> tuple[list[Sensitivity], list[tuple[float, float]]]:
        task = task_of(model, RESPONSES[:1])
        config = CalibrationConfig(states=3, difference=0.01)
        wanted = []
        for response in sorted(cut_like(task, config), key=lambda r: -len(r.ids)):

            def logits(strength, response=response):
                from steering.forcing import next_logits

                return next_logits(model, [response], BLOCK, strength * task.step)[0][0]

            zero = torch.zeros(())
            slope = torch.autograd.functional.jacobian(logits, zero)
            wanted.append((float(slope.norm()), float(torch.var(slope))))
        return measure_states(task, config), wanted

    found, wanted = engine.apply_model(measured)
    assert [s.slope for s in found] == pytest.approx([slope for slope, _ in wanted], rel=5e-3)


def cut_like(task, config):
    import numpy as np

    places = [(r, at) for r in task.responses for at in range(r.start, len(r.ids))]
    chosen = np.random.default_rng(config.seed).permutation(len(places))[: config.states]
    return [Response(places[i][0].ids[: places[i][1] + 1], places[i][1]) for i in sorted(chosen)]


def test_the_record_is_json_and_the_model_is_left_alone(engine):
    before = engine.apply_model(lambda m: log_probabilities(m, RESPONSES[:1])[0])
    found = run(engine, CalibrationConfig(mode="bound"))
    after = engine.apply_model(lambda m: log_probabilities(m, RESPONSES[:1])[0])
    assert torch.equal(before, after)
    row = json.loads(found.to_json())
    assert row["mode"] == "bound" and row["n_states"] == 50 and row["task"]["strength"] == found.strength
    assert math.isfinite(row["share_of_state_norm"]) and row["sensitivity"] > 0
    assert safe_strength(row["sensitivity"], row["curvature"], 0.05) > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: Task(m, 99, torch.ones(m.config.hidden_size), RESPONSES), "blocks"),
        (lambda m: Task(m, 1, torch.zeros(m.config.hidden_size), RESPONSES), "zero"),
        (lambda m: Task(m, 1, torch.ones(m.config.hidden_size), ()), "no responses"),
    ],
)
def test_impossible_tasks_are_refused(engine, change, said):
    with pytest.raises(BadInput, match=said):
        engine.apply_model(change)


def test_bad_settings_are_refused():
    for settings in ({"mode": "guess"}, {"eps": 0.0}, {"states": 0}, {"aggregate": "mean"}, {"eps": math.nan}):
        with pytest.raises(BadInput, match="calibration"):
            CalibrationConfig(**settings)
    with pytest.raises(BadInput, match="prompt token"):
        Response((1, 2), 0)
