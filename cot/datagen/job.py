"""A rewriting job: sources through a rewriter and an engine into a dataset folder, resumable after a kill at any byte.

OUT/manifest.json   what the dataset is made of; written first, compared on every later start
OUT/shard-*/        answers and outcomes (see `store`)
OUT/train.jsonl ... the dataset (see `dataset`), with a card, once every row has an outcome
OUT/_SUCCESS        its counts: written last
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

from eval_math.errors import BadInput, EngineError
from eval_math.records import Json, digest

from ..engine import Engine, EngineIdentity
from ..evaluate import NEUTRAL_SETTINGS, SECRET_SETTINGS
from ..progress import Progress
from .dataset import Layout, write_dataset
from .driver import Counts, Driver
from .gates import GateSettings
from .manifest import Manifest, begin_dataset, describe_dataset, finish_dataset, read_manifest
from .records import Outcome, SourceRow
from .rewriter import Bench, Rewriter
from .source import SourceFile, describe_source, read_sources
from .stats import JobStats
from .store import Shard, shard_folder
from .student import Student
from .supply import Supply


@dataclass(frozen=True)
class JobConfig:
    """Where rows come from and where the dataset goes."""

    sources: tuple[Path, ...]
    """Run folders of `laconic eval`, or JSON-lines files."""
    out: Path
    seed: int = 0
    limit: int | None = None
    """Only the first so many source rows."""
    shards: int = 1
    """In how many parts the rows are done; several processes can each do one."""
    shard: int | None = None
    """Do only this part (from 0), and make no dataset."""
    layout: Layout = field(default_factory=Layout)
    retry_errors: bool = False
    """Ask again where the engine failed."""
    update: bool = False
    """Go on in a folder of another configuration: what did not change is kept, the dataset is made anew."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise BadInput("no source given; a run folder of `laconic eval` or a JSON-lines file is expected")
        if self.shards < 1 or not 0 <= (self.shard or 0) < self.shards:
            raise BadInput(
                f"shard {self.shard} of {self.shards}: a number from 0 to {max(self.shards - 1, 0)} is expected"
            )
        if self.limit is not None and self.limit < 1:
            raise BadInput(f"limit={self.limit}: at least 1 row is expected")
        if not 0 <= self.layout.validation < 1:
            raise BadInput(f"validation={self.layout.validation}: a share from 0 to below 1 is expected")


@dataclass(frozen=True)
class JobResult:
    """What a call of `run_job` did; ``stats`` is None where no dataset was made (one shard of several)."""

    counts: Counts
    stats: JobStats | None
    seconds: float


@dataclass(frozen=True)
class Job:
    """All that decides a job's dataset."""

    config: JobConfig
    rewriter: Rewriter
    student: Student
    gates: GateSettings = field(default_factory=GateSettings)


def run_job(job: Job, supply: Supply, scorer: Supply | None = None) -> JobResult:
    """Do what the job lacks, then write the dataset.

    Args:
        supply: the engine that writes; it stays open.
        scorer: the engine that scores, where it is another one.

    Raises:
        BadInput: a source is malformed, the engine lacks a capability, or the folder holds something else.
        RunMismatch: the folder was made by another configuration; the text lists the differences.
        EngineError: the engine died too often; run the same command again to go on.
        StoreError: disk full, not writable, or another process is at the same shard.
    """
    started = time.monotonic()
    sources = [describe_source(path) for path in job.config.sources]
    _check_engines(job.rewriter, supply, scorer or supply)
    recipe = _recipe(job, supply.engine, (scorer or supply).engine)
    begin_dataset(job.config.out, _describe(job, recipe, supply.engine, sources), update=job.config.update)
    bench = Bench(supply, job.student, job.gates, job.config.seed, scorer)
    counts = _do_shards(job, bench, digest(recipe), sum(source.rows for source in sources))
    stats = None if job.config.shard is not None else _finish(job, digest(recipe), supply.engine.identity.model, counts)
    return JobResult(counts, stats, time.monotonic() - started)


