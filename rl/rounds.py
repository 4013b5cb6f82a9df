"""Reinforcement in rounds: a log of every round, states to go on from, and the same end after a kill."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cot.journal import Journal
from cot.progress import Progress
from eval_math.errors import BadInput

STATES = "states"
LOG = "updates.jsonl"
MORE = frozenset({"updates", "save_every"})
"""Settings that may change when a stage goes on: it can be made longer."""


class Rounds(ABC):
    """A stage in a folder; `run` goes on from the last state that was written.

    Args:
        config: a frozen dataclass with ``updates`` and ``save_every``.
    """

    def __init__(self, config: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config, self.folder = config, folder
        self._log: Journal[int] = Journal(folder / LOG, lambda row: int(row["update"]))

    @abstractmethod
    def round(self, update: int) -> dict[str, float]:
        """One round, and its figures; `tokens` among them is shown as speed."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """What the next round depends on: tensors and plain values."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""

    def run(self) -> list[dict[str, Any]]:
        """Train to the end; returns the figures of all rounds.

        Raises:
            BadInput: the folder's state is of other settings.
            EngineError: the loss is no number.
        """
        start = self._resume()
        self._log.rewrite([update for update in self._log if update <= start])
        with Progress("rounds", self.config.updates, start) as progress:
            for update in range(start + 1, self.config.updates + 1):
                figures = self.round(update)
                self._log.append(update, json.dumps({"update": update, **figures}) + "\n")
                progress.answered(int(figures.get("tokens", 0)))
                if update % self.config.save_every == 0 or update == self.config.updates:
                    self._save(update)
        return list(self._log.rows())

    def _save(self, update: int) -> None:
        """Write a state whole, then drop the older ones."""
        states = self.folder / STATES
        states.mkdir(exist_ok=True)
        made = states / f".{update:06d}.pt"
        torch.save({**self.state(), "config": json.dumps(asdict(self.config))}, made)
        made.replace(states / f"{update:06d}.pt")
        for older in sorted(states.glob("[0-9]*.pt"))[:-1]:
            older.unlink()

    def _resume(self) -> int:
        """Rounds done in the last state; 0 if there is none."""
        found = sorted((self.folder / STATES).glob("[0-9]*.pt"))
        if not found:
            return 0
        state = torch.load(found[-1], weights_only=True, map_location="cpu")
        theirs, ours = json.loads(state["config"]), asdict(self.config)
        ours = json.loads(json.dumps(ours))
        changed = [name for name in ours if name not in MORE and theirs.get(name) != ours[name]]
        if changed:
            raise BadInput(
                f"{self.folder}: its state was made with another {', '.join(changed)}; choose another folder"
            )
        self.load_state(state)
        return int(found[-1].stem)
