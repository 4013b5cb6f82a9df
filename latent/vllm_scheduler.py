"""vLLM's scheduler with three additions: which slots live, how many requests run, and what starts thinking.

The start token means latents at the end of a prompt only. There it is exchanged for its alias with the request's
noise seed, so that a pass sees by the id it is fed whether a latent follows; the client's view of the prompt stays.
A prompt whose log-probabilities are asked for is text to its end, and what follows it too.
"""

from __future__ import annotations

from itertools import chain, takewhile
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from .serving import seeded_start
from .vllm_config import Served, logger, served_by
from .vllm_slots import tables


class LatentScheduler(Scheduler):
    """See the module. Runs in the model's process."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, *args, **kwargs)
        self._served: Served = served_by(vllm_config)
        table = tables.get(vllm_config.instance_id)
        if table is None:
            raise RuntimeError("a latent reasoner needs its scheduler in the model's process: one device, backend uni")
        table.live = self._live_slots
        self.max_num_active_reqs = min(self.max_num_active_reqs, self._served.running)

    def add_request(self, request: Any) -> None:
        """Admit a request; one whose prompt holds slots of another gives an error."""
        fresh = request.request_id not in self.requests
        if fresh:
            self._open(request)
        super().add_request(request)
        if fresh and max(request.prompt_token_ids or (0,)) >= self._served.ids.first_slot:
            logger.error("request %s: its prompt holds latents, which ended with their request", request.request_id)
            # What ends in an error after the next pass.
            self.grammar_compile_error_reqs.add(request.request_id)

    def _open(self, request: Any) -> None:
        parameters = request.sampling_params
        allowed, slots = parameters.allowed_token_ids, self._slots()
        if allowed is not None and allowed[-1] != slots[-1]:
            parameters.allowed_token_ids = [*allowed, *slots]
        if request.prompt_token_ids:
            thinks = parameters.prompt_logprobs is None
            prompt = self._prompt(request.prompt_token_ids, (parameters.seed or 0) if thinks else None)
            request.prompt_token_ids = prompt
            request._all_token_ids[:] = prompt

    def _prompt(self, ids: list[int], seed: int | None) -> list[int]:
        """Ids without aliases but for one at the end, if they start thinking and there is a seed."""
        config, virtual = self._served.config, self._served.ids
        aliases = range(virtual.vocabulary, virtual.first_slot)
        plain = [config.start_id if token in aliases else token for token in ids]
        if seed is not None and plain[-1] == config.start_id:
            plain[-1] = ids[-1] if ids[-1] in aliases else seeded_start(seed, virtual.vocabulary)
        return plain

    def _slots(self) -> range:
        return range(self._served.ids.first_slot, self._served.ids.total)

    def _live_slots(self) -> set[int]:
        # Latents come first in an output, and never again after a token.
        slots = self._slots()
        outputs = (takewhile(slots.__contains__, request.output_token_ids) for request in self.requests.values())
        return set(chain.from_iterable(outputs))
