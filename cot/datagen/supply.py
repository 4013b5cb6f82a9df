"""The engine of a job: opened when it is first needed, and again after it died."""

from __future__ import annotations

import logging
from collections.abc import Callable

from eval_math.errors import EngineError

from ..engine import Engine

logger = logging.getLogger(__name__)


class Supply:
    """The engine, opened when first needed and again after it died.

    Args:
        open_engine: starts it.
        most_deaths: how often it may die before the job gives up.
    """

    def __init__(self, open_engine: Callable[[], Engine], most_deaths: int = 2) -> None:
        self._open = open_engine
        self._left = most_deaths
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The running engine."""
        if self._engine is None:
            self._engine = self._open()
        return self._engine

    def bury(self, error: EngineError) -> None:
        """Close a dead engine, so that the next use starts another.

        Raises:
            EngineError: it died too often; the answers that came before are stored.
        """
        if self._left <= 0:
            raise error
        self._left -= 1
        logger.warning("the engine died (%s); starting it again, what was in flight is asked anew", error)
        self.close()

    def close(self) -> None:
        """Close the engine if one is running."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
