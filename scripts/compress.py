"""`laconic compress c3ot|r1-compress|tokenskip|shortest`: datasets of shorter chains of thought."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cot.datagen.job import Job, JobConfig
    from cot.datagen.rewriter import Rewriter
    from cot.datagen.stats import JobStats
    from cot.datagen.supply import Supply

SOURCE_PROBLEMS = 500
CHECKED_ROWS = 64


@dataclass(frozen=True)
class Compress:
    """Flags that all of them share."""

    traces: tuple[Path, ...] = ()
    """Long traces: run folders of `laconic eval`, or JSON lines with question, answer and output (think tags
    included). Default: the model's own on --benchmark, kept in a folder beside --out."""
    out: Path = Path("dataset")
    """Dataset folder; the same command goes on where it stopped."""
    benchmark: str = "embedded"
    """Problems of the traces that are made where none are given."""
    split: str = "train"
    """Their split."""
    limit: int | None = None
    """At most so many traces; of traces made here 500."""
    model: str = "embedded"
    """Writes, and scores where a method scores: model folder, hub id, or embedded."""
    student: str | None = None
    """Model to be trained: its tokenizer counts, its template is checked; default: --model."""
    engine: str = "auto"
    """hf, vllm, openai, or auto."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    device: str = "auto"
    """auto, cpu, cuda, ... (hf)."""
    batch_size: int = 32
    """Requests at once."""
    max_model_len: int | None = None
    """Longest prompt plus output in tokens."""
    engine_options: tuple[str, ...] = ()
    """Options of the engine, name=value."""
    max_tokens: int = 1024
    """Longest output of traces that are made here."""
    n: int = 1
    """Samples per problem of traces that are made here."""
    temperature: float = 0.0
    """Of traces that are made here."""
    most_tokens: int | None = None
    """Longest rewritten trace that the student can be trained on; longer ones are refused."""
    apart_from: tuple[str, ...] = ()
    """Leave out questions that share eight words in a row with one of these test sets: benchmarks, or problem files."""
    seed: int = 0
    order: Literal["shuffled", "source"] = "shuffled"
    """Order of the rows."""
    validation: float = 0.0
    """Share of the questions whose rows go to a validation split."""
    shards: int = 1
    """Parts of the work; several processes can each do one."""
    shard: int | None = None
    """Do only this part, from 0; a last call without it makes the dataset."""
    export: tuple[Literal["messages", "arrow", "parquet"], ...] = ()
    """Also write these forms."""
    push: str | None = None
    """Upload to the hub under this name."""
    retry_errors: bool = False
    """Ask again where the engine failed."""
    update: bool = False
    """Go on in a folder of another configuration; what did not change is not asked again."""
    json: str | None = None
    """Write the counts as one JSON object to this file, - for standard output."""


@dataclass(frozen=True)
class CompressC3ot(Compress):
    """Long and short versions told apart by a condition in the prompt (C3oT)."""

    levels: Literal["short", "mixed"] = "short"
    """One short version, or six at 50 to 100 % compression."""
    conditions: Literal["both", "none"] = "both"
    """none: no prefix, the paper's ablation."""
    long_share: float = 0.5
    """Share of long rows; 0 = short only, 1 = long only."""
    compressor: str | None = None
    """Prompt of the compressor by name; default: embedded for the embedded reasoner, else general."""
    tries: int = 3
    """Rewrites of a trace before its short row is given up."""
    prompt_file: Path | None = None
    """Other prompts than cot/prompts/c3ot.json."""


@dataclass(frozen=True)
class CompressR1(Compress):
    """Traces rewritten chunk by chunk, versions chosen by the model's own probability (R1-Compress)."""

    versions: int = 8
    """Rewrites of each chunk."""
    keep: float = 0.5
    """Share of the shortest versions that the search chooses from."""
    score: Literal["mean", "sum"] = "mean"
    """Log-probability per token, or of the whole version."""
    min_words: int | None = None
    """A chunk ends at the first boundary after so many words; default 50, embedded reasoner 20."""
    max_words: int = 400
    """Longest chunk."""
    boundary: Literal["paragraph", "sentence"] | None = None
    """Where chunks end; default: paragraph, embedded reasoner sentence."""
    compressor: str | None = None
    """Prompt of the writer by name; default: embedded for the embedded reasoner, else general."""
    scorer: str | None = None
    """Another model that scores; default: --model."""
    prompt_file: Path | None = None
    """Other prompts than cot/prompts/r1_compress.json."""


