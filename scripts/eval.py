"""`laconic eval`: run a model with a method on a benchmark, grade it, store it."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cot.engine import Engine, EngineConfig
    from cot.evaluate import Outcome
    from cot.method import Method
    from eval_math.records import Json, Problem, Sampling

LONGEST_OUTPUT_TOKENS = 32768
UNKNOWN_LENGTH_TOKENS = 4096
SECRET_OPTIONS = ("api_key=", "api-key=", "hf_token=", "hf-token=")


@dataclass(frozen=True)
class Eval:
    """Run a model with a method on a benchmark; the same command again does only what is missing."""

    model: str = "embedded"
    """Model folder, hub id, or `embedded` for the reasoner that ships with laconic."""
    benchmark: str = "embedded"
    """gsm8k, math500, aime24, aime25, math, gsm-hard, svamp, embedded, embedded:easy, embedded:hard, or a file
    (.jsonl, .csv, .parquet) with the fields question and answer."""
    method: str = "none"
    """Method with its parameters, several joined by +, e.g. asc:vector=v.safetensors,strength=0.5+concise."""
    engine: str = "auto"
    """hf, vllm, openai, or auto: vllm where it is installed, else hf."""
    n: int = 1
    """Samples per problem."""
    limit: int | None = None
    """Only so many problems (embedded: how many are made, 300 by default)."""
    shuffle: int | None = None
    """Choose the problems of --limit with this seed instead of the first ones (embedded: seed of the problems)."""
    split: str = "test"
    """test or train (embedded: also dev)."""
    data: Path | None = None
    """File or folder with the benchmark's problems; default: the folder in LACONIC_DATA, else the hub."""
    seed: int = 0
    """Seed of decoding; each problem and sample gets its own from it."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 is all."""
    max_tokens: int | None = None
    """Longest output, thinking included; default: the model's length, at most 32768."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... (hf)."""
    batch_size: int = 32
    """Requests decoded at once."""
    max_model_len: int | None = None
    """Longest prompt plus output in tokens; default: what the model was made for."""
    engine_options: tuple[str, ...] = ()
    """Options of the engine, name=value, e.g. gpu_memory_utilization=0.8 or base_url=http://127.0.0.1:8000/v1."""
    out: Path | None = None
    """Run folder; default: a name under runs/ made from the configuration."""
    retry_errors: bool = False
    """Do requests again that the engine failed on."""
    overwrite: bool = False
    """Delete an earlier run of another configuration in --out; one of the same configuration goes on."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: Eval) -> int:
    """Evaluate, store, and print the row of figures; 1 if the engine failed on every request."""
    import logging

    from cot.benchmarks import load
    from cot.engines import open_engine
    from cot.methods import parse_method

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    method = parse_method(command.method)
    problems = load(
        command.benchmark, split=command.split, data=command.data, limit=command.limit, seed=command.shuffle
    )
    _check_flags(command)
    engine = open_engine(_engine_config(command))
    try:
        folder, outcome = _evaluate(command, problems, method, engine)
    finally:
        engine.close()
    _show(command, folder)
    if outcome.failed:
        print(
            f"the engine failed on {outcome.failed} of {outcome.planned} requests: see error in {folder}/traces.jsonl, "
            "do them again with --retry-errors",
            file=sys.stderr,
        )
    return int(outcome.failed == outcome.planned)


def _evaluate(command: Eval, problems: Sequence[Problem], method: Method, engine: Engine) -> tuple[Path, Outcome]:
    from cot.evaluate import EvalConfig, check, default_folder, describe_run, evaluate
    from cot.runs import open_run

    config = EvalConfig(command.benchmark, command.n, _sampling(command, engine), command.seed, command.retry_errors)
    check(problems, method, engine, config)
    info = describe_run(method, engine, config, split=command.split)
    info = dataclasses.replace(info, command=_flags(command))
    folder = command.out or default_folder(Path("runs"), info, problems)
    with open_run(folder, info, problems, overwrite=command.overwrite) as store:
        try:
            return folder, evaluate(problems, method, engine, store, config)
        except KeyboardInterrupt:
            planned = len(problems) * command.n
            print(f"\n{len(store.stored)} of {planned} answers are stored in {folder}", file=sys.stderr)
            raise


def _engine_config(command: Eval) -> EngineConfig:
    from cot.engine import EngineConfig

    return EngineConfig(
        model=command.model,
        engine=command.engine,
        dtype=command.dtype,
        device=command.device,
        batch_size=command.batch_size,
        max_model_len=command.max_model_len,
        options=parse_options(command.engine_options),
    )


def parse_options(words: Sequence[str]) -> dict[str, Json]:
    """Engine options from ``name=value`` words; values are read as JSON where they are JSON, else as text."""
    import json

    from eval_math.errors import BadInput

    options: dict[str, Json] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise BadInput(f"--engine-options: {word!r} is not name=value")
        try:
            options[name.replace("-", "_")] = json.loads(text)
        except json.JSONDecodeError:
            options[name.replace("-", "_")] = {"True": True, "False": False, "None": None}.get(text, text)
    return options


def _sampling(command: Eval, engine: Engine | None) -> Sampling:
    from eval_math.records import Sampling

    length = engine.identity.settings.get("max_model_len") if engine else None
    room = min(length, LONGEST_OUTPUT_TOKENS) if isinstance(length, int) else UNKNOWN_LENGTH_TOKENS
    return Sampling(
        max_tokens=room if command.max_tokens is None else command.max_tokens,
        temperature=command.temperature,
        top_p=command.top_p,
        top_k=command.top_k,
    )


def _check_flags(command: Eval) -> None:
    """Refuse before the engine is started what cannot work with any engine."""
    from cot.evaluate import EvalConfig

    EvalConfig(command.benchmark, command.n, _sampling(command, None))


def _flags(command: Eval) -> dict[str, Json]:
    """The flags that make this run again, for ``--config``; keys stay out of the file."""
    left_out = {"json", "overwrite", "retry_errors"}
    shown = {name: value for name, value in dataclasses.asdict(command).items() if name not in left_out}
    shown["engine_options"] = tuple(word for word in command.engine_options if not word.startswith(SECRET_OPTIONS))
    return {
        name: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for name, v in shown.items()
    }


def _show(command: Eval, folder: Path) -> None:
    from eval_math.report import format_table, write_report
    from eval_math.summary import figures_json, write_summary

    from .command import write_figures

    row = write_summary(folder)
    page = folder / "report.html"
    write_report([folder], page)
    stream = sys.stderr if command.json == "-" else sys.stdout
    print(format_table([row]), f"\nrun: {folder}\nreport: {page}", sep="\n", file=stream)
    write_figures(command.json, {"folder": str(folder), **figures_json(row)})
