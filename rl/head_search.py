"""From a model and problems to a `HeadTable` in a folder, by any of the ways to score heads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cot.chat import model_hash, resolve_model
from eval_math.errors import BadInput
from eval_math.files import read_rows, write_atomic
from eval_math.records import Json, Problem
from eval_math.report.curve import Axes, draw_curves

from .curriculum import Solved, draw_by_length, solved
from .gates import Window, gated
from .head_scores import Distillation, DistillationConfig, ablate
from .head_table import HeadTable, save_table
from .policies import live_engine, load_whole
from .rlkv import GatedPolicy, Rlkv, RlkvConfig

Way = Literal["rlkv", "ablation", "distillation"]
TABLE, TEXT, SOLVED, CURVES = "heads.safetensors", "heads.tsv", "solved.jsonl", "curves.svg"


@dataclass(frozen=True)
class HeadSearch:
    """What is searched, where and on what."""

    model: str
    out: Path
    problems: Sequence[Problem]
    """Those that the model answers correctly are drawn from."""
    drawn: int = 3000
    """Problems that the search sees."""
    batch_size: int = 64
    """Answers decoded at once."""
    device: str = "cpu"
    seed: int = 0
    """Of the drawing."""


def find_heads(search: HeadSearch, config: RlkvConfig | DistillationConfig | Window, max_tokens: int) -> HeadTable:
    """Score the heads and write heads.safetensors and heads.tsv; goes on where an earlier call was stopped.

    Args:
        config: of `rlkv` or `distillation`; a window alone asks for `ablation`.
        max_tokens: longest answer.

    Raises:
        BadInput: no problem is solved, the model has no heads to gate, or the folder is of another search.
    """
    search.out.mkdir(parents=True, exist_ok=True)
    model = load_whole(resolve_model(search.model)).to(search.device).eval()
    engine = live_engine(model, search.model, search.batch_size)
    found = _solved(search, engine, max_tokens)
    window = config if isinstance(config, Window) else Window(config.sink, config.recent)
    with gated(model, window) as gates:
        scores = _score(GatedPolicy(model, engine, gates), found, config, search.out)
    about: dict[str, Json] = {
        "model": search.model,
        "model_hash": model_hash(resolve_model(search.model)),
        "solved": len(found),
        "settings": json.loads(json.dumps(asdict(config))),
    }
    table = HeadTable(tuple(tuple(row) for row in scores), _way(config), about)
    save_table(table, search.out / TABLE)
    save_table(table, search.out / TEXT)
    return table


def _way(config: RlkvConfig | DistillationConfig | Window) -> Way:
    if isinstance(config, Window):
        return "ablation"
    return "rlkv" if isinstance(config, RlkvConfig) else "distillation"


def _score(
    policy: GatedPolicy, found: Sequence[Solved], config: RlkvConfig | DistillationConfig | Window, out: Path
) -> list[list[float]]:
    if isinstance(config, Window):
        return ablate(policy, found, out)
    if isinstance(config, RlkvConfig):
        rounds = Rlkv(policy, [each.problem for each in found], config, out).run()
    else:
        rounds = Distillation(policy, found, config, out).run()
    write_atomic(out / CURVES, _curves(rounds))
    return [[float(value) for value in row] for row in policy.gates.values.detach()]


def _curves(rounds: Sequence[Mapping[str, float]]) -> str:
    """Reward or error, and the mean gate, by round."""
    shown = [name for name in ("reward", "error", "gate_mean") if name in rounds[0]]
    lines = {name.replace("_", " "): [(row["update"], row[name]) for row in rounds] for name in shown}
    return draw_curves(lines, Axes("Search for heads", "round", "reward, error, mean gate"))


def _solved(search: HeadSearch, engine: Any, max_tokens: int) -> list[Solved]:
    """The drawn problems with their answers, kept in the folder."""
    path, named = search.out / SOLVED, {problem.id: problem for problem in search.problems}
    if not path.is_file():
        answered = solved(engine, search.problems, max_tokens)
        drawn = draw_by_length(answered, search.drawn, search.seed)
        lines = [{"id": each.problem.id, "prompt": list(each.prompt), "said": list(each.said)} for each in drawn]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))
    return [_read(row, named, path) for _, row in read_rows(path)]


def _read(row: Mapping[str, Any], named: Mapping[str, Problem], path: Path) -> Solved:
    problem = named.get(row["id"])
    if problem is None:
        raise BadInput(f"{path}: {row['id']} is none of the problems given; choose another folder")
    return Solved(problem, tuple(row["prompt"]), tuple(row["said"]))
