"""The figures of a run, `SummaryRow`, and summary.json.

What counts how:

- accuracy is the mean over problems of the mean over samples. Unparsable answers, timeouts and engine errors are not
  correct. Traces whose reference answer cannot be read (``gold_unparsable``) or that have no grade yet are left out;
- tokens are averaged the same way over all traces but engine errors; cut-off traces count with their full length;
- thinking tokens are charged with probes, which a method decodes and throws away, and with latent steps, each a pass of
  the model: `probe_tokens_mean` and `latent_steps_mean` of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .efficiency import tokens_per_correct
from .files import write_json
from .records import SCHEMA, Json
from .runtable import GENERATED, UNGRADED, RunTable, read_run
from .statistics import Interval, percentile, share_interval, token_interval, wilson
from .votes import RepeatedRow, repeated_row


@dataclass(frozen=True)
class SummaryRow:
    """One run in figures. Rates are fractions, bounds are of 95% intervals; NaN where there is nothing to average."""

    run: str
    """Name of the run's folder."""
    method: str
    benchmark: str
    model: str
    n: int
    """Traces."""
    n_problems: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """Wilson for one sample per problem, bootstrap over problems for several."""
    thinking_tokens_mean: float
    """Probes and latent steps included, as in all figures of thinking tokens here."""
    thinking_tokens_low: float
    thinking_tokens_high: float
    """Student's t over the problems' means, on the logarithm of their mean."""
    thinking_tokens_p95: float
    answer_tokens_mean: float
    answer_tokens_p95: float
    probe_tokens_mean: float
    """How many of the thinking tokens are probes."""
    latent_steps_mean: float
    tokens_per_correct: float
    """All generated tokens, those of wrong answers and probes included, for each correct answer."""
    tokens_per_correct_low: float
    tokens_per_correct_high: float
    thinking_tokens_correct: float
    """Mean over the correct traces alone, and over the others: a method may shorten only where it fails."""
    thinking_tokens_wrong: float
    truncated: int
    """Traces cut off at the token limit."""
    looping: int
    """Traces that end in a loop."""
    fallback: int
    """Graded traces whose answer was guessed from its position: a loss of format, not of reasoning."""
    correct: int
    incorrect: int
    unparsable: int
    timeouts: int
    gold_unparsable: int
    errors: int
    """Traces the engine failed on."""
    ungraded: int
    tokens_per_second: float
    """Generated tokens, probes included, per second of `seconds`."""
    seconds: float
    """Wall seconds of generating, where run.json notes them (``generation_seconds``, at the top or per session). Else
    the sum of the traces' own seconds, as if one had followed the other: `tokens_per_second` is then the speed of one
    stream."""
    repeated: RepeatedRow | None = None
    """For runs with several samples per problem."""


def summarise(run: Path) -> SummaryRow:
    """The figures of one run folder.

    Raises:
        BadInput: not a run folder, or a damaged file (named with its line).
    """
    return summarise_table(read_run(run))


def summarise_runs(runs: Sequence[Path]) -> list[SummaryRow]:
    """`summarise` of each."""
    return [summarise(run) for run in runs]


def write_summary(run: Path) -> SummaryRow:
    """Summarise a run folder into its summary.json, which is replaced in one step."""
    row = summarise(run)
    write_json(run / "summary.json", summary_json([row]))
    return row


def summary_json(rows: Sequence[SummaryRow]) -> dict[str, Any]:
    """The object of summary.json, ``{"schema", "rows"}``."""
    return {"schema": SCHEMA, "rows": [figures_json(row) for row in rows]}


def figures_json(figures: Any) -> Any:
    """A dataclass of figures as JSON: NaN becomes null."""
    if dataclasses.is_dataclass(figures) and not isinstance(figures, type):
        return {f.name: figures_json(getattr(figures, f.name)) for f in dataclasses.fields(figures)}
    if isinstance(figures, tuple | list):
        return [figures_json(item) for item in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def summarise_table(table: RunTable) -> SummaryRow:
    """The figures of a run that has been read."""
    alive = ~table.failed
    accuracy = _accuracy(table)
    thinking = token_interval(known(table.tokens_by_problem("thinking")))
    seconds = generation_seconds(table)
    generated = sum(int(table.tokens[kind].sum()) for kind in GENERATED)
    spent = _tokens_per_correct(table)
    right = table.having("correct") & alive
    return SummaryRow(
        run=table.name,
        method=table.method,
        benchmark=table.benchmark,
        model=table.model,
        n=len(table.problem),
        n_problems=len(table.problem_ids),
        accuracy=accuracy.value,
        accuracy_low=accuracy.low,
        accuracy_high=accuracy.high,
        thinking_tokens_mean=thinking.value,
        thinking_tokens_low=thinking.low,
        thinking_tokens_high=thinking.high,
        thinking_tokens_p95=percentile(table.tokens["thinking"][alive], 95),
        answer_tokens_mean=_mean(table.tokens_by_problem("answer")),
        answer_tokens_p95=percentile(table.tokens["answer"][alive], 95),
        probe_tokens_mean=_mean(table.tokens_by_problem("probe")),
        latent_steps_mean=_mean(table.tokens_by_problem("latent")),
        tokens_per_correct=spent.value,
        tokens_per_correct_low=spent.low,
        tokens_per_correct_high=spent.high,
        thinking_tokens_correct=_mean(table.tokens["thinking"][right].astype(np.float64)),
        thinking_tokens_wrong=_mean(table.tokens["thinking"][~right & alive & table.judged].astype(np.float64)),
        truncated=int(table.truncated.sum()),
        looping=int(table.looping.sum()),
        fallback=int((table.fallback & alive).sum()),
        correct=int(right.sum()),
        incorrect=int((table.having("incorrect") & alive).sum()),
        unparsable=int((table.having("unparsable") & alive).sum()),
        timeouts=int((table.having("timeout") & alive).sum()),
        gold_unparsable=int(table.having("gold_unparsable").sum()),
        errors=int(table.failed.sum()),
        ungraded=int(((table.status == UNGRADED) & alive).sum()),
        tokens_per_second=generated / seconds if seconds > 0 else math.nan,
        seconds=seconds,
        repeated=None if table.one_sample else repeated_row(table),
    )


def generation_seconds(table: RunTable) -> float:
    """Wall seconds of generating, see `SummaryRow.seconds`."""
    sessions = table.info.get("sessions")
    noted = [table.info, *(sessions if isinstance(sessions, list) else [])]
    found = [_number(each, "generation_seconds") for each in noted if isinstance(each, Mapping)]
    return sum(found) if any(found) else float(table.seconds.sum())


def known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The values that are not NaN."""
    return values[~np.isnan(values)]


def _number(row: Mapping[str, Json], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _accuracy(table: RunTable) -> Interval:
    scores = known(table.accuracy_by_problem())
    solved = bool(scores.size) and float(scores.min()) == float(scores.max())
    # A bootstrap over equal values has no width; as many problems with one sample each are the cautious reading.
    if table.one_sample or (solved and scores[0] in (0.0, 1.0)):
        return wilson(int(scores.sum()), scores.size)
    return share_interval(scores)


def _tokens_per_correct(table: RunTable) -> Interval:
    accuracy, tokens = table.accuracy_by_problem(), table.tokens_of_judged(*GENERATED)
    counted = ~np.isnan(accuracy) & ~np.isnan(tokens)
    return tokens_per_correct(accuracy[counted], tokens[counted])


def _mean(values: npt.NDArray[np.float64]) -> float:
    counted = known(values)
    return float(counted.mean()) if counted.size else math.nan