@dataclass(frozen=True)
class CompressTokenSkip(Compress):
    """Unimportant words left out, at a ratio that the prompt names (TokenSkip)."""

    ratios: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
    """Each row gets one of these kept ratios."""
    keep_numbers: bool = True
    """Words with digits or signs of a formula go last."""
    classifier: str = ""
    """Token classifier of the LLMLingua-2 kind; default: the model's own surprise."""


@dataclass(frozen=True)
class CompressShortest(Compress):
    """The shortest correct of n samples, as rows, and as pairs to prefer by."""

    n: int = 8
    """Samples per problem of traces that are made here."""
    temperature: float = 1.0
    """Of traces that are made here."""
    select: Literal["shortest", "quantile"] = "shortest"
    """One trace per problem, or the shortest part of the correct ones (TokenSqueeze)."""
    rejected: Literal["any", "incorrect"] = "any"
    """Longer traces that a pair may reject."""
    most_pairs: int = 4
    """Pairs per problem at most."""


@dataclass(frozen=True)
class CompressReference(Compress):
    """Reference solutions of --benchmark as thoughts: their equations, or their text; no model is asked."""

    benchmark: str = "gsm8k"
    """Problems with solutions."""
    data: Path | None = None
    """File or folder of the benchmark, where it is not to be downloaded."""
    steps: Literal["equations", "solution"] = "equations"
    """Marked equations (GSM8K), or the text without the marks."""


@dataclass(frozen=True)
class CompressExplain:
    """What the gates said about the rewrites of one source row."""

    out: Path
    """Dataset folder."""
    row: str
    """row_key of a line in it, or the start of one."""


def run(command: Compress | CompressExplain) -> int:
    """Make the dataset, print what was kept and refused."""
    import logging

    from cot.datagen.export import export_dataset, push_dataset

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if isinstance(command, CompressExplain):
        return _explain(command)
    stats, seconds = _make(command)
    if stats is None:
        print(f"shard {command.shard} of {command.shards} is done; a call without --shard makes the dataset")
        return 0
    made = export_dataset(command.out, command.export)
    if command.push:
        push_dataset(command.out, command.push)
    _show(command, stats, seconds, made)
    if stats.rows:
        _check_student(command)
    return int(not stats.rows)


def _make(command: Compress) -> tuple[JobStats | None, float]:
    from cot.datagen.job import run_job

    if isinstance(command, CompressReference):
        return _reference(command), 0.0
    writer = _supply(command, command.model)
    scoring = command.scorer if isinstance(command, CompressR1) else None
    scorer = _supply(command, scoring) if scoring else None
    try:
        command = replace(command, traces=command.traces or (_own_traces(command, writer),))
        if isinstance(command, CompressShortest):
            return _shortest(command), 0.0
        result = run_job(_job(command), writer, scorer)
        return result.stats, result.seconds
    finally:
        for supply in (writer, scorer):
            if supply is not None:
                supply.close()


def _supply(command: Compress, model: str) -> Supply:
    from cot.datagen.supply import Supply
    from cot.engine import EngineConfig
    from cot.engines import open_engine

    from .eval import parse_options

    config = EngineConfig(
        model=model,
        engine=command.engine,
        dtype=command.dtype,
        device=command.device,
        batch_size=command.batch_size,
        max_model_len=command.max_model_len,
        options=parse_options(command.engine_options),
    )
    return Supply(lambda: open_engine(config))


def _own_traces(command: Compress, supply: Supply) -> Path:
    """Traces of the model itself, in a run folder beside the dataset."""
    from cot.benchmarks import load
    from cot.evaluate import EvalConfig, evaluate_into
    from cot.method import Method
    from eval_math.records import Sampling

    limit = command.limit or SOURCE_PROBLEMS
    problems = load(command.benchmark, split=command.split, limit=limit)
    sampling = Sampling(max_tokens=command.max_tokens, temperature=command.temperature)
    folder = command.out.with_name(f"{command.out.name}-traces")
    config = EvalConfig(command.benchmark, command.n, sampling, command.seed, command.retry_errors)
    evaluate_into(folder, problems, Method(), supply.engine, config)
    return folder


def _config(command: Compress) -> JobConfig:
    from cot.datagen.dataset import Layout
    from cot.datagen.job import JobConfig

    return JobConfig(
        command.traces,
        command.out,
        seed=command.seed,
        limit=command.limit,
        shards=command.shards,
        shard=command.shard,
        layout=Layout(command.order, command.seed, command.validation),
        retry_errors=command.retry_errors,
        update=command.update,
    )


