"""Training of the embedded reasoner from scratch: resumable, on two CPU cores."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from eval_math.errors import BadInput, RunMismatch

from .batches import IGNORED, Batch, chunk_batches
from .optimiser import OptimiserPair, WeightAverage, learning_rate_scale, make_optimisers
from .recipe import Architecture, Recipe
from .tokens import END, PAD, VOCABULARY_SIZE, token_id

log = logging.getLogger(__name__)

Evaluate = Callable[[LlamaForCausalLM], str]
CPU = torch.device("cpu")


@dataclass
class Progress:
    """Where a run stands; `batch` counts batches already used of the current chunk.

    `chunk_cycle` is the cycle whose mix the current chunk has: a chunk is used up before the next cycle's mix starts.
    """

    step: int = 0
    chunk: int = 0
    batch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_phase: bool = True
    chunk_cycle: int = 0
    cycle: int = 0
    cycle_start_step: int = 0


@dataclass(frozen=True)
class Schedule:
    """How often things happen, in steps; 0 for never."""

    report_every: int = 20
    save_every: int = 25
    evaluate_every: int = 300


def new_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A freshly initialised model in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=architecture.hidden,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.heads,
        head_dim=architecture.head_dim,
        intermediate_size=architecture.mlp,
        max_position_embeddings=architecture.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": architecture.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, END),
        pad_token_id=token_id(tokenizer, PAD),
    )
    return LlamaForCausalLM(config)


def choose_device(name: str, recipe: Recipe) -> torch.device:
    """The device behind ``auto`` (a GPU for the large size where there is one, else the CPU), ``cpu`` or ``cuda``.

    Raises:
        BadInput: another name, or no GPU here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device {name!r}: expected auto, cpu or cuda")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise BadInput("device 'cuda': torch sees no GPU here; use cpu, or a CUDA build of torch")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and found and recipe.size == "large") else "cpu")


class Exchange(Protocol):
    """How processes of one run meet; see `workers`."""

    def mean(self, rank: int, values: torch.Tensor) -> torch.Tensor:
        """Mean of `values` (size,) over all processes."""
        ...


