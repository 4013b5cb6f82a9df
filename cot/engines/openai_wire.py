"""Requests as bodies for an OpenAI-compatible server, and its answers read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from eval_math.records import Finish, Request, Sampling

from .openai_client import Call, Refused
from .work import Desk, Work

Dialect = Literal["vllm", "plain"]
STEERING = ("steer_scale", "steer_vector")
"""Extras of a request that a server of `laconic steer serve` understands; any vLLM server takes and ignores them."""
LOWEST_BIAS = -100.0
FINISHES: dict[str | None, Finish] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True)
class Answer:
    """What a server said. ``n_tokens`` and ``n_reasoning`` are its own counts, None where it gives none."""

    text: str
    reasoning: str | None
    finish: Finish
    ids: tuple[int, ...] | None
    prompt_ids: tuple[int, ...] | None
    n_prompt: int
    n_tokens: int | None
    n_reasoning: int | None


@dataclass(frozen=True)
class Wire:
    """How to talk to one server. ``desk`` is None without a local tokenizer."""

    model: str
    dialect: Dialect
    desk: Desk | None
    limit_name: str = "max_tokens"

    def call(self, request: Request, work: Work | None) -> Call:
        """The call for a request: chat for messages, completion of token ids otherwise."""
        max_tokens = work.max_new_tokens if work is not None else request.sampling.max_tokens
        body: dict[str, Any] = {"model": self.model, self.limit_name: max_tokens}
        body |= self._sampling(request.sampling) | self._stops(request)
        if self.dialect == "vllm":
            body["return_token_ids"] = True
            body |= _steering(request)
        if request.template:
            body["chat_template_kwargs"] = dict(request.template)
        if request.prompt_ids is None and not request.prefill_ids:
            messages = [{"role": m.role, "content": m.content} for m in request.messages]
            return Call("/chat/completions", body | {"messages": messages})
        body.pop("chat_template_kwargs", None)
        if work is None and (request.prompt_ids is None or request.prefill_ids):
            raise Refused("prefill needs the model's tokenizer; set option tokenizer=FOLDER")
        return Call("/completions", body | {"prompt": list(work.ids if work is not None else request.prompt_ids or ())})

    def score_call(self, ids: list[int]) -> Call:
        """The call that returns log-probabilities of a prompt."""
        body = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        return Call("/completions", body)

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        """Only what differs from a server's defaults, as strict servers refuse names they do not know."""
        body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.temperature > 0:
            body["seed"] = sampling.seed
        neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        for name, value in neutral.items():
            # vLLM takes unset values from the model's generation_config.json, so they are always said.
            if self.dialect == "vllm" or getattr(sampling, name) != value:
                body[name] = getattr(sampling, name)
        if sampling.banned_ids:
            body["logit_bias"] = self._ban(sampling)
        return body

    def _ban(self, sampling: Sampling) -> dict[str, float]:
        """vLLM servers take no bias below -100 nats, which no logit of a trained model makes up for."""
        if self.dialect != "vllm":
            raise Refused("tokens are banned by id, whose meaning only vLLM servers are known to share")
        return {str(token): LOWEST_BIAS for token in sampling.banned_ids}

    def _stops(self, request: Request) -> dict[str, Any]:
        if self.desk is not None and self.dialect == "vllm":
            body: dict[str, Any] = {"stop_token_ids": sorted(self.desk.stop_ids(request)), "skip_special_tokens": False}
            stops = self.desk.stop_texts(request)
        else:
            body, end = {}, self.desk.chat.tags.end_text if self.desk is not None else "</think>"
            stops = (*request.sampling.stop, end) if request.sampling.stop_at_think_end else request.sampling.stop
        return body | ({"stop": list(stops)} if stops else {})


def read_answer(value: dict[str, Any]) -> Answer:
    """The first choice of a chat or text completion.

    Raises:
        Refused: the answer lacks what every such answer has.
    """
    try:
        choice = value["choices"][0]
        message = choice.get("message") or {"content": choice.get("text")}
        usage = value.get("usage") or {}
        details = usage.get("completion_tokens_details") or {}
        finish = FINISHES.get(choice.get("finish_reason"))
        if finish is None:
            raise Refused(f"the server ended it with finish_reason {choice.get('finish_reason')!r}")
        return Answer(
            text=message.get("content") or "",
            reasoning=message.get("reasoning_content") or message.get("reasoning"),
            finish=finish,
            ids=_ids(choice.get("token_ids")),
            prompt_ids=_ids(value.get("prompt_token_ids") or choice.get("prompt_token_ids")),
            n_prompt=int(usage.get("prompt_tokens") or 0),
            n_tokens=usage.get("completion_tokens"),
            n_reasoning=details.get("reasoning_tokens"),
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise Refused(f"the answer has no usable choice ({type(error).__name__}: {error})") from error


def read_scores(value: dict[str, Any], completion: list[int]) -> list[float]:
    """Log-probabilities of ``completion``, the end of the scored prompt.

    Raises:
        Refused: the answer has none.
    """
    try:
        rows = value["choices"][0]["prompt_logprobs"][-len(completion) :]
        return [float(row[str(token)]["logprob"]) for row, token in zip(rows, completion, strict=True)]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Refused(f"the server returned no prompt log-probabilities ({type(error).__name__}: {error})") from error


def _steering(request: Request) -> dict[str, Any]:
    """What the request's extras say of steering, and how much of the prompt is the start of the output."""
    asked = {name: request.extras[name] for name in STEERING if name in request.extras}
    if asked and request.prefill_ids:
        asked["steer_prefill"] = len(request.prefill_ids)
    return {"vllm_xargs": asked} if asked else {}


def _ids(value: Any) -> tuple[int, ...] | None:
    return tuple(int(token) for token in value) if isinstance(value, list) and value else None
