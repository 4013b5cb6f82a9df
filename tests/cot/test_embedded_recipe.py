"""Recipes: what a card holds can be trained again, and what is wrong in a file is named."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from cot.embedded.recipe import Recipe, read_recipe, recipe_for
from eval_math.errors import BadInput


@pytest.mark.parametrize("size", ["test", "default", "large"])
def test_a_card_can_be_trained_again(tmp_path, size):
    recipe = recipe_for(size, seed=3, length=0.5)
    path = tmp_path / "card.json"
    path.write_text(json.dumps({"format": "x", "recipe": asdict(recipe)}))
    assert read_recipe(path) == recipe


def test_what_a_file_lacks_is_the_default(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"muon_lr": 1, "cycles": [{"tokens": 5, "mix": {"drill": 0.75}}]}')
    recipe = read_recipe(path)
    assert (recipe.muon_lr, recipe.cycles[0].tokens, recipe.cycles[0].mix.drill) == (1.0, 5, 0.75)
    assert recipe.architecture == Recipe().architecture and len(recipe.cycles) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object"),
        ('{"muon": 1}', "unknown name 'muon'.*muon_lr"),
        ('{"cycles": [{"mix": {"drill": "x"}}]}', "cycles, mix, drill: 'x' given"),
        ('{"seed": 0.5}', "seed: 0.5 given"),
    ],
)
def test_bad_recipes(tmp_path, text, said):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        read_recipe(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere\.json"):
        read_recipe(tmp_path / "nowhere.json")


def test_the_default_recipe_fits_the_time_and_size_it_promises():
    recipe = recipe_for("default")
    shape = recipe.architecture
    assert shape.layers * shape.heads >= 16
    assert recipe.tokens <= 21_000_000
