"""Estimators on differences with known answers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from steering.estimators import ESTIMATORS, first_component, mean_difference, median  # noqa: E402


def planted(rows=60, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(width, generator=generator)
    sizes = 1 + torch.rand(rows, 1, generator=generator)
    return direction, sizes * direction + 0.05 * torch.randn(rows, width, generator=generator)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_a_planted_direction_is_found_with_its_sign_and_length(name):
    direction, rows = planted()
    found = ESTIMATORS[name](rows)
    assert found.dtype == torch.float32 and found.shape == direction.shape
    assert float(torch.cosine_similarity(found, direction, 0)) > 0.99
    assert 1.3 < float(found.norm() / direction.norm()) < 1.7
    assert torch.allclose(ESTIMATORS[name](-rows), -found, atol=0.1)


def test_mean_and_median():
    rows = torch.tensor([[0.0, 1.0], [0.0, 2.0], [90.0, 3.0]])
    assert mean_difference(rows).tolist() == [30.0, 2.0]
    assert median(rows).tolist() == [0.0, 2.0]


def test_the_first_component_prefers_what_all_pairs_share():
    rows = torch.tensor([[3.0, 1.0], [3.0, -1.0], [3.0, 0.5], [3.0, -0.5]])
    found = first_component(rows)
    assert found[0] == pytest.approx(3.0, abs=1e-5) and abs(float(found[1])) < 1e-5
