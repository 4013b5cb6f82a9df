"""Cheap rivals of `rlkv`: heads ranked by what is lost without them, or by distillation of the model from itself.

`ablation` masks one head at a time to the window and asks how the log-probability of the model's own correct answers
falls; `distillation` learns gates so that the blended model's last hidden states stay those of the whole one, under an
L1 term, as DuoAttention does on synthetic recall (arXiv 2410.10819); here on the model's own reasoning, as only that
is to survive.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cot.journal import Journal
from cot.progress import Progress
from eval_math.errors import BadInput

from .curriculum import Solved
from .gates import Window
from .rlkv import Answer, GatedPolicy, GateRounds, log_probabilities


@dataclass(frozen=True)
class DistillationConfig:
    """Settings; the paper's, but for the data."""

    updates: int = 2000
    rows: int = 4
    """Answers per update."""
    learning_rate: float = 0.02
    penalty: float = 0.05
    """Weight of the mean gate."""
    sink: int = 16
    recent: int = 64
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        if self.updates < 1 or self.rows < 1 or not 0 < self.learning_rate < 1 or self.penalty < 0:
            raise BadInput(
                f"updates={self.updates}, rows={self.rows}, learning_rate={self.learning_rate}, penalty="
                f"{self.penalty}: from 1, from 1, between 0 and 1, and from 0 are expected"
            )
        Window(self.sink, self.recent)


class Distillation(GateRounds):
    """Gates by distillation; see `Rounds`."""

    def __init__(self, policy: GatedPolicy, rows: Sequence[Solved], config: DistillationConfig, folder: Path) -> None:
        super().__init__(policy, config, folder)
        self.rows = rows
        self.optimiser = torch.optim.Adam([self.gates.values], lr=config.learning_rate)

    def round(self, update: int) -> dict[str, float]:
        """One update: squared error of the last hidden states of what was said, and the penalty."""
        rng = random.Random(f"{self.config.seed}:rows:{update}")
        rows = rng.sample(list(self.rows), min(self.config.rows, len(self.rows)))
        wanted, said = self._hidden(rows, whole=True)
        found, _ = self._hidden(rows, whole=False)
        error = (found - wanted).square().mean(-1)[said].mean()
        loss = error + self.config.penalty * self.gates.values.mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.gates.clamp()
        values = self.gates.values.detach()
        return {"error": float(error.detach()), "gate_mean": float(values.mean()), "tokens": int(said.sum())}

    def _hidden(self, rows: Sequence[Solved], *, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states (B, T, d) of prompt and answer, and which belong to answers (B, T)."""
        sequences = [[*row.prompt, *row.said] for row in rows]
        width = max(map(len, sequences))
        ids = torch.tensor([each + [0] * (width - len(each)) for each in sequences], device=self.model.device)
        at = torch.arange(width, device=ids.device)[None]
        ends = torch.tensor([len(each) for each in sequences], device=ids.device)[:, None]
        starts = torch.tensor([len(row.prompt) for row in rows], device=ids.device)[:, None]
        blocks, real = self.model.get_decoder(), (at < ends).long()
        if whole:
            with torch.no_grad(), self.gates.opened():
                hidden = blocks(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
        else:
            hidden = blocks(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
        return hidden.float(), (at >= starts) & (at < ends)


def ablate(policy: GatedPolicy, rows: Sequence[Solved], folder: Path, micro_batch: int = 8) -> list[list[float]]:
    """Per layer and KV head: nats per token that the model's own answers lose when that head sees the window alone.

    One head after another is written to ``folder``/heads.jsonl; those that are there are not measured again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layers, heads = policy.gates.values.shape
    journal: Journal[str] = Journal(folder / "heads.jsonl", lambda row: str(row["head"]))
    every = [None, *((layer, head) for layer in range(layers) for head in range(heads))]
    known = {str(row["head"]): float(row["nats"]) for row in journal.rows()}
    with Progress("heads", len(every), len(known)) as progress:
        for head in every:
            name = "none" if head is None else f"{head[0]}:{head[1]}"
            if name not in known:
                known[name] = _mean_log_probability(policy, rows, head, micro_batch)
                journal.append(name, json.dumps({"head": name, "nats": known[name]}) + "\n")
                progress.answered(0)
    return [[known["none"] - known[f"{layer}:{head}"] for head in range(heads)] for layer in range(layers)]


def _mean_log_probability(
    policy: GatedPolicy, rows: Sequence[Solved], head: tuple[int, int] | None, micro_batch: int
) -> float:
    answers = [Answer(row.prompt, row.said, 1.0, "stop") for row in rows]
    total, count = 0.0, 0
    with torch.no_grad(), policy.gates.opened():
        if head is not None:
            policy.gates.values[head] = 0.0
        for at in range(0, len(answers), micro_batch):
            values, mask = log_probabilities(policy.model, answers[at : at + micro_batch], 1.0)
            total += float((values * mask).sum())
            count += int(mask.sum())
    return total / count
