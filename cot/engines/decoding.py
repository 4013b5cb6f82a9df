"""The reference decode loop: continuous batching on transformers, one forward pass and one token per row and step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from eval_math.errors import EngineError, LaconicError
from eval_math.records import Finish, Request, Trace

from ..engine import Row, Step
from ..thinking import think_end
from .batch import Batch, Running, left_padded
from .cache import MakeCache, growing_cache
from .latents import Latents
from .sampling import Chooser, choose
from .work import Desk, Work

PREFILL_TOKENS = 16_384
WINDOW_BATCHES = 4
TAIL_TOKENS = 16


@dataclass(frozen=True)
class Forward:
    """A model whose forward pass announces the rows it serves."""

    model: Any
    device: torch.device
    announce: Callable[[list[Row]], None]

    def __call__(self, rows: list[Row], **inputs: Any) -> Any:
        """One forward pass without gradients; ``rows`` are current while it runs.

        Raises:
            EngineError: the pass failed (out of memory, ...).
        """
        self.announce(rows)
        try:
            with torch.no_grad():
                return self.model(**inputs)
        except LaconicError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise EngineError(f"the hf engine's forward pass failed: {error}; try a smaller batch_size") from error
        finally:
            self.announce([])


@dataclass(frozen=True)
class Changes:
    """What a method changes about decoding."""

    latents: Latents | None = None
    make_cache: MakeCache | None = None
    """An empty cache for the model; its layers are `JoinableLayer`s."""


AS_IT_IS = Changes()


class Decoder:
    """Decodes a stream of requests, at most ``batch_size`` at once."""

    def __init__(self, forward: Forward, desk: Desk, batch_size: int, changes: Changes = AS_IT_IS) -> None:
        self.forward = forward
        self.latents = changes.latents
        self.make_cache = changes.make_cache
        self.desk = desk
        self.batch_size = batch_size
        self.batch: Batch | None = None

    def run(self, requests: Iterable[Request]) -> Iterator[Trace]:
        """Traces as they finish. Requests are read a window at a time and sorted by length inside it."""
        source, waiting = iter(requests), list[Work]()
        while True:
            if not waiting:
                yield from self._read(source, waiting)
            if waiting and self._room() > 0:
                yield from self._prefill(self._next_group(waiting))
            elif self.batch is not None:
                yield from self._step(self.batch)
            elif not waiting:
                return

    def _read(self, source: Iterator[Request], waiting: list[Work]) -> Iterator[Trace]:
        for request in islice(source, WINDOW_BATCHES * self.batch_size):
            work = self.desk.admit(request)
            if isinstance(work, Trace):
                yield work
            else:
                waiting.append(work)
        waiting.reverse()
        waiting.sort(key=lambda work: len(work.ids), reverse=True)

    def _room(self) -> int:
        """Rows worth adding now: a quarter of the batch at least, as each group costs a forward pass."""
        if self.batch is None:
            return self.batch_size
        free = self.batch_size - len(self.batch.rows)
        return free if self.batch.joinable and free >= max(1, self.batch_size // 4) else 0

    def _next_group(self, waiting: list[Work]) -> list[Work]:
        """The shortest waiting prompts that fit, taken off the end of ``waiting``."""
        group = [waiting.pop()]
        while waiting and len(group) < self._room() and (len(group) + 1) * len(waiting[-1].ids) <= PREFILL_TOKENS:
            group.append(waiting.pop())
        return group

    def _prefill(self, group: list[Work]) -> Iterator[Trace]:
        rows = [self._running(work) for work in group]
        inputs = left_padded([list(work.ids) for work in group], 0, self.forward.device)
        width = inputs.ids.shape[1]
        shares = [row.row(at, width - len(row.work.ids), 0, len(row.work.ids)) for at, row in enumerate(rows)]
        output = self.forward(
            shares,
            input_ids=inputs.ids,
            attention_mask=inputs.mask,
            position_ids=inputs.positions,
            past_key_values=(self.make_cache or growing_cache)(self.forward.model),
            use_cache=True,
            logits_to_keep=1,
        )
        fresh = Batch(rows, output.past_key_values, inputs.mask)
        finished = self._advance(fresh, output.logits[:, -1])
        if fresh.rows and self.batch is not None:
            self.batch.join(fresh)
        elif fresh.rows:
            self.batch = fresh
        yield from finished

    def _step(self, batch: Batch) -> Iterator[Trace]:
        positions = torch.tensor([[row.next_position] for row in batch.rows], device=self.forward.device)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], 1)
        output = self.forward(
            [row.row(at, 0, row.next_position, 1) for at, row in enumerate(batch.rows)],
            **self._newest(batch.rows),
            attention_mask=batch.mask,
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        finished = self._advance(batch, output.logits[:, -1])
        if not batch.rows:
            self.batch = None
        yield from finished

    def _newest(self, rows: list[Running]) -> dict[str, Tensor]:
        """What the rows are fed: ids (rows, 1), or embeddings (rows, 1, d) if one of them is fed a latent."""
        newest = [row.generated[-1] if row.generated else row.work.ids[-1] for row in rows]
        ids = torch.tensor(newest, device=self.forward.device)[:, None]
        if self.latents is None or all(row.feed is None for row in rows):
            return {"input_ids": ids}
        return {"inputs_embeds": self.latents.embed(ids, [row.feed for row in rows])}

    def _running(self, work: Work) -> Running:
        request = work.request
        opened = self.latents.thinker.open(request, work.ids) if self.latents is not None else None
        return Running(
            work=work,
            chooser=Chooser.of(request.sampling),
            stop_ids=self.desk.stop_ids(request),
            stop_texts=self.desk.stop_texts(request),
            think_end=self._think_end(work, []),
            thought=opened,
        )

    def _advance(self, batch: Batch, logits: Tensor) -> list[Trace]:
        """Choose each row's next token from (rows, vocabulary), drop the rows that end with it."""
        seen = [_seen(row) for row in batch.rows]
        chosen = choose(_without_banned(logits, batch.rows), [row.chooser for row in batch.rows], seen)
        steps = list(map(Step, chosen))
        if self.latents is not None:
            self.latents.think(batch.rows, logits, steps)
        traces, alive = list[Trace](), list[int]()
        for at, (row, step) in enumerate(zip(batch.rows, steps, strict=True)):
            self._take(row, step)
            finish = self._finish(row, step)
            if finish is None:
                alive.append(at)
            else:
                traces.append(self._trace(row, finish, batch))
        batch.keep(alive)
        return traces

    def _take(self, row: Running, step: Step) -> None:
        row.feed = step.feed
        if step.feed is None:
            row.thought = None
        if step.token is None:
            row.n_latent += 1
            return
        row.generated.append(step.token)
        if step.token in self.desk.chat.tags.ids:
            row.think_end = self._think_end(row.work, row.generated)

    def _trace(self, row: Running, finish: Finish, batch: Batch) -> Trace:
        trace = self.desk.finished(row.work, row.generated, finish)
        if self.make_cache is not None:
            trace = replace(trace, provenance={**trace.provenance, "kv_bytes": batch.row_bytes()})
        return replace(trace, n_latent_steps=row.n_latent, n_forward=row.n_steps) if row.n_latent else trace

    def _think_end(self, work: Work, generated: list[int]) -> int | None:
        output = [*work.ids[work.n_prompt :], *generated]
        return think_end(work.ids[: work.n_prompt], output, self.desk.chat.tags, self.desk.chat.decode)

    def _finish(self, row: Running, step: Step) -> Finish | None:
        if step.token is not None and (step.token in row.stop_ids or (row.stop_texts and self._stops_in_text(row))):
            return "stop"
        return "length" if row.n_steps >= row.work.max_new_tokens else None

    def _stops_in_text(self, row: Running) -> bool:
        longest = max(map(len, row.stop_texts))
        tail = self.desk.chat.decode_all(row.generated[-(TAIL_TOKENS + 4 * longest) :])
        return any(text in tail for text in row.stop_texts)


def _seen(row: Running) -> list[int]:
    if row.chooser.sampling.repetition_penalty == 1.0:
        return []
    return [*row.work.ids, *row.generated]


def _without_banned(logits: Tensor, rows: list[Running]) -> Tensor:
    """Logits (rows, vocabulary) with each row's banned tokens at minus infinity."""
    banned = [(at, row.chooser.sampling.banned_ids) for at, row in enumerate(rows)]
    if not any(ids for _, ids in banned):
        return logits
    logits = logits.clone()
    for at, ids in banned:
        logits[at, _indices(ids, logits.shape[-1]).to(logits.device)] = -torch.inf
    return logits


@lru_cache(maxsize=8)
def _indices(ids: tuple[int, ...], size: int) -> Tensor:
    return torch.tensor([token for token in ids if token < size], dtype=torch.long)
