"""The door of a steered server: what each request asks for, checked and spelled out before it reaches the model.

Two gates, as vLLM's own reading of a body turns ``true`` into 1: `Guard` sees the bytes, `Door` what vLLM made of
them, on whichever route they came. Both answer HTTP 400 for that request alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eval_math.errors import BadInput
from eval_math.records import Json, digest

NAMES = ("steer_scale", "steer_vector", "steer_prefill")
LARGEST_SCALE = 1000.0
"""Scales count in strengths of the vector's file; far below this a model says nothing that could be read."""


@dataclass(frozen=True)
class Choice:
    """How one request is steered: ``scale`` multiplies the file's strength; 0 is unsteered.

    The last ``prefill`` prompt tokens are the start of the model's own output, and steered like it.
    """

    vector: str
    scale: float
    prefill: int = 0

    def arguments(self) -> dict[str, Json]:
        """The choice as ``vllm_xargs``."""
        return {"steer_vector": self.vector, "steer_scale": self.scale, "steer_prefill": self.prefill}

    def salt(self, own: str | None, n_prompt: int) -> str | None:
        """Salt of the prefix cache: keys and values are shared among requests of the same steering only.

        Unsteered requests share theirs, also with each other's vectors; the client's own salt stays in force. A started
        output is edited from its first token on, so where it starts matters.
        """
        if self.scale == 0:
            return own
        return digest([own, self.vector, self.scale, n_prompt - self.prefill if self.prefill else None])


@dataclass(frozen=True)
class Menu:
    """What a server offers: vectors by name, the first for requests that name none."""

    vectors: tuple[str, ...]
    default_scale: float = 1.0
    """For requests that ask for nothing. One that names a vector and no scale gets 1."""
    about: Mapping[str, Json] = field(default_factory=dict)
    """What is told of each vector."""

    def __post_init__(self) -> None:
        if not abs(self.default_scale) <= LARGEST_SCALE:
            raise BadInput(f"default scale {self.default_scale}: a number up to {LARGEST_SCALE:g} is expected")

    def report(self) -> dict[str, Json]:
        """The menu as JSON."""
        vectors = {name: self.about.get(name) for name in self.vectors}
        return {"vectors": vectors, "default_vector": self.vectors[0], "default_scale": self.default_scale}

    def choose(self, asked: Mapping[str, Any] | None, n_prompt: int) -> Choice:
        """What the extra arguments of a request ask for; a choice spelled out gives itself.

        Raises:
            BadInput: a scale that is no finite number, an unknown vector or name, a start longer than the prompt.
        """
        given = {name: value for name, value in (asked or {}).items() if name.startswith("steer_")}
        unknown = sorted(set(given) - set(NAMES))
        if unknown:
            raise BadInput(f"vllm_xargs: {unknown[0]!r} is unknown; known: {', '.join(NAMES)}")
        scale = _number(given.get("steer_scale", 1.0 if "steer_vector" in given else self.default_scale))
        name = given.get("steer_vector", self.vectors[0])
        if not isinstance(name, str) or name not in self.vectors:
            raise BadInput(f"vllm_xargs: steer_vector {name!r} is unknown; known: {', '.join(self.vectors)}")
        return Choice(name, scale, _prefill(given.get("steer_prefill", 0), n_prompt))


@dataclass(frozen=True)
class Door:
    """Stands for ``generate`` of vLLM's engine client, which every route calls: completes and salts each request."""

    menu: Menu
    inner: Callable[..., Any]

    def __call__(self, prompt: Any, sampling_params: Any, request_id: str, **rest: Any) -> Any:
        """The stream of outputs, as of the inner one.

        Raises:
            VLLMValidationError: the request asks for what the menu does not offer; the server answers HTTP 400.
        """
        from vllm.exceptions import VLLMValidationError

        if not isinstance(prompt, dict):
            raise VLLMValidationError("a steered server takes whole prompts only, no streamed input")
        n_prompt = len(prompt.get("prompt_token_ids") or ())
        try:
            choice = self.menu.choose(sampling_params.extra_args, n_prompt)
        except BadInput as error:
            raise VLLMValidationError(str(error), parameter="vllm_xargs") from error
        sampling_params.extra_args = {**(sampling_params.extra_args or {}), **choice.arguments()}
        salt = choice.salt(prompt.get("cache_salt"), n_prompt)
        salted = prompt if salt is None else {**prompt, "cache_salt": salt}
        return self.inner(salted, sampling_params, request_id, **rest)


class Guard:
    """ASGI middleware: refuses bodies whose steering would be misread or overlooked, and answers ``GET /steering``."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer or pass on one connection."""
        from starlette.responses import JSONResponse

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = scope["app"].state.engine_client
        if scope["method"] == "GET" and scope["path"].removeprefix(scope.get("root_path", "")) == "/steering":
            counts = (await client.collective_rpc("report_steering"))[0]
            await JSONResponse(client.generate.menu.report() | counts)(scope, receive, send)
            return
        if scope["method"] == "POST" and _is_json(scope):
            body, receive = await _read(scope, receive)
            refusal = refuse(body, client.generate.menu)
            if refusal is not None:
                error = {"message": refusal, "type": "BadRequestError", "param": "vllm_xargs", "code": 400}
                await JSONResponse({"error": error}, 400)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def refuse(body: bytes, menu: Menu) -> str | None:
    """Why a JSON body cannot be served here, None if it can as far as its bytes tell."""
    if b"steer_" not in body and b"use_beam_search" not in body:
        return None
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    asked = fields.get("vllm_xargs") or {}
    stray = sorted(set(NAMES) & set(fields))
    if stray:
        return (
            f'{stray[0]}: put it into vllm_xargs, as in "vllm_xargs": {{"{stray[0]}": ...}}; here it would be ignored'
        )
    wrong = [name for name in NAMES if isinstance(asked, dict) and isinstance(asked.get(name), bool)]
    if wrong:
        return f"vllm_xargs: {wrong[0]} is {asked[wrong[0]]}; a number or a name is expected"
    steered = menu.default_scale != 0 or any(name in asked for name in NAMES)
    if fields.get("use_beam_search") and steered:
        return "use_beam_search: beams are fed anew at every step, so what they said would not stay steered; sample"
    return None


def _number(value: object) -> float:
    # NaN compares false with everything, so the comparison must be one that holds for good numbers.
    if not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= LARGEST_SCALE:
        return float(value)
    raise BadInput(f"vllm_xargs: steer_scale {value!r}; a number from {-LARGEST_SCALE:g} to {LARGEST_SCALE:g}")


def _prefill(value: object, n_prompt: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= max(0, n_prompt - 1):
        raise BadInput(
            f"vllm_xargs: steer_prefill {value!r}; expected is how many tokens at the end of the prompt, which has "
            f"{n_prompt}, are the start of the output"
        )
    return value


def _is_json(scope: Any) -> bool:
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    return not types or b"json" in types[0].lower()


async def _read(scope: Any, receive: Any) -> tuple[bytes, Any]:
    """The body, and a ``receive`` that tells it once more."""
    from starlette.requests import Request

    body = await Request(scope, receive).body()
    told = False

    async def again() -> Any:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return body, again