def _check_engines(rewriter: Rewriter, writer: Supply, scorer: Supply) -> None:
    for need in sorted(rewriter.needs):
        engine = (scorer if need == "score" else writer).engine
        if need not in engine.capabilities:
            raise BadInput(f"{rewriter.name} needs {need!r}, which engine {engine.identity.engine} does not have")


def _recipe(job: Job, writer: Engine, scorer: Engine) -> dict[str, Json]:
    """What makes outcomes out of source rows, the sources themselves left out."""
    return {
        "method": dict(job.rewriter.fingerprint()),
        "gates": asdict(job.gates),
        "student": {"name": job.student.name, "template_hash": job.student.template_hash},
        "writer": _decisive(writer.identity),
        "scorer": _decisive(scorer.identity),
        "seed": job.config.seed,
    }


def _decisive(identity: EngineIdentity) -> dict[str, Json]:
    settings = {k: v for k, v in identity.settings.items() if k not in NEUTRAL_SETTINGS}
    hashes = {name: getattr(identity, name) for name in ("model_hash", "template_hash", "dtype")}
    return {"engine": identity.engine, **hashes, "settings": settings}


def _describe(job: Job, recipe: dict[str, Json], writer: Engine, sources: list[SourceFile]) -> Manifest:
    settings = {k: v for k, v in writer.identity.settings.items() if k not in SECRET_SETTINGS}
    layout = {k: v for k, v in asdict(job.config.layout).items() if k != "about"}
    more: dict[str, Json] = {"limit": job.config.limit, "shards": job.config.shards, "layout": layout}
    shown = asdict(replace(writer.identity, settings=settings))
    return describe_dataset(sources, {**recipe, **more}, shown)


def _do_shards(job: Job, bench: Bench, recipe: str, n_rows: int) -> Counts:
    total, config = Counts(), job.config
    n_rows = min(n_rows, config.limit) if config.limit else n_rows
    numbers = range(config.shards) if config.shard is None else [config.shard]
    with Progress(job.rewriter.name, n_rows * len(numbers) // config.shards) as progress:
        for number in numbers:
            with Shard(config.out, number, config.shards, recipe) as shard:
                if config.retry_errors:
                    shard.forget_errors()
                total += Driver(job.rewriter, bench, shard, progress).drive(_rows(config))
    return total


def _rows(config: JobConfig) -> Iterator[SourceRow]:
    return islice(read_sources(config.sources), config.limit)


def _finish(job: Job, recipe: str, writer: str, counts: Counts) -> JobStats:
    config = job.config
    with ExitStack() as stack:
        shards = [stack.enter_context(Shard(config.out, n, config.shards, recipe)) for n in range(config.shards)]

        found = ((row, shards[int(row.key[:8], 16) % config.shards].outcome(row.key)) for row in _rows(config))
        about = {"method": job.rewriter.name, "student": job.student.name, "writer": writer}
        stats = write_dataset(config.out, found, replace(config.layout, about=about))
    if stats.unfinished:
        raise EngineError(f"{config.out}: {stats.unfinished} source rows have no outcome; run the same command again")
    finish_dataset(config.out, stats, counts)
    return stats


def read_outcome(folder: Path, row: str) -> Outcome:
    """The stored outcome of the source row whose key starts with ``row``, for reading by eye.

    Raises:
        BadInput: no such folder or row.
        StoreError: a process is at work in the folder.
    """
    manifest = read_manifest(folder)
    count = int(manifest["config"]["shards"])
    for number in range(count):
        if not shard_folder(folder, number, count).exists():
            continue
        with Shard(folder, number, count, "") as shard:
            found = shard.find_outcome(row)
            if found is not None:
                return found
    raise BadInput(f"{folder}: no source row {row!r}; see row_key in its *.jsonl")
