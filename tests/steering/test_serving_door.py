"""What a steered server takes and refuses, without a server: choices, salts, bodies, the proof's rule."""

import json
from types import SimpleNamespace

import pytest

from eval_math.errors import BadInput, EngineError
from steering.serving import _refuse_no_effect
from steering.serving_door import Choice, Menu, refuse
from steering.serving_worker import ServedCount, ServedRows

MENU = Menu(("main", "other"), 0.5)


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        (None, Choice("main", 0.5)),
        ({"session_id": "x"}, Choice("main", 0.5)),
        ({"steer_scale": 2}, Choice("main", 2.0)),
        ({"steer_scale": -0.25, "steer_vector": "other"}, Choice("other", -0.25)),
        ({"steer_vector": "other"}, Choice("other", 1.0)),
        ({"steer_scale": 0, "steer_prefill": 4}, Choice("main", 0.0, 4)),
    ],
)
def test_a_choice_is_completed_and_spelled_out_gives_itself(asked, choice):
    assert MENU.choose(asked, 5) == choice == MENU.choose(choice.arguments(), 5)


BAD = [
    ({"steer_scale": "0.5"}, "steer_scale"),
    ({"steer_scale": float("nan")}, "steer_scale"),
    ({"steer_scale": float("inf")}, "steer_scale"),
    ({"steer_scale": 10**400}, "steer_scale"),
    ({"steer_scale": 1001}, "-1000 to 1000"),
    ({"steer_scale": True}, "steer_scale"),
    ({"steer_scale": None}, "steer_scale"),
    ({"steer_scale": [1]}, "steer_scale"),
    ({"steer_vector": "nosuch"}, "main, other"),
    ({"steer_vector": 1}, "main, other"),
    ({"steer_scal": 1}, "steer_scal"),
    ({"steer_prefill": 5}, "steer_prefill"),
    ({"steer_prefill": -1}, "steer_prefill"),
    ({"steer_prefill": True}, "steer_prefill"),
]


@pytest.mark.parametrize(("asked", "said"), BAD)
def test_a_bad_choice_is_refused(asked, said):
    with pytest.raises(BadInput, match=said):
        MENU.choose(asked, 5)


def test_a_default_of_0_steers_only_who_asks():
    menu = Menu(("main", "other"), 0.0)
    assert menu.choose(None, 5).scale == 0 and menu.choose({"steer_vector": "main"}, 5).scale == 1
    assert menu.choose({"steer_scale": 0.5}, 5) == Choice("main", 0.5)


def test_a_default_that_is_no_number_is_refused():
    with pytest.raises(BadInput, match="default scale"):
        Menu(("main",), float("nan"))


def test_what_came_past_the_door_is_unsteered_and_hurts_nobody():
    rows = ServedRows(None, None, MENU, ServedCount("last", "eos"))  # pyright: ignore[reportArgumentType]
    state = SimpleNamespace(sampling_params=SimpleNamespace(extra_args={"steer_scale": "much"}))
    assert rows._choice("r", state, 5) == Choice("main", 0.0)


def test_only_equal_steering_shares_cached_prefixes():
    choices = [Choice("main", 1.0), Choice("main", 2.0), Choice("other", 1.0), Choice("main", 1.0, 3)]
    salts = [choice.salt(None, 9) for choice in choices] + [Choice("main", 1.0).salt("mine", 9), None]
    assert len(set(salts)) == len(salts)
    assert Choice("other", 0.0).salt("mine", 9) == "mine" and Choice("other", 0.0).salt(None, 9) is None
    assert Choice("main", 1.0).salt(None, 9) == Choice("main", 1.0).salt(None, 12)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"vllm_xargs": {"steer_scale": True}}, "steer_scale"),
        ({"vllm_xargs": {"steer_vector": False}}, "steer_vector"),
        ({"steer_scale": 0.5}, "vllm_xargs"),
        ({"use_beam_search": True}, "beam"),
        ({"vllm_xargs": {"steer_scale": 1.5, "steer_vector": "other"}}, None),
        ({"messages": [{"content": "steer_scale: true"}]}, None),
        ({"vllm_xargs": None, "x": "steer_scale"}, None),
        ([{"steer_scale": True}], None),
    ],
)
def test_what_vllm_would_misread_is_refused_in_the_body(body, said):
    found = refuse(json.dumps(body).encode(), MENU)
    assert found is None if said is None else said in (found or "")


def test_a_body_that_is_no_json_is_left_to_the_server():
    assert refuse(b'{"steer_scale": tru', MENU) is None


def test_beams_are_served_unsteered_only():
    body = {"use_beam_search": True}
    assert refuse(json.dumps(body).encode(), Menu(("main",), 0.0)) is None
    assert refuse(json.dumps(body | {"vllm_xargs": {"steer_scale": 1}}).encode(), Menu(("main",), 0.0))


def test_hooks_that_do_nothing_and_a_scale_of_0_that_does_something_are_refused():
    _refuse_no_effect(1e-6, 0.0, {"main": 0.1})
    with pytest.raises(EngineError, match="'other'"):
        _refuse_no_effect(0.0, 0.0, {"main": 0.1, "other": 0.0})
    with pytest.raises(EngineError, match="scale of 0"):
        _refuse_no_effect(1e-6, 0.05, {"main": 0.1})
