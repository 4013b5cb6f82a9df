"""Steering inside vLLM's worker process: hooks on its model, rows read from the state of its runner.

`SteeringWorker` is given to vLLM as ``worker_extension_cls``: its methods become methods of the worker, called from
the server's process once the model is loaded.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cot.chat import open_chat
from cot.engine import Row
from cot.engines.vllm_rows import Fed, RunnerView, view_of
from cot.engines.work import Work
from eval_math.errors import BadInput, EngineError, LaconicError
from eval_math.records import Json, Request

from .application import Steering, _hook
from .counting import PromptTokens, SteerCount, Until
from .serving_door import Choice, Menu

if TYPE_CHECKING:
    from cot.chat import Chat

PlanSteps = list[tuple[str, list[tuple[int, list[float]]]]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What the server tells its workers, in plain lists and numbers: vLLM sends it to them as a message."""

    folder: str
    """Model folder, for the tokenizer."""
    steps: PlanSteps
    """By name, the default first: block and step (hidden,) at the file's strength."""
    prompt: PromptTokens = "last"
    until: Until = "end_of_think"

    def steering(self) -> Steering:
        """Every vector at the blocks of all; a step of zeros changes nothing."""
        import torch

        blocks = sorted({block for _, steps in self.steps for block, _ in steps})
        still = torch.zeros(len(self.steps[0][1][0][1]))
        named = {name: dict(steps) for name, steps in self.steps}
        vectors = {n: {b: torch.tensor(s[b]) if b in s else still for b in blocks} for n, s in named.items()}
        return Steering(vectors[self.steps[0][0]], self.prompt, self.until, vectors=vectors)


class SteeringWorker:
    """Methods added to vLLM's worker; see `Plan`. Errors come back as text, so that the server can say them."""

    if TYPE_CHECKING:
        model_runner: Any
        steering_state: Any

    def start_steering(self, plan: Mapping[str, Any]) -> dict[str, Json]:
        """Put the hooks on; ``{"error": text}`` if the model or the runner cannot be steered."""
        try:
            self.steering_state = ServedRows.open(self.model_runner, Plan(**plan))
        except LaconicError as error:
            return {"error": str(error)}
        return {}

    def forget_steering(self) -> None:
        """Set the counts to nothing."""
        self.steering_state.count.clear()

    def report_steering(self) -> dict[str, Json]:
        """Counts so far: positions steered in all and by vector, requests steered, positions missed, requests held."""
        count = self.steering_state.count
        return {
            "steered_positions": count.steered,
            "by_vector": {name: count.by_vector[name] for name in self.steering_state.menu.vectors},
            "steered_requests": count.requests,
            "missed_positions": count.gaps,
            "held_requests": len(self.steering_state.known),
        }


class ServedCount(SteerCount):
    """A `SteerCount` for a server: by vector, without unsteered requests, and without memory of finished ones."""

    def clear(self) -> None:
        """Forget everything seen so far."""
        super().clear()
        self.requests = 0
        self.by_vector: Counter[str] = Counter()

    def add(self, row: Row) -> tuple[int, int]:
        """As `SteerCount.add`; an unsteered row is not counted."""
        if row.request.extras["steer_scale"] == 0:
            return self.span(row)
        steered, gaps, seen = self.steered, self.gaps, len(self._seen)
        span = super().add(row)
        self.requests += len(self._seen) - seen
        self.by_vector[str(row.request.extras["steer_vector"])] += self.steered - steered
        if self.gaps > gaps:
            logger.error("steering missed %d positions of request %s", self.gaps - gaps, row.request.problem_id)
        return span

    def forget(self, request: Request) -> None:
        """Drop what is remembered of a finished request; the totals stay."""
        self._seen.pop((request.problem_id, request.sample), None)


@dataclass
class ServedRows:
    """The requests that the runner holds, as rows for the hooks."""

    view: RunnerView
    chat: Chat
    menu: Menu
    count: ServedCount
    known: dict[str, Fed] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    """The runner's own state of each known request; another object under the same name is another request."""
    remove: Callable[[], None] = lambda: None

    @classmethod
    def open(cls, runner: Any, plan: Plan) -> ServedRows:
        """Hooks on the runner's model.

        Raises:
            BadInput: the vectors do not fit the model.
            EngineError: the runner does not tell which requests a pass serves.
        """
        # `view_of` looks for the runner where an engine core in this process keeps it.
        view = view_of(
            SimpleNamespace(model_executor=SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner)))
        )
        if view is None:
            raise EngineError(
                f"vLLM's {type(runner).__name__} does not tell which tokens a pass feeds; serve with "
                "VLLM_USE_V2_MODEL_RUNNER=0, without asynchronous scheduling and without speculative decoding"
            )
        steering = plan.steering()
        count = ServedCount(plan.prompt, plan.until)
        menu = Menu(tuple(name for name, _ in plan.steps), 0.0)
        rows = cls(view, open_chat(Path(plan.folder)), menu, count)
        rows.remove = _hook(runner.get_model(), steering=steering, rows=rows.rows, count=count)
        return rows

    def rows(self) -> list[Row]:
        """Rows of the running forward pass; see `RunnerView.rows`."""
        held = self.view.runner.requests
        for name in [name for name, state in self.states.items() if held.get(name) is not state]:
            self.count.forget(self.known.pop(name).work.request)
            del self.states[name]
        for name in self.view.runner.input_batch.req_ids:
            if name not in self.known and name in held:
                self.states[name] = held[name]
                self.known[name] = self._fed(name, held[name])
        return self.view.rows(self.known)

    def _fed(self, name: str, state: Any) -> Fed:
        """A request that has just come in, as the hooks see it."""
        ids = tuple(state.prompt_token_ids or (0,) * state.num_prompt_tokens)
        choice = self._choice(name, state, len(ids))
        request = Request(name, prompt_ids=(), extras=choice.arguments())
        return Fed.of(Work(request, ids, choice.prefill, 0, 0.0), self.chat)

    def _choice(self, name: str, state: Any, n_prompt: int) -> Choice:
        """Its choice; the door has checked it, and an exception here would end the server for everyone."""
        try:
            return self.menu.choose(getattr(state.sampling_params, "extra_args", None), n_prompt)
        except BadInput as error:
            logger.error("request %s came past the door and is not steered: %s", name, error)
            return Choice(self.menu.vectors[0], 0.0)
