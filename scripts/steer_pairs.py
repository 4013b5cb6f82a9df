"""`laconic steer pairs`: long and short traces of the same problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from steering.pairs import PairSet


@dataclass(frozen=True)
class SteerPairs:
    """Make pairs from graded runs of one model (longest and shortest correct trace of a problem) or from a file."""

    runs: tuple[Path, ...] = ()
    """Run folders: one with several samples per problem, or several, e.g. a verbose and a concise one."""
    short: Literal["self", "solution", "writer"] = "self"
    """Where the short side comes from: the same runs, the benchmark's solutions, or --short-runs."""
    short_runs: tuple[Path, ...] = ()
    """Run folders of another writer, e.g. of `laconic eval --engine openai --method concise`."""
    file: Path | None = None
    """JSON lines with problem (or question), long, short; gold or answer, if there, is used for grading."""
    out: Path = Path("pairs.jsonl")
    """Where the pairs go; the dropped ones go to NAME.dropped.jsonl beside it, with their reasons."""
    model: str = "embedded"
    """Model to be steered: its tokenizer counts the tokens of --file."""
    ratio_max: float = 0.7
    """The short side has fewer tokens than this share of the long side's."""
    max_tokens: int | None = None
    """Longest side in tokens; default: any for --runs, what the model takes for --file."""
    grade: bool = True
    """Grade both sides of --file where it has a reference answer."""
    json: str | None = None
    """Write the counts as one JSON object to this file, - for standard output."""


def run(command: SteerPairs) -> int:
    """Make, filter and store the pairs; 2 if none is left."""
    import sys

    from eval_math.errors import BadInput
    from steering.pairs import save_pairs

    from .command import write_figures

    if bool(command.runs) == (command.file is not None):
        raise BadInput("give either --runs FOLDER... or --file FILE.jsonl")
    found = _from_file(command) if command.file is not None else _from_runs(command)
    beside = save_pairs(found, command.out)
    counts = found.counts()
    shown = sys.stderr if command.json == "-" else sys.stdout
    for name, count in counts.items():
        print(f"{name:<14}{count:>7}", file=shown)
    print(f"pairs: {command.out}\ndropped, with reasons: {beside}", file=shown)
    write_figures(command.json, {**counts, "out": str(command.out)})
    if not found.pairs:
        raise BadInput(f"no pair is left of {counts['read']}; the reasons are in {beside}")
    return 0


def _from_runs(command: SteerPairs) -> PairSet:
    from cot.chat import open_chat, resolve_model
    from eval_math.errors import BadInput
    from steering.pairs import PairRules, make_pairs, pairs_from_solutions, pairs_from_writer

    rules = PairRules(command.ratio_max, command.max_tokens)
    if (command.short == "writer") != bool(command.short_runs):
        raise BadInput("--short writer and --short-runs FOLDER... belong together")
    if command.short == "self":
        return make_pairs(command.runs, rules)
    chat = open_chat(resolve_model(command.model))

    def n_tokens(text: str) -> int:
        return len(chat.encode(text))

    if command.short == "solution":
        return pairs_from_solutions(command.runs, n_tokens, rules)
    return pairs_from_writer(command.runs, command.short_runs, n_tokens, rules)


def _from_file(command: SteerPairs) -> PairSet:
    from cot.chat import max_length, open_chat, resolve_model
    from steering.pairs import PairRules, pairs_from_file, verdict_by_gold

    assert command.file is not None
    folder = resolve_model(command.model)
    chat = open_chat(folder)
    rules = PairRules(command.ratio_max, command.max_tokens or max_length(folder, None))
    verdict = verdict_by_gold if command.grade else None
    return pairs_from_file(command.file, lambda text: len(chat.encode(text)), verdict, rules)
