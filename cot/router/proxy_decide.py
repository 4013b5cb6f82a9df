"""Decisions within a time budget, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .decision import Decides, Decision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A decision and how it came about."""

    decision: Decision
    seconds: float


class Desk:
    """Asks the router in one thread of its own: a slow encoder never stops the streams, and a router need not be
    safe against being asked by two threads at once.

    A thread costs about 0.1 ms over a plain call, and only so does the time budget hold whatever the router does.
    """

    def __init__(self, router: Decides, budget_seconds: float) -> None:
        self.router = router
        self._budget = budget_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="laconic-router")

    async def choose(self, question: str, category: str | None) -> Choice:
        """The router's decision, or its fallback where it has no question, is late or fails."""
        start = time.perf_counter()
        router = self.router
        decision = await self._ask(router, question, category) if question else _fallback(router, "empty")
        if decision.route not in router.routes:
            decision = _fallback(router, "unknown route")
        return Choice(decision, time.perf_counter() - start)

    async def _ask(self, router: Decides, question: str, category: str | None) -> Decision:
        loop = asyncio.get_running_loop()
        try:
            # A decision that is late and has not begun is never made: waiting ones cannot pile up.
            async with asyncio.timeout(self._budget):
                return await loop.run_in_executor(self._thread, router.decide, question, category)
        except TimeoutError:
            return _fallback(router, "too slow")
        except Exception as error:  # noqa: BLE001 - whatever a router raises, the request is still answered
            logger.warning("the router failed (%s); the request takes the fallback", type(error).__name__)
            return _fallback(router, "failed")

    def close(self) -> None:
        """Let the thread end after the decision it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _fallback(router: Decides, reason: str) -> Decision:
    return Decision(router.fallback, {}, {}, fallback=reason)
