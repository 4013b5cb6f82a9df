"""A chat request on its way through the proxy: read, judged, rewritten; what is not known is kept as it came."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval_math.errors import BadInput

CALLER = ("reasoning_effort", "thinking", "thinking_token_budget")
"""Fields by which a caller decides itself."""
TEMPLATE = "chat_template_kwargs"


@dataclass(frozen=True)
class RouteChange:
    """What a route writes into a request: fields merged into the body, template arguments into theirs."""

    body: Mapping[str, Any]
    template: Mapping[str, Any]

    @classmethod
    def parse(cls, name: str, text: str) -> RouteChange:
        """From JSON {field: value}; template arguments under ``chat_template_kwargs``.

        Raises:
            BadInput: no JSON object.
        """
        try:
            body = json.loads(text)
        except ValueError as error:
            raise BadInput(f"route {name!r}: {text!r} is no JSON ({error})") from error
        if not isinstance(body, dict) or not isinstance(body.get(TEMPLATE, {}), dict):
            raise BadInput(f"route {name!r}: a JSON object of request fields is expected, {text!r} given")
        return cls({key: value for key, value in body.items() if key != TEMPLATE}, body.get(TEMPLATE, {}))


FAMILIES: Mapping[str, Mapping[str, RouteChange]] = {
    "template": {
        "nothink": RouteChange({}, {"enable_thinking": False}),
        "think": RouteChange({}, {"enable_thinking": True}),
    },
    "effort": {
        "nothink": RouteChange({"reasoning_effort": "low"}, {}),
        "think": RouteChange({"reasoning_effort": "high"}, {}),
    },
}
"""How models are told, by family: Qwen3 and the embedded reasoner by their template, gpt-oss by effort."""


def read_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        BadInput: no JSON object.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(body, dict):
        raise BadInput("the body is no JSON object")
    return body


def question_of(body: Mapping[str, Any]) -> str:
    """Text of the last user turn; "" where there is none to judge (tools alone, images alone, a prefilled answer)."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return ""
    turns = [turn for turn in messages if isinstance(turn, dict)]
    if turns and turns[-1].get("role") == "assistant":
        return ""
    last = next((turn for turn in reversed(turns) if turn.get("role") == "user"), {})
    content = last.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))


def decides_itself(body: Mapping[str, Any]) -> bool:
    """Whether the caller has said how much to think."""
    template = body.get(TEMPLATE)
    said = isinstance(template, dict) and "enable_thinking" in template
    return said or any(name in body for name in CALLER)


def rewritten(body: Mapping[str, Any], model: str, change: RouteChange) -> bytes:
    """The body for the upstream: model and route written in, all else as it came."""
    found = {**body, **change.body, "model": model}
    if change.template:
        given = body.get(TEMPLATE)
        found[TEMPLATE] = {**change.template, **(given if isinstance(given, dict) else {})}
    return json.dumps(found, ensure_ascii=True).encode()


def error_body(message: str, kind: str, code: int) -> bytes:
    """An error as OpenAI's API writes it."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