class Trainer:
    """One training run with its state in `folder`."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        schedule: Schedule,
        device: torch.device = CPU,
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.folder = folder
        self.schedule = schedule
        self.device = device
        self.model = new_model(recipe.architecture, tokenizer, recipe.seed)
        torch.nn.Module.to(self.model, device)
        self.optimisers: OptimiserPair = make_optimisers(self.model, recipe)
        self.average = WeightAverage(self.model, recipe.ema)
        self.progress = Progress()
        self.rank = 0
        self.exchange: Exchange | None = None

    def join_exchange(self, rank: int, exchange: Exchange) -> None:
        """Make this trainer one process of several: it takes batch `rank` of each step; rank 0 reports and saves."""
        self.rank, self.exchange = rank, exchange

    def exchange_size(self) -> int:
        """Numbers that processes exchange per step: all gradients, the loss and the seconds."""
        return sum(value.numel() for value in self.model.parameters()) + 2

    def run(self, evaluate: Evaluate | None = None, stop_step: int | None = None) -> None:
        """Train to the end of the recipe (or `stop_step`), resuming from the folder's checkpoint if there is one."""
        self.restore()
        started, losses = time.monotonic() - self.progress.seconds, []
        mark, since = time.monotonic(), self.progress.tokens
        for group in self.groups():
            losses.append(self.train_step(group, time.monotonic() - started))
            step = self.progress.step
            if self.rank == 0 and step % self.schedule.report_every == 0:
                rate = (self.progress.tokens - since) / (time.monotonic() - mark)
                self.report(sum(losses) / len(losses), rate)
                losses, since, mark = [], self.progress.tokens, time.monotonic()
            if self.rank == 0 and step % self.schedule.save_every == 0:
                self.save()
            if evaluate and self.schedule.evaluate_every and step % self.schedule.evaluate_every == 0:
                log.info("dev at step %d: %s", step, evaluate(self.averaged_model()))
                mark = time.monotonic()
            if step == stop_step:
                break
        if self.rank == 0:
            self.save()

    def groups(self) -> Iterator[list[Batch]]:
        """The batches of each step, from where the run stands until its tokens are used up."""
        progress, size, recipe = self.progress, self.recipe.batches_per_step, self.recipe
        while not self.finished():
            cycle = recipe.cycles[progress.chunk_cycle]
            batches = list(chunk_batches(self.tokenizer, cycle, recipe.seed, progress.chunk, progress.first_phase))
            for start in range(progress.batch, len(batches) - size + 1, size):
                if self.finished():
                    return
                progress.batch = start + size
                yield batches[start : start + size]
            progress.chunk, progress.batch, progress.chunk_cycle = progress.chunk + 1, 0, progress.cycle
            progress.first_phase = self.cycle_share() < recipe.cycles[progress.cycle].first_phase

    def cycle_share(self) -> float:
        """Share of the current cycle that is done."""
        cycles, current = self.recipe.cycles, self.progress.cycle
        before = sum(each.tokens for each in cycles[:current])
        return (self.progress.tokens - before) / cycles[current].tokens

    def finished(self) -> bool:
        """True once the recipe's tokens are used up."""
        return self.progress.tokens >= self.recipe.tokens

    def advance(self, tokens: int, seconds: float) -> None:
        """Count one step of `tokens`, and enter the next cycle where the current one is over."""
        progress = self.progress
        progress.step += 1
        progress.tokens += tokens
        progress.seconds = seconds
        if self.cycle_share() >= 1.0 and progress.cycle + 1 < len(self.recipe.cycles):
            progress.cycle += 1
            progress.cycle_start_step = progress.step

    def train_step(self, group: list[Batch], seconds: float) -> float:
        """One update from the batches of one step; returns the mean loss in nats per completion token."""
        self.model.train()
        mine = group if self.exchange is None else [group[self.rank]]
        loss = torch.stack([self.backward(batch, len(mine)) for batch in mine]).mean()
        if self.exchange is not None:
            loss, seconds = self.meet(self.exchange, loss, seconds)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        self.optimisers.step(self.learning_rate_scale())
        self.average.update(self.model)
        self.advance(sum(batch.tokens for batch in group), seconds)
        return float(loss)

    def learning_rate_scale(self) -> float:
        """Factor on the learning rates of the next update."""
        steps = self.progress.step - self.progress.cycle_start_step
        cycle = self.recipe.cycles[self.progress.cycle]
        scale = learning_rate_scale(steps, self.cycle_share(), self.recipe.warmup_steps, cycle.decay_share)
        return cycle.peak * scale

    def backward(self, batch: Batch, parts: int) -> torch.Tensor:
        """Add this batch's share of the gradient; returns its loss."""
        loss = completion_loss(self.model, batch.to(self.device))
        (loss / parts).backward()
        return loss.detach()

    def meet(self, exchange: Exchange, loss: torch.Tensor, seconds: float) -> tuple[torch.Tensor, float]:
        """Average gradients, loss and seconds over the processes of this run."""
        gradients = [value.grad for value in self.model.parameters() if value.grad is not None]
        flat = torch.cat([*(each.flatten() for each in gradients), loss[None], torch.tensor([seconds])])
        mean = exchange.mean(self.rank, flat)
        for gradient, part in zip(gradients, mean[:-2].split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return mean[-2], float(mean[-1])

    def averaged_model(self) -> LlamaForCausalLM:
        """A copy of the model with the averaged weights, in evaluation mode."""
        copy = LlamaForCausalLM(self.model.config)
        self.average.copy_to(copy)  # on the CPU, wherever training runs
        return copy.eval()

    def report(self, loss: float, rate: float) -> None:
        """Log one progress line."""
        done = self.progress.tokens / self.recipe.tokens
        left = self.progress.seconds * (1 - done) / done
        log.info(
            "step %d  %.2fM tokens  loss %.4f  %.0f tokens/s  %.1f of about %.1f minutes left",
            self.progress.step,
            self.progress.tokens / 1e6,
            loss,
            rate,
            left / 60,
            (left + self.progress.seconds) / 60,
        )

    def save(self) -> None:
        """Write the checkpoint atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": asdict(self.recipe),
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "average_updates": self.average.updates,
            "optimisers": self.optimisers.state_dict(),
        }
        temporary = self.folder / "checkpoint.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "checkpoint.pt")

    def restore(self) -> None:
        """Continue from the folder's checkpoint; refuse one of another recipe."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True, map_location=self.device)
        if state["recipe"] != asdict(self.recipe):
            raise RunMismatch(f"{path} holds a run of another recipe; give another folder or delete it")
        self.model.load_state_dict(state["model"])
        self.average.weights, self.average.updates = state["average"], state["average_updates"]
        self.optimisers.load_state_dict(state["optimisers"])
        self.progress = Progress(**state["progress"])


def completion_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean next-token loss in nats over the labelled positions, forward pass in bfloat16."""
    targets = batch.labels[:, 1:]
    wanted = targets != IGNORED
    with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][wanted])
    return F.cross_entropy(logits.float(), targets[wanted])
