"""Which requests vLLM's running forward pass serves, read from the state of its (V1) model runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..chat import Chat
from ..engine import Row
from ..thinking import think_end
from .work import Work

RUNNER_STATE = ("input_batch", "query_start_loc", "requests")
BATCH_STATE = ("req_ids", "num_computed_tokens_cpu", "token_ids_cpu")


@dataclass
class Fed:
    """A running request and how far its end of thinking has been looked for (``scanned`` tokens)."""

    work: Work
    chat: Chat
    think_end: int | None
    scanned: int
    n_prompt: int = field(init=False)
    n_given: int = field(init=False)
    tags: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        # Looked at in every pass, and elsewhere worked out anew at each look.
        self.n_prompt, self.n_given, self.tags = self.work.n_prompt, len(self.work.ids), self.chat.tags.ids

    @classmethod
    def of(cls, work: Work, chat: Chat) -> Fed:
        """A request of which nothing has been generated."""
        n = work.n_prompt
        return cls(work, chat, think_end(work.ids[:n], work.ids[n:], chat.tags, chat.decode), len(work.ids))

    def scan(self, ids: Any) -> None:
        """Look for tags among the tokens that came since; ``ids`` is an array of all of them."""
        n = self.n_prompt
        new = ids[self.scanned :].tolist()
        self.scanned += len(new)
        if not self.tags.isdisjoint(new):
            self.think_end = think_end(self.work.ids[:n], ids[n:].tolist(), self.chat.tags, self.chat.decode)


@dataclass(frozen=True)
class RunnerView:
    """Read access to a model runner in this process."""

    runner: Any

    def rows(self, running: Mapping[str, Fed]) -> list[Row]:
        """Rows of the running forward pass, hidden states being flat (tokens, hidden); empty outside one.

        This runs in every pass, once for each block that asks: what all rows need is read at once, and a row that
        feeds one more token, no tag, costs a few comparisons.
        """
        from vllm.forward_context import is_forward_context_available

        if not running or not is_forward_context_available():
            return []
        batch = self.runner.input_batch
        count = len(batch.req_ids)
        starts = self.runner.query_start_loc.np[: count + 1]
        firsts = batch.num_computed_tokens_cpu[:count]
        last = firsts + (starts[1:] - starts[:-1]) - 1
        newest = batch.token_ids_cpu[np.arange(count), last].tolist()
        rows = []
        for at, (name, token, offset, first, end) in enumerate(
            zip(batch.req_ids, newest, starts.tolist(), firsts.tolist(), last.tolist(), strict=False)
        ):
            fed = running.get(name)
            if fed is None:
                continue
            if first == end >= fed.n_given and 0 <= fed.scanned - first <= 1 and token not in fed.tags:
                fed.scanned = first + 1
                rows.append(Row(fed.work.request, None, offset, 1, first, fed.n_prompt, fed.think_end, (token,)))
            else:
                rows.append(self._row(fed, at, offset, end + 1 - first, first))
        return rows

    def _row(self, fed: Fed, at: int, offset: int, length: int, first: int) -> Row:
        after = first + length
        ids = self.runner.input_batch.token_ids_cpu[at, :after]
        if after > fed.scanned:
            fed.scan(ids)
        # A prompt's own end tag is told from its first chunk on: all of its passes are alike then.
        known = max(after, fed.n_prompt)
        fed_end = fed.think_end if fed.think_end is not None and fed.think_end < known else None
        return Row(fed.work.request, None, offset, length, first, fed.n_prompt, fed_end, ids.tolist())


def view_of(core: Any) -> RunnerView | None:
    """A view of the runner if it is in this process and keeps the state that `RunnerView` reads, else None."""
    executor = getattr(core, "model_executor", None)
    runner = getattr(getattr(executor, "driver_worker", None), "model_runner", None)
    if runner is None or not all(hasattr(runner, name) for name in RUNNER_STATE):
        return None
    if not all(hasattr(runner.input_batch, name) for name in BATCH_STATE):
        return None
    if getattr(runner, "use_async_scheduling", True) or getattr(runner, "speculative_config", None) is not None:
        return None
    return RunnerView(runner)
