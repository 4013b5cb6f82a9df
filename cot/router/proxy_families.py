"""How each model family is told to think or not, as a table: a route's name becomes a change of the request's body.

Route names: ``nothink``, ``think``, ``think@1024`` (a budget of thinking tokens), ``think@low`` (an effort),
``concise`` (a sentence behind the question), ``steer@0.5`` (the scale of a steered server, `laconic steer serve`).
Any other name needs an entry of its own: a `Change` given by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from eval_math.errors import BadInput
from eval_math.records import Json

from ..prompting import Concise

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Change:
    """What a route changes in a request; everything else in the body stays as the caller sent it."""

    model: str | None = None
    """Model to ask; None: the proxy's."""
    merge: Mapping[str, Json] = field(default_factory=dict)
    """Merged into the body, objects key by key."""
    prefill: str = ""
    """Start of the answer, sent as an assistant's message that the model continues."""
    suffix: str = ""
    """Added to the end of the question, after a space."""


@dataclass(frozen=True)
class Family:
    """The switches of one model family."""

    matches: str
    """Pattern searched for in the model's name, in lower case."""
    on: Change | None
    """Thinking; None: this family has no such route."""
    off: Change | None
    """Not thinking."""
    effort: tuple[str, ...] = ()
    """Where an effort is written (a path of keys); empty: this family has none."""
    budget: tuple[str, ...] = ("thinking_token_budget",)
    """Where a budget of thinking tokens is written; vLLM needs --reasoning-parser for it."""


def _template(**kwargs: Json) -> Change:
    return Change(merge={"chat_template_kwargs": kwargs})


FAMILIES: Mapping[str, Family] = {
    "qwen3": Family(
        # The 2507 models and QwQ have one mode each; their template has no switch.
        matches=r"qwen-?3(?!.*(2507|coder|-embedding|-reranker))|embedded(/model)?/?$",
        on=_template(enable_thinking=True),
        off=_template(enable_thinking=False),
        effort=("reasoning_effort",),
    ),
    "deepseek-v3.1": Family(
        matches=r"deepseek-?v3\.[12]|granite-?3",
        on=_template(thinking=True),
        off=_template(thinking=False),
    ),
    "r1": Family(
        # R1's own template deletes what stands before </think> in an assistant's message, and vLLM then refuses it; it
        # needs a template that keeps it, or one with a switch (then family qwen3): see docs/router_proxy.md.
        matches=r"r1-distill|deepseek-?r1",
        on=Change(),
        off=Change(prefill=EMPTY_THOUGHT),
    ),
    "gpt-oss": Family(
        # Cannot stop thinking: `nothink` is refused, `think@low` is the shortest.
        matches=r"gpt-?oss",
        on=Change(merge={"reasoning_effort": "medium"}),
        off=None,
        effort=("reasoning_effort",),
        budget=(),
    ),
    "openai": Family(
        # vLLM too: it derives `enable_thinking` from the effort where the caller's template arguments say nothing.
        matches=r"(^|/)(gpt-5|o[134]\b)",
        on=Change(merge={"reasoning_effort": "medium"}),
        off=Change(merge={"reasoning_effort": "none"}),
        effort=("reasoning_effort",),
        budget=(),
    ),
    "deepseek-api": Family(
        matches=r"(^|/)deepseek-(chat|reasoner)$",
        on=Change(merge={"thinking": {"type": "enabled"}}),
        off=Change(merge={"thinking": {"type": "disabled"}}),
        budget=(),
    ),
    "none": Family(matches=r"(?!)", on=None, off=None, budget=()),
}


def find_family(model: str) -> str:
    """Name of the family whose pattern is found in ``model``'s name, ``none`` where no pattern is."""
    return next((key for key, family in FAMILIES.items() if re.search(family.matches, model.lower())), "none")


def plan_changes(routes: Iterable[str], family: str, given: Mapping[str, Change]) -> dict[str, Change]:
    """The change of every route: the one given by name, else what its name says in this family.

    Raises:
        BadInput: a route that this family cannot take, or whose name says nothing; it names the ways out.
    """
    if family not in FAMILIES:
        raise BadInput(f"--family {family!r} is unknown; one of {', '.join(FAMILIES)} is expected")
    return {route: given[route] if route in given else _named_change(route, family) for route in routes}


def _named_change(route: str, family: str) -> Change:
    kind, _, level = route.partition("@")
    table = FAMILIES[family]
    found = None
    if route == "concise":
        found = Change(suffix=Concise().text)
    elif kind == "steer" and level:
        found = _steered(route, level)
    elif kind == "nothink" and not level:
        found = table.off
    elif kind == "think" and not level:
        found = table.on
    elif kind == "think" and level.isdecimal() and table.budget and table.on is not None:
        found = _with(table.on, table.budget, int(level))
    elif kind == "think" and level in EFFORTS and table.effort:
        found = Change(merge=_nested(table.effort, level))
    if found is None:
        raise BadInput(
            f"route {route!r}: a model of family {family!r} cannot be sent down it; name the family (--family, one of "
            f"{', '.join(FAMILIES)}) or say what {route!r} writes into a request: "
            f'--change {route} \'{{"reasoning_effort": "low"}}\''
        )
    return found


def _steered(route: str, level: str) -> Change:
    try:
        scale = float(level)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise BadInput(f"route {route!r}: steer@SCALE with a finite number is expected, as in steer@0.5")
    return Change(merge={"vllm_xargs": {"steer_scale": scale}})


def _with(change: Change, path: tuple[str, ...], value: Json) -> Change:
    return replace(change, merge=merged(change.merge, _nested(path, value)))


def _nested(path: tuple[str, ...], value: Json) -> dict[str, Json]:
    for key in reversed(path[1:]):
        value = {key: value}
    return {path[0]: value}


def merged(body: Mapping[str, Json], change: Mapping[str, Json]) -> dict[str, Json]:
    """``body`` with ``change`` over it: objects are merged key by key, anything else is replaced."""
    result = dict(body)
    for key, value in change.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


def read_change(route: str, text: str) -> Change:
    """A change given as JSON {field: value}: merged into the body, ``model`` names another model.

    Raises:
        BadInput: no JSON object, or a model that is no text.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise BadInput(f"route {route!r}: {text!r} is no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise BadInput(f"route {route!r}: a JSON object of request fields is expected, {text!r} given")
    model = fields.pop("model", None)
    if not isinstance(model, str | None) or not isinstance(fields.get("chat_template_kwargs", {}), dict):
        raise BadInput(f"route {route!r}: model is a text and chat_template_kwargs an object; {text!r} given")
    return Change(model, fields)
