"""Drives a window of source rows at once: their calls go to the engine in bulk, each answer is stored as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from eval_math.errors import BadInput, EngineError
from eval_math.records import Json, Request, Trace, digest, unit_seed

from ..engine import EngineIdentity, unit_key
from ..progress import Progress
from .records import Call, Outcome, Reply, Score, SourceRow
from .rewriter import Bench, Rewriter, Work
from .store import Shard

WINDOW_BATCHES = 4
SMALLEST_WINDOW = 64
SCORES_AT_ONCE = 256


@dataclass
class Counts:
    """What a call of `drive` did. ``found`` rows and calls were stored before."""

    rows: int = 0
    rows_found: int = 0
    calls: int = 0
    calls_found: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    scored_tokens: int = 0
    engine_deaths: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass
class _Active:
    """A source row that waits for the engine: replies by place in its last list of calls, None where missing."""

    row: SourceRow
    work: Work
    replies: list[Reply | None] = field(default_factory=list)
    missing: int = 0


@dataclass(frozen=True)
class _Place:
    active: _Active
    at: int


class Driver:
    """One job over one shard; see `drive`."""

    def __init__(self, rewriter: Rewriter, bench: Bench, shard: Shard, progress: Progress | None = None) -> None:
        self.counts = Counts()
        self._rewriter = rewriter
        self._bench = bench
        self._supply = bench.supply
        self._scorer = bench.scorer or bench.supply
        self._shard = shard
        self._progress = progress
        self._identity: EngineIdentity = bench.supply.engine.identity
        self._scoring: EngineIdentity = bench.scoring.identity
        self._limit = self._scoring.settings.get("max_model_len")
        batch = self._identity.settings.get("batch_size")
        self._window = max(SMALLEST_WINDOW, WINDOW_BATCHES * batch if isinstance(batch, int) else 0)
        self._rows: Iterator[SourceRow] = iter(())
        self._n_active = 0
        self._places: dict[str, list[_Place]] = {}
        self._requests: deque[tuple[str, Request]] = deque()
        self._scores: deque[tuple[str, Score]] = deque()
        self._asked: dict[tuple[str, int], tuple[str, Request]] = {}

    def drive(self, rows: Iterator[SourceRow]) -> Counts:
        """Do every row of this shard that has no outcome yet.

        Raises:
            EngineError: the engine died too often.
            StoreError: disk full or not writable; what was stored is intact.
        """
        self._rows = rows
        self._admit()
        while self._n_active:
            generating = bool(self._requests)
            try:
                self._generate() if generating else self._score()
            except EngineError as error:
                self.counts.engine_deaths += 1
                (self._supply if generating else self._scorer).bury(error)
                self._requests.extendleft(reversed(self._asked.values()))
                self._asked.clear()
            self._admit()
        return self.counts

    def _admit(self) -> None:
        while self._n_active < self._window:
            row = next(self._rows, None)
            if row is None:
                return
            if self._shard.owns(row.key):
                self._begin(row)

    def _begin(self, row: SourceRow) -> None:
        if self._shard.has_outcome(row.key):
            self.counts.rows_found += 1
            return
        self._n_active += 1
        self._advance(_Active(row, self._rewriter.rewrite(row, self._bench)), None)

    def _advance(self, active: _Active, replies: list[Reply] | None) -> None:
        """Run a row on until it waits for the engine or is done."""
        while True:
            try:
                calls = next(active.work) if replies is None else active.work.send(replies)
            except StopIteration as stop:
                return self._finish(active, stop.value)
            except BadInput as error:
                return self._finish(active, Outcome("error", error=str(error)))
            too_long = next((call for call in calls if self._too_long(call)), None)
            if too_long is not None:
                active.work.close()
                return self._finish(active, Outcome("error", error=self._length_error(too_long)))
            if not self._ask(active, calls):
                return None
            replies = [reply for reply in active.replies if reply is not None]

    def _ask(self, active: _Active, calls: list[Call]) -> bool:
        """Look the calls up, queue what is not stored; True if nothing is missing."""
        active.replies = [None] * len(calls)
        active.missing = 0
        for at, call in enumerate(calls):
            key, request = self._key(active.row, call)
            active.replies[at] = self._shard.reply(key)
            if active.replies[at] is not None:
                self.counts.calls_found += 1
                continue
            active.missing += 1
            self._queue(key, call, request, _Place(active, at))
        return active.missing == 0

    def _queue(self, key: str, call: Call, request: Request | None, place: _Place) -> None:
        waiting = self._places.setdefault(key, [])
        waiting.append(place)
        if len(waiting) > 1:
            return
        if isinstance(call, Score):
            self._scores.append((key, call))
        elif request is not None:
            self._requests.append((key, request))

    def _key(self, row: SourceRow, call: Call) -> tuple[str, Request | None]:
        if isinstance(call, Score):
            shown: list[Json] = [self._scoring.model_hash, self._scoring.dtype]
            return digest(["score", *shown, list(call.prompt), list(call.completion)]), None
        name = f"{row.key}/{call.unit}"
        sampling = call.sampling_with(unit_seed(self._bench.seed, name, call.sample))
        request = Request(name, call.sample, call.messages, sampling=sampling, template=call.template)
        return unit_key(request, self._identity, {"datagen": 1}), request

    def _too_long(self, call: Call) -> bool:
        if not isinstance(call, Score) or not isinstance(self._limit, int):
            return False
        return len(call.prompt) + len(call.completion) >= self._limit

    def _length_error(self, call: Call) -> str:
        assert isinstance(call, Score)
        n = len(call.prompt) + len(call.completion)
        return f"{n} tokens are to be scored and the engine takes fewer than {self._limit}; raise max_model_len"

    def _generate(self) -> None:
        for trace in self._supply.engine.generate(_Feed(self._requests, self._asked)):
            key, _ = self._asked.pop((trace.problem_id, trace.sample))
            self._count(trace)
            self._deliver(key, trace)
            self._admit()
        if self._asked:
            raise EngineError(f"the engine left {len(self._asked)} requests unanswered")

    def _score(self) -> None:
        batch = [self._scores.popleft() for _ in range(min(SCORES_AT_ONCE, len(self._scores)))]
        try:
            scores = self._scorer.engine.score([(call.prompt, call.completion) for _, call in batch])
        except EngineError:
            self._scores.extendleft(reversed(batch))
            raise
        for (key, call), values in zip(batch, scores, strict=True):
            self.counts.calls += 1
            self.counts.scored_tokens += len(call.completion)
            self._deliver(key, tuple(values))

    def _deliver(self, key: str, reply: Reply) -> None:
        """Store a reply, then let the rows go on that waited for it."""
        places = self._places.pop(key)
        self._shard.add_reply(key, places[0].active.row.key, reply)
        for place in places:
            place.active.replies[place.at] = reply
            place.active.missing -= 1
            if not place.active.missing:
                self._advance(place.active, [each for each in place.active.replies if each is not None])

    def _finish(self, active: _Active, outcome: Outcome) -> None:
        self._n_active -= 1
        self.counts.rows += 1
        self._shard.add_outcome(active.row.key, outcome)
        if self._progress is not None:
            self._progress.answered(0)

    def _count(self, trace: Trace) -> None:
        self.counts.calls += 1
        self.counts.generated_tokens += trace.n_tokens
        self.counts.prompt_tokens += trace.n_prompt_tokens
        cached = trace.provenance.get("cached_tokens_in_batch")
        self.counts.cached_tokens += cached if isinstance(cached, int) else 0


class _Feed:
    """Requests as long as there are any. After an end more may come: engines that ask again are served."""

    def __init__(self, queue: deque[tuple[str, Request]], asked: dict[tuple[str, int], tuple[str, Request]]) -> None:
        self._queue = queue
        self._asked = asked

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        if not self._queue:
            raise StopIteration
        key, request = self._queue.popleft()
        self._asked[request.problem_id, request.sample] = (key, request)
        return request
