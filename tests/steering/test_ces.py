"""A learned vector: its invariants (spec: finite gradients, frozen model, ln 2 at the start) and that it learns."""

from __future__ import annotations

import math

import pytest

from eval_math.errors import BadInput
from steering.ces import CesConfig, CesStep, _short_suffers, energies, learn
from steering.forcing import Response

torch = pytest.importorskip("torch")

SHORT = Response((5, 9, 12, 40, 41, 42), 3)
LONG = Response((5, 9, 12, 60, 61, 62, 63, 64, 65), 3)


def on_model(engine, change):
    return engine.apply_model(change)


def zeros(model):
    return torch.zeros(model.config.hidden_size)


def test_energy_is_the_mean_negative_log_probability_of_the_response(engine):
    def both(model):
        found = energies(model, zeros(model), [SHORT, LONG], 1).tolist()
        wanted = []
        for response in (SHORT, LONG):
            rows = model(torch.tensor([response.ids])).logits[0].log_softmax(-1)
            steps = [rows[at - 1, response.ids[at]] for at in range(response.start, len(response.ids))]
            wanted.append(-float(sum(steps)) / len(steps))
        return found, wanted

    found, wanted = on_model(engine, both)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_exactly_the_states_that_predict_the_response_are_moved(engine):
    """In the first block, so that a step at any other position would change the energy too."""

    def both(model):
        vector = torch.linspace(-1, 1, model.config.hidden_size)
        found = energies(model, vector, [SHORT, LONG], 0).tolist()
        wanted = []
        for response in (SHORT, LONG):

            def add(module, arguments, output, response=response):
                changed = output.clone()
                changed[:, response.start - 1 : len(response.ids) - 1] += vector
                return changed

            handle = model.model.layers[0].register_forward_hook(add)
            rows = model(torch.tensor([response.ids])).logits[0].log_softmax(-1)
            handle.remove()
            steps = [rows[at - 1, response.ids[at]] for at in range(response.start, len(response.ids))]
            wanted.append(-float(sum(steps)) / len(steps))
        return found, wanted, energies(model, zeros(model), [SHORT, LONG], 0).tolist()

    found, wanted, unsteered = on_model(engine, both)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert all(abs(a - b) > 1e-3 for a, b in zip(found, unsteered, strict=True))


def test_identical_sides_start_at_ln_2(engine):
    log = on_model(engine, lambda model: learn(model, [(LONG, LONG)], CesConfig(1, steps=1))).log
    assert log[0].rank == pytest.approx(math.log(2), abs=1e-6) and log[0].task == pytest.approx(0, abs=1e-6)


def test_it_lowers_the_loss_and_leaves_the_model_alone(engine):
    def train(model):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        config = CesConfig(1, steps=60, learning_rate=0.05, pairs_per_step=1, weight=0.0)
        learned = learn(model, [(LONG, SHORT)], config)
        same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return learned, same, sum(len(m._forward_hooks) for m in model.modules()), [p.grad for p in model.parameters()]

    learned, same, hooks, grads = on_model(engine, train)
    assert learned.log[-1].rank < 0.5 * learned.log[0].rank
    assert torch.isfinite(learned.vector).all() and float(learned.vector.norm()) > 0
    assert same and hooks == 0 and all(grad is None for grad in grads)


def test_the_trust_region_holds_the_task_still(engine):
    def divergence(weight):
        config = CesConfig(1, steps=60, learning_rate=0.05, weight=weight, task_eps=0.02)
        return on_model(engine, lambda model: learn(model, [(LONG, SHORT)], config, [LONG.ids])).log[-1].task

    assert divergence(20.0) < 0.6 * divergence(0.0)


def test_learning_ends_once_short_traces_suffer(engine):
    """With a tolerance below any energy the end comes as soon as it is looked for; the faithful variant goes on."""

    def run(faithful):
        config = CesConfig(1, steps=60, tolerance=-100.0, faithful=faithful)
        return on_model(engine, lambda model: learn(model, [(LONG, SHORT)], config))

    ours, paper = run(False), run(True)
    assert ours.ended_early and len(ours.log) == 40
    assert not paper.ended_early and len(paper.log) == 60


@pytest.mark.parametrize(("last", "suffers"), [(1.3, True), (1.05, False), (0.2, False)])
def test_what_suffering_is(last, suffers):
    energies_of_short = [1.0] * 20 + [5.0] * 10 + [last] * 20
    log = [CesStep(at, short, 2.0, 0.5, 0.0, 0.0) for at, short in enumerate(energies_of_short)]
    assert _short_suffers(log, CesConfig(0)) is suffers
    assert not _short_suffers(log[:39], CesConfig(0))


def test_the_same_seed_gives_the_same_vector(engine):
    config = CesConfig(0, steps=5, pairs_per_step=1, seed=4)
    first, again = (on_model(engine, lambda m: learn(m, [(LONG, SHORT), (SHORT, LONG)], config)) for _ in range(2))
    assert torch.equal(first.vector, again.vector)


def test_bad_requests(engine):
    with pytest.raises(BadInput, match="no pairs"):
        on_model(engine, lambda model: learn(model, [], CesConfig(0)))
    with pytest.raises(BadInput, match="blocks: 99"):
        on_model(engine, lambda model: learn(model, [(LONG, SHORT)], CesConfig(99)))
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"eps": -1.0}):
        with pytest.raises(BadInput, match="expected"):
            CesConfig(0, **wrong)
