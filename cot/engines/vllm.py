"""vLLM in this process: prompts as token ids, traces as requests finish, the model's modules within reach.

Options: any field of vLLM's ``EngineArgs`` by name. Defaults differ from vLLM's own where a small machine or an exact
comparison asks for it (see `vllm_start.engine_arguments`). The engine core runs in this process unless
``VLLM_ENABLE_V1_MULTIPROCESSING`` says otherwise or several GPUs are asked for: hooks and vectors then have no model
to act on, and the capabilities ``steer``, ``steer_per_request`` and ``capture`` are gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

from eval_math.errors import EngineError, LaconicError
from eval_math.records import Finish, Request, Trace, digest

from ..engine import EngineConfig, EngineIdentity, Row
from .vllm_rows import Fed, RunnerView
from .vllm_start import Started, start, vocabulary
from .work import Check, Desk, Work, check_items, check_open, deliver, score_request

T = TypeVar("T")
FINISHES: Mapping[str | None, Finish] = {"stop": "stop", "length": "length"}
logger = logging.getLogger(__name__)


class VllmEngine:
    """See `Engine` and `ModelAccess`. One `generate` at a time."""

    def __init__(self, started: Started) -> None:
        self._core: Any = started.core
        self._desk: Desk = started.desk
        self._in_flight = started.in_flight
        self._view: RunnerView | None = started.view
        self._running: dict[str, Fed] = {}
        self._internal_names: dict[str, str] = {}
        self._names = count()
        self._vocabulary = vocabulary(started.core)
        self.identity: EngineIdentity = started.identity
        self.capabilities: frozenset[str] = started.capabilities
        self.eager: bool = started.eager

    def generate(
        self, requests: Iterable[Request], *, on_trace: Callable[[Trace], None] | None = None
    ) -> Iterator[Trace]:
        """Decode; see `Engine.generate`.

        Raises:
            EngineError: vLLM failed; traces finished before were delivered.
        """
        check_open(self._core is None, "vllm")
        return deliver(self._generate(iter(requests)), on_trace)

    def score(self, items: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probabilities in nats; see `Engine.score`.

        Raises:
            BadInput: an item without prompt ids, or with no room for the one token that vLLM decodes after it.
        """
        check_open(self._core is None, "vllm")
        check_items(items, self._desk.max_model_len - 1)
        scores: list[list[float]] = [[] for _ in items]
        waiting = iter([at for at, item in enumerate(items) if item[1]])
        at_of: dict[str, int] = {}
        try:
            while self._fill_scores(waiting, items, at_of):
                for output in self._step():
                    self._take(output)
                    at = at_of.pop(output.request_id)
                    scores[at] = _completion_scores(output.prompt_logprobs, items[at])
        finally:
            self._abort()
        return scores

    def encode(self, text: str) -> list[int]:
        """Ids of bare text."""
        return self._desk.chat.encode(text)

    def prompt_ids(self, request: Request) -> list[int]:
        """Rendered prompt and prefill."""
        return self._desk.chat.render(request)

    def apply_model(self, change: Callable[[Any], T]) -> T:
        """``change(model)`` on vLLM's module.

        Raises:
            EngineError: the model lives in another process.
        """
        check_open(self._core is None, "vllm")
        if self._view is None:
            raise EngineError(
                "vLLM runs the model where its modules cannot be reached; use one device, in this process"
            )
        return self._core.apply_model(change)[0]

    def current_rows(self) -> list[Row]:
        """Rows of the running forward pass."""
        return self._view.rows(self._running) if self._view is not None else []

    def check_requests(self, check: Check) -> Callable[[], None]:
        """Put requests to ``check`` when they are admitted, until what is returned is called."""
        return self._desk.add_check(check)

    def forget_prefixes(self) -> None:
        """Empty the prefix cache.

        Raises:
            EngineError: requests are still running on it.
        """
        check_open(self._core is None, "vllm")
        if not self._core.reset_prefix_cache():
            raise EngineError("vLLM still runs requests; finish or close the iterator of generate() first")

    def close(self) -> None:
        """Shut vLLM down and free its memory."""
        if self._core is None:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._abort()
        self._core.engine_core.shutdown()
        self._core = self._view = None
        cleanup_dist_env_and_memory()

    def _generate(self, source: Iterator[Request]) -> Iterator[Trace]:
        try:
            while True:
                yield from self._fill(source)
                if not self._running:
                    return
                for output in self._step():
                    yield self._finished(output)
        finally:
            self._abort()

    def _fill(self, source: Iterator[Request]) -> Iterator[Trace]:
        """Admit requests while there is room; the traces are of those that cannot run."""
        from vllm.exceptions import VLLMError

        while len(self._running) < self._in_flight:
            request = next(source, None)
            if request is None:
                return
            work = self._desk.admit(request)
            if isinstance(work, Work):
                try:
                    self._add(work, self._parameters(work))
                    continue
                except (ValueError, VLLMError) as error:
                    work = self._desk.failed(request, f"request {request.problem_id!r}: vLLM refuses it: {error}")
            yield work

    def _fill_scores(
        self, waiting: Iterator[int], items: Sequence[tuple[Sequence[int], Sequence[int]]], at_of: dict[str, int]
    ) -> bool:
        from vllm import SamplingParams

        while len(at_of) < self._in_flight:
            at = next(waiting, None)
            if at is None:
                break
            request = score_request(at, items[at])
            work = Work(request, tuple([*items[at][0], *items[at][1]]), len(items[at][1]), 1, time.perf_counter())
            parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
            at_of[self._add(work, parameters)] = at
        return bool(at_of)

    def _add(self, work: Work, parameters: Any) -> str:
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        parameters.output_kind = RequestOutputKind.FINAL_ONLY
        name = str(next(self._names))
        # Extras may change how a prompt is computed (its own steering): its cached prefixes are then its own too.
        salt = digest(dict(work.request.extras)) if work.request.extras else None
        internal = self._core.add_request(name, tokens_input(list(work.ids), cache_salt=salt), parameters)
        self._running[internal] = Fed.of(work, self._desk.chat)
        self._internal_names[name] = internal
        return name

    def _take(self, output: Any) -> Work:
        """Forget a finished request: vLLM reports it under our name and keeps it under its own."""
        return self._running.pop(self._internal_names.pop(output.request_id)).work

    def _parameters(self, work: Work) -> Any:
        from vllm import SamplingParams

        sampling = work.request.sampling
        stops = list(self._desk.stop_texts(work.request))
        return SamplingParams(
            max_tokens=work.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed,
            stop=stops,
            stop_token_ids=sorted(self._desk.stop_ids(work.request)),
            detokenize=bool(stops),
            skip_special_tokens=False,
            allowed_token_ids=self._allowed(sampling.banned_ids),
        )

    def _allowed(self, banned_ids: tuple[int, ...]) -> list[int] | None:
        """All other tokens: vLLM masks what is not allowed with minus infinity, and holds back a bias at -100."""
        if not banned_ids:
            return None
        banned = set(banned_ids)
        return [token for token in range(self._core.model_config.get_vocab_size()) if token not in banned]

    def _step(self) -> list[Any]:
        try:
            return [output for output in self._core.step() if output.finished]
        except LaconicError:
            raise
        except Exception as error:
            raise EngineError(f"vLLM failed while decoding ({type(error).__name__}: {error})") from error

    def _finished(self, output: Any) -> Trace:
        work = self._take(output)
        completion = output.outputs[0]
        finish = FINISHES.get(completion.finish_reason)
        if finish is None:
            return self._desk.failed(work.request, f"vLLM gave up on it: {completion.finish_reason}", work.n_prompt)
        # Ids beyond the model's own vocabulary are steps that leave nothing to be read.
        said = [token for token in completion.token_ids if token < self._vocabulary]
        n_forward = len(completion.token_ids)
        trace = self._desk.finished(work, said, finish)
        provenance = {**trace.provenance, "cached_tokens_in_batch": output.num_cached_tokens or 0}
        return replace(trace, n_latent_steps=n_forward - len(said), n_forward=n_forward, provenance=provenance)

    def _abort(self) -> None:
        if self._running and self._core is not None:
            self._core.abort_request(list(self._running), internal=True)
        self._running.clear()
        self._internal_names.clear()


def open_engine(config: EngineConfig) -> VllmEngine:
    """Start vLLM with the model of ``config``.

    Raises:
        BadInput: unknown option, dtype or model.
        MissingPart: vLLM is not installed.
        EngineError: vLLM cannot start.
    """
    return VllmEngine(start(config))


def _completion_scores(rows: Any, item: tuple[Sequence[int], Sequence[int]]) -> list[float]:
    """Log-probabilities of the completion out of one row per prompt token."""
    if rows is None:
        raise EngineError("vLLM returned no prompt log-probabilities")
    completion = item[1]
    return [float(row[token].logprob) for row, token in zip(rows[-len(completion) :], completion, strict=True)]
