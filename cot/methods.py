"""The methods by name, and the specification that names one: ``asc:vector=v.safetensors,strength=0.5+concise``."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from eval_math.errors import BadInput

from .method import Method, compose


@dataclass(frozen=True)
class MethodEntry:
    """Where a method lives; its module is imported when it is chosen."""

    module: str
    attribute: str


METHODS: Mapping[str, MethodEntry] = {
    "none": MethodEntry("cot.method", "Method"),
    "concise": MethodEntry("cot.prompting", "Concise"),
    "draft": MethodEntry("cot.draft", "Draft"),
    "nothink": MethodEntry("cot.prompting", "NoThink"),
    "nothinking": MethodEntry("cot.prompting", "NoThinking"),
    "cut": MethodEntry("cot.budget", "Cut"),
    "limit": MethodEntry("cot.budget", "Limit"),
    "budget": MethodEntry("cot.forcing", "Budget"),
    "nowait": MethodEntry("cot.nowait", "NoWait"),
    "deer": MethodEntry("cot.deer", "Deer"),
    "c3ot": MethodEntry("cot.c3ot", "Conditioned"),
    "tokenskip": MethodEntry("cot.tokenskip", "AskedRatio"),
    "router": MethodEntry("cot.router.method", "Router"),
    "soft": MethodEntry("latent.soft", "SoftThinking"),
    "moi": MethodEntry("latent.moi", "MixtureOfInputs"),
    "latent": MethodEntry("latent.thinking", "Latent"),
    "colar": MethodEntry("latent.colar_task", "AskedSpeed"),
    "latent-sft": MethodEntry("latent.latent_sft_task", "Superposed"),
    "asc": MethodEntry("steering.asc", "Asc"),
    "rlkv": MethodEntry("rl.head_method", "WindowedCache"),
    "rpc": MethodEntry("rl.rpc", "Rpc"),
    "streaming": MethodEntry("rl.baselines", "Streaming"),
    "h2o": MethodEntry("rl.baselines", "HeavyHitters"),
    "snapkv": MethodEntry("rl.baselines", "SnapKv"),
    "r-kv": MethodEntry("rl.baselines", "RedundancyAware"),
    "random-kv": MethodEntry("rl.baselines", "RandomKept"),
    "seal": MethodEntry("steering.seal", "Seal"),
}

NEXT_PART = re.compile(r"\+(?=[a-z][a-z0-9-]*(?:[:+]|$))")
NEXT_PARAMETER = re.compile(r",(?=[A-Za-z_]\w*=)")


def parse_method(spec: str) -> Method:
    """The method that ``spec`` names: ``name[:parameter=value,...]``, several joined by ``+``.

    Values are read by the type of the parameter; a list is written with commas or semicolons, none as ``none``.

    Raises:
        BadInput: unknown method or parameter, a value of another type, a missing parameter, or methods that collide.
    """
    return compose([_parse_one(part) for part in NEXT_PART.split(spec)])


def method_class(name: str) -> type[Method]:
    """The dataclass of a method.

    Raises:
        BadInput: unknown name; lists the known ones.
    """
    entry = METHODS.get(name)
    if entry is None:
        near = get_close_matches(name, METHODS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadInput(f"unknown method {name!r}; {hint}known: {', '.join(METHODS)}")
    return getattr(import_module(entry.module), entry.attribute)


def _parse_one(part: str) -> Method:
    name, _, listed = part.partition(":")
    kind = method_class(name)
    hints = get_type_hints(kind)
    known = {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}
    given: dict[str, Any] = {}
    for item in NEXT_PARAMETER.split(listed) if listed else ():
        key, equals, text = item.partition("=")
        if not equals or key not in known:
            raise BadInput(f"method {name}: {item!r} is not a parameter=value; {_parameters(known)}")
        if key in given:
            raise BadInput(f"method {name}: {key} is given twice")
        given[key] = _value(text, known[key], f"method {name}: {key}={text!r}")
    return _build(kind, name, given, known)


def _build(kind: type[Method], name: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> Method:
    required = [
        f.name
        for f in dataclasses.fields(kind)
        if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [field for field in required if field not in given]
    if missing:
        raise BadInput(f"method {name} needs {', '.join(missing)}, e.g. {name}:{missing[0]}=...; {_parameters(known)}")
    return kind(**given)


def _parameters(known: Mapping[str, Any]) -> str:
    return f"it has {', '.join(known)}" if known else "it has none"


def _value(text: str, kind: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(text, get_args(kind), where)
    if origin is Literal:
        if text in map(str, get_args(kind)):
            return next(choice for choice in get_args(kind) if str(choice) == text)
        raise BadInput(f"{where}: expected one of {', '.join(map(str, get_args(kind)))}")
    if origin is tuple:
        inner = get_args(kind)[0]
        return tuple(_value(piece.strip(), inner, where) for piece in re.split("[,;]", text) if piece.strip())
    if kind is bool:
        return _bool(text, where)
    if kind in (int, float, str, Path):
        try:
            value = kind(text)
        except ValueError as error:
            raise BadInput(f"{where}: expected {'a whole number' if kind is int else 'a number'}") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{where}: expected a finite number")
        return value
    raise BadInput(f"{where}: cannot be given as text")


def _one_of(text: str, kinds: tuple[Any, ...], where: str) -> Any:
    if text.lower() == "none" and types.NoneType in kinds:
        return None
    choices = [kind for kind in kinds if kind is not types.NoneType]
    for kind in choices[:-1]:
        try:
            return _value(text, kind, where)
        except BadInput:
            continue
    return _value(text, choices[-1], where)


def _bool(text: str, where: str) -> bool:
    if text.lower() in {"true", "yes", "on", "1"}:
        return True
    if text.lower() in {"false", "no", "off", "0"}:
        return False
    raise BadInput(f"{where}: expected true or false")