def _job(command: Compress) -> Job:
    from cot.datagen.apart import KeptOut, kept_apart
    from cot.datagen.gates import GateSettings
    from cot.datagen.job import Job
    from cot.datagen.student import Student

    student = Student.named(command.student or command.model)
    rewriter = kept_apart(_rewriter(command), KeptOut.named(command.apart_from))
    return Job(_config(command), rewriter, student, GateSettings(most_tokens=command.most_tokens))


def _rewriter(command: Compress) -> Rewriter:
    from cot.c3ot import C3ot
    from cot.r1_compress import R1Compress
    from cot.tokenskip import TokenSkip

    embedded = command.model == "embedded"
    prompt = "embedded" if embedded else "general"
    if isinstance(command, CompressC3ot):
        return C3ot(
            command.levels,
            command.conditions,
            command.long_share,
            compressor=command.compressor or prompt,
            tries=command.tries,
            prompt_file=command.prompt_file,
        )
    if isinstance(command, CompressR1):
        return R1Compress(
            min_words=command.min_words or (20 if embedded else 50),
            max_words=command.max_words,
            boundary=command.boundary or ("sentence" if embedded else "paragraph"),
            versions=command.versions,
            keep=command.keep,
            score=command.score,
            compressor=command.compressor or prompt,
            prompt_file=command.prompt_file,
        )
    assert isinstance(command, CompressTokenSkip)
    return TokenSkip(command.ratios, command.keep_numbers, command.classifier)


def _shortest(command: CompressShortest) -> JobStats:
    from cot.datagen.apart import KeptOut
    from cot.datagen.student import Student
    from cot.shortest import Shortest, make_dataset

    how = Shortest(command.select, rejected=command.rejected, most_pairs=command.most_pairs)
    student = Student.named(command.student or command.model)
    return make_dataset(_config(command), how, student, KeptOut.named(command.apart_from))


def _reference(command: CompressReference) -> JobStats:
    from cot.benchmarks import load
    from cot.datagen.apart import KeptOut
    from cot.datagen.student import Student
    from cot.reference import Reference, make_reference_dataset

    problems = load(command.benchmark, split=command.split, data=command.data, limit=command.limit)
    student, apart = Student.named(command.student or command.model), KeptOut.named(command.apart_from)
    job = _config(replace(command, traces=(Path(command.benchmark),)))
    return make_reference_dataset(problems, job, Reference(command.steps), student, apart)


def _show(command: Compress, stats: JobStats, seconds: float, made: list[Path]) -> None:
    import sys

    from .command import write_figures

    shown = sys.stderr if command.json == "-" else sys.stdout
    figures = stats.to_json()
    for title, counter in (("source rows", stats.statuses), ("dataset rows", stats.rows), ("refused by", stats.gates)):
        for name, count in sorted(counter.items()):
            print(f"{title:<14}{name:<24}{count:>8}", file=shown)
    for name, each in stats.ratios.items():
        print(f"{'kept ratio':<14}{name:<24}{each.figures()['mean']:>8.3f}", file=shown)
    print(f"dataset: {command.out} (card: README.md, refused rewrites: rejected.jsonl)", file=shown)
    for path in made:
        print(f"also: {path}", file=shown)
    write_figures(command.json, {**figures, "out": str(command.out), "seconds": round(seconds, 3)})


def _check_student(command: Compress) -> None:
    """Say what the student's chat template would do to the rows."""
    import sys

    from cot.chat import open_chat, resolve_model
    from cot.training.data import check_template
    from cot.training.rows import find_data, read_sft_rows

    chat = open_chat(resolve_model(command.student or command.model))
    if not chat.tokenizer.chat_template:
        return
    for warning in check_template(chat, read_sft_rows(find_data(command.out), CHECKED_ROWS)):
        print(f"WARNING: {command.student or command.model}: {warning}", file=sys.stderr)


def _explain(command: CompressExplain) -> int:
    from cot.datagen.job import read_outcome

    outcome = read_outcome(command.out, command.row)
    print(f"{outcome.status}{': ' + outcome.error if outcome.error else ''}")
    for attempt in outcome.attempts:
        print(
            f"\n{attempt.unit}, try {attempt.sample}: {'refused' if attempt.rejections else 'passed'}\n{attempt.text}"
        )
        for rejection in attempt.rejections:
            print(f"  {rejection.gate}: {rejection.reason}")
    return 0
