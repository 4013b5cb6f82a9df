"""Token choice: greedy, drawn, cut and penalised."""

import pytest
import torch

from cot.engines.sampling import Chooser, choose, draw, keep_likely
from eval_math.records import Sampling

PROBABILITIES = torch.tensor([[0.5, 0.3, 0.15, 0.05]])


def kept(**knobs):
    return torch.isfinite(keep_likely(PROBABILITIES.log(), Sampling(temperature=1.0, **knobs)))[0].tolist()


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"top_k": 2}, [True, True, False, False]),
        ({"top_p": 0.8}, [True, True, False, False]),
        ({"top_p": 0.81}, [True, True, True, False]),
        ({"top_p": 0.01}, [True, False, False, False]),
        ({"min_p": 0.25}, [True, True, True, False]),
        ({"min_p": 1.0}, [True, False, False, False]),
    ],
)
def test_cuts(knobs, expected):
    assert kept(**knobs) == expected


def test_draws_invert_the_cumulative_distribution():
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 0.96, 0.999999], dtype=torch.float64)
    drawn = draw(PROBABILITIES.log().expand(7, 4), Sampling(temperature=1.0), uniforms)
    assert drawn.tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_draws_follow_the_temperature():
    uniforms = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = draw(PROBABILITIES.log().expand(20_000, 4), Sampling(temperature=2.0), uniforms)
    expected = PROBABILITIES[0].sqrt() / PROBABILITIES[0].sqrt().sum()
    assert torch.allclose(drawn.bincount(minlength=4) / 20_000, expected, atol=0.015)


def test_zero_probability_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(3, 3)
    edges = torch.tensor([0.0, 0.5, 1 - 1e-12], dtype=torch.float64)
    assert draw(logits, Sampling(temperature=1.0), edges).tolist() == [1, 1, 1]


def test_rows_draw_with_their_own_seed():
    logits = torch.zeros(2, 1000)
    a, b = Sampling(temperature=1.0, seed=1), Sampling(temperature=1.0, seed=2)
    together = choose(logits, [Chooser.of(a), Chooser.of(b)], [[], []])
    swapped = choose(logits, [Chooser.of(b), Chooser.of(a)], [[], []])
    alone = choose(logits[:1], [Chooser.of(a)], [[]])
    assert together == swapped[::-1] and together[0] == alone[0] and together[0] != together[1]


def test_repetition_penalty_turns_both_signs_down():
    logits = torch.tensor([[2.0, 1.5, -1.0]])
    greedy = Chooser.of(Sampling(repetition_penalty=2.0))
    assert choose(logits, [greedy], [[0]]) == [1]
    assert choose(-logits, [greedy], [[2]]) == [2]
    assert choose(-logits, [greedy], [[2, 2, 0]]) == [2]
    assert logits.tolist() == [[2.0, 1.5, -1.0]]
