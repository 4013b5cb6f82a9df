"""A request's body on its way through the proxy: read, judged, rewritten; what is not known is kept as it came."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from eval_math.records import Json

from .proxy_errors import Refusal
from .proxy_families import Change, merged

QUESTION_CHARACTERS = 65_536
"""What a router is shown of a question: of a longer one head and tail. The request itself is never cut."""
TOP_SWITCHES = ("reasoning_effort", "thinking", "thinking_token_budget", "reasoning", "enable_thinking")
TEMPLATE = "chat_template_kwargs"
TEMPLATE_SWITCHES = ("enable_thinking", "thinking", "reasoning_effort")


@dataclass(frozen=True)
class Asked:
    """What of a chat request matters to a router."""

    question: str
    """Text of the last turn of the user, as any tokenizer takes it; "" where there is none."""
    bypass: str = ""
    """Why it is not to be routed: `caller`, who says how to think; `prefill`, its answer is begun. "": it is."""


def parse(raw: bytes) -> dict[str, Json]:
    """The JSON object in ``raw``.

    Raises:
        Refusal: 400, no JSON (RFC 8259: UTF-8, no NaN), no object, or nested too deeply to be read.
    """
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 (byte {error.start}); UTF-8 is expected", "bad_json") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply to be read", "bad_json") from None
    except ValueError as error:
        raise Refusal(400, f"the body is no JSON: {str(error)[:200]}", "bad_json") from None
    if not isinstance(value, dict):
        raise Refusal(400, f"the body is a JSON {type(value).__name__}; an object is expected", "bad_json")
    return value


def read_chat(body: Mapping[str, Json]) -> Asked:
    """What a chat request asks; odd shapes give an empty question and are the upstream's to judge."""
    messages = body.get("messages")
    turns = [turn for turn in messages if isinstance(turn, dict)] if isinstance(messages, list) else []
    if _switched(body):
        return Asked("", "caller")
    if turns and turns[-1].get("role") == "assistant":
        return Asked("", "prefill")
    last = next((turn for turn in reversed(turns) if turn.get("role") == "user"), {})
    return Asked(clean(_text(last.get("content"))))


def clean(text: str) -> str:
    """``text`` as any tokenizer takes it: no lone surrogates, no NUL, head and tail of what is too long."""
    if len(text) > QUESTION_CHARACTERS:
        half = QUESTION_CHARACTERS // 2
        text = f"{text[:half]}\n{text[-half:]}"
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").strip()


def changed(body: Mapping[str, Json], change: Change, model: str) -> dict[str, Json]:
    """The body with a route's change in it: model and route are written in, all else is as it came."""
    result = merged(body, change.merge) | {"model": change.model or model}
    messages = body.get("messages")
    if not isinstance(messages, list):
        return result
    if change.suffix:
        result["messages"] = messages = _with_suffix(messages, change.suffix)
    if change.prefill:
        result["messages"] = [*messages, {"role": "assistant", "content": change.prefill}]
        result |= {"continue_final_message": True, "add_generation_prompt": False}
    return result


def _with_suffix(messages: list[Json], suffix: str) -> list[Json]:
    """The last turn of the user with ``suffix`` at its end, as text or as one more part."""
    places = [at for at, turn in enumerate(messages) if isinstance(turn, dict) and turn.get("role") == "user"]
    turn = messages[places[-1]] if places else None
    if not isinstance(turn, dict):
        return messages
    content = turn.get("content")
    if isinstance(content, str):
        content = f"{content} {suffix}"
    elif isinstance(content, list):
        content = [*content, {"type": "text", "text": suffix}]
    return [*messages[: places[-1]], {**turn, "content": content}, *messages[places[-1] + 1 :]]


def encode(body: Mapping[str, Json]) -> bytes:
    """JSON in UTF-8; lone surrogates, which UTF-8 cannot hold, stay the escapes that they came as.

    Raises:
        Refusal: 400, a number that JSON cannot hold (1e999 was read as infinity).
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(body, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply to be written", "bad_json") from None
    except ValueError:
        raise Refusal(400, "the body holds a number out of range", "bad_json") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _switched(body: Mapping[str, Json]) -> bool:
    """Whether the caller says how to think; a null says nothing."""
    template = body.get(TEMPLATE)
    if any(body.get(name) is not None for name in TOP_SWITCHES):
        return True
    if not isinstance(template, dict):
        # Something that cannot be merged: the upstream will say what it thinks of it.
        return template is not None
    return any(template.get(name) is not None for name in TEMPLATE_SWITCHES)


def _text(content: Json) -> str:
    """Text of a turn: a string, or its text parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [
        part.get("text") for part in parts if isinstance(part, dict) and part.get("type") in ("text", "input_text")
    ]
    return "\n".join(text for text in texts if isinstance(text, str))
