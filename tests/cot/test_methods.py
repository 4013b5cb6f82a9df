"""Method specifications, and the methods that only change what is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from scripted import ScriptedEngine

from cot import methods
from cot.budget import Cut
from cot.method import Composed, Method
from cot.methods import METHODS, MethodEntry, method_class, parse_method
from cot.prompting import Concise, NoThink
from eval_math.errors import BadInput
from eval_math.records import Message, Problem, Request

PROBLEM = Problem("p", "toy", "1+1?", "2")


@dataclass(frozen=True)
class Odd(Method):
    """Every kind of parameter."""

    path: Path
    blocks: tuple[int, ...] = ()
    scale: float | None = None
    side: Literal["short", "long"] = "short"
    on: bool = False
    text: str = ""


@pytest.fixture
def odd(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "odd", MethodEntry(__name__, "Odd"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_entry_leads_to_a_method_of_that_name(name):
    kind = method_class(name)
    assert issubclass(kind, Method)
    assert kind.name == name


def test_specifications():
    assert parse_method("none") == Method()
    assert parse_method("cut:tokens=64,forced=So: ") == Cut(tokens=64, forced="So: ")
    both = parse_method("cut:tokens=64+concise")
    assert isinstance(both, Composed)
    assert both.parts == (Cut(tokens=64), Concise())
    assert both.label() == "cut:tokens=64+concise"


def test_values_are_read_by_type(odd):
    spec = "odd:path=a+b/v.safetensors,blocks=1,2;3,scale=-.5e1,side=long,on=yes,text=a=b, c"
    assert parse_method(spec) == Odd(Path("a+b/v.safetensors"), (1, 2, 3), -5.0, "long", True, "a=b, c")
    assert parse_method("odd:path=x,scale=none+nothink").parts == (Odd(Path("x")), NoThink())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cutt", "unknown method 'cutt'; did you mean 'cut'"),
        ("cut+frobnicate", "unknown method 'frobnicate'; .*known: none, concise"),
        ("", "unknown method ''"),
        ("cut:token=3", "'token=3' is not a parameter=value; it has tokens, forced, end"),
        ("cut:tokens", "'tokens' is not a parameter=value"),
        ("none:a=1", "it has none"),
        ("cut:tokens=1,tokens=2", "tokens is given twice"),
        ("cut:tokens=x", "tokens='x': expected a whole number"),
        ("asc:strength=nan", "expected a finite number"),
        ("cut:tokens=0", "at least 1 is expected"),
        ("odd", "method odd needs path, e.g. odd:path=..."),
        ("odd:path=x,side=up", "side='up': expected one of short, long"),
        ("odd:path=x,on=maybe", "expected true or false"),
        ("odd:path=x,scale=big", "expected a number"),
        ("concise+concise:text=Short.", "methods concise and concise both change 'messages'"),
    ],
)
def test_bad_specifications(odd, spec, message):
    with pytest.raises(BadInput, match=message):
        parse_method(spec)


def test_concise_adds_its_text_to_the_last_user_turn():
    turns = (Message("system", "s"), Message("user", "q"), Message("assistant", "a"))
    assert Concise(text="Short.").messages(PROBLEM, turns) == (turns[0], Message("user", "q Short."), turns[2])
    with pytest.raises(BadInput, match="needs a user turn"):
        Concise().messages(PROBLEM, turns[:1])


def test_nothink_sets_the_template_argument_and_refuses_a_template_without_it():
    request = Request("p", messages=(Message("user", "q"),), template={"a": 1})
    assert NoThink().request(request).template == {"a": 1, "enable_thinking": False}
    with NoThink().attach(ScriptedEngine({})):
        pass

    class Deaf(ScriptedEngine):
        def prompt_ids(self, request: Request) -> list[int]:
            return [1, 2, 3]

    with pytest.raises(BadInput, match="ignores enable_thinking"), NoThink().attach(Deaf({})):
        pass
