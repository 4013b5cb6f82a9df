"""Two runs problem by problem: what a method changed, with paired intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .efficiency import aes_interval
from .equality import MARGIN, Equality, equality, problems_needed, smallest_difference
from .errors import BadInput
from .runtable import GENERATED, Counted, RunTable, read_run
from .statistics import STANDARD, Bootstrap, Interval, bootstrap_interval, difference_interval, mcnemar, saving_interval


@dataclass(frozen=True)
class Comparison:
    """A run against a baseline on the problems that both have.

    Differences are run minus baseline; a saving is 1 - run / baseline of the mean tokens, so positive is shorter.
    """

    run: str
    """Name of the run's folder; `baseline_run` is that of the baseline."""
    baseline_run: str
    method: str
    baseline: str
    benchmark: str
    n_problems: int
    """Problems that both runs have; the accuracy difference leaves out those without a verdict in either."""
    unmatched: int
    """Problems that only one of the two has; they are left out."""
    accuracy_difference: Interval
    mcnemar_p: float | None
    """Exact and two-sided; None where a problem has several samples."""
    thinking_difference: Interval
    """Tokens per problem."""
    thinking_saving: Interval
    total_saving: Interval
    """Of thinking, answer and probe tokens together."""
    both_right: int
    """Problems that both runs solve in every sample; `both_wrong` those that neither ever does."""
    both_wrong: int
    margin: float
    """Loss of accuracy, as a fraction, that still counts as equal."""
    equal_accuracy: Equality
    """Is accuracy kept to within the margin? See `equality`."""
    aes: Interval
    """Accuracy-efficiency score with its usual weights 1, 3, 5, of all generated tokens."""
    smallest_visible: float
    """Difference in accuracy that so many problems show with a chance of 80% (at 5%, two-sided); NaN if none, and for
    several samples per problem."""
    problems_for_a_point: int | None
    """Problems it would take to show a difference of one point, if as large a share of them differs."""
    gained: tuple[str, ...]
    """Ids of the problems with a higher accuracy than in the baseline."""
    lost: tuple[str, ...]
    bootstrap: Bootstrap


def compare(baseline: Path, run: Path, bootstrap: Bootstrap = STANDARD, *, margin: float = MARGIN) -> Comparison:
    """Compare two run folders.

    Args:
        margin: loss of accuracy, as a fraction, that still counts as equal.

    Raises:
        BadInput: a damaged folder, two benchmarks, or no problem in common.
    """
    return compare_tables(read_run(baseline), read_run(run), bootstrap, margin=margin)


def compare_tables(
    baseline: RunTable, run: RunTable, bootstrap: Bootstrap = STANDARD, *, margin: float = MARGIN
) -> Comparison:
    """`compare` for runs that have been read."""
    pair = _matched(baseline, run)
    change = pair.after - pair.before
    judged = ~np.isnan(change)
    gained = tuple(run.problem_ids[i] for i in pair.others[change > 0])
    lost = tuple(run.problem_ids[i] for i in pair.others[change < 0])
    thinking, total = pair.tokens("thinking"), pair.tokens(*GENERATED)
    single = baseline.one_sample and run.one_sample
    difference = difference_interval(pair.before[judged], pair.after[judged], bootstrap)
    power = _power(int(judged.sum()), len(gained) + len(lost)) if single else _Power(math.nan, None)
    return Comparison(
        run=run.name,
        baseline_run=baseline.name,
        method=run.method,
        baseline=baseline.method,
        benchmark=run.benchmark,
        n_problems=len(change),
        unmatched=len(baseline.problem_ids) + len(run.problem_ids) - 2 * len(change),
        accuracy_difference=difference,
        mcnemar_p=mcnemar(len(gained), len(lost)) if single and judged.any() else None,
        thinking_difference=bootstrap_interval(thinking[1] - thinking[0], bootstrap),
        thinking_saving=saving_interval(thinking[0], thinking[1], bootstrap),
        total_saving=saving_interval(total[0], total[1], bootstrap),
        both_right=int(((pair.before == 1) & (pair.after == 1)).sum()),
        both_wrong=int(((pair.before == 0) & (pair.after == 0)).sum()),
        margin=margin,
        equal_accuracy=equality(difference, margin),
        aes=_aes(pair, bootstrap),
        smallest_visible=power.smallest,
        problems_for_a_point=power.for_a_point,
        gained=gained,
        lost=lost,
        bootstrap=bootstrap,
    )


@dataclass(frozen=True)
class _Pair:
    """Two runs with the indices of their common problems, (problems,) each and in the same order."""

    baseline: RunTable
    run: RunTable
    rows: npt.NDArray[np.int64]
    others: npt.NDArray[np.int64]

    @property
    def before(self) -> npt.NDArray[np.float64]:
        return self.baseline.accuracy_by_problem()[self.rows]

    @property
    def after(self) -> npt.NDArray[np.float64]:
        return self.run.accuracy_by_problem()[self.others]

    def tokens(self, *kinds: Counted) -> npt.NDArray[np.float64]:
        """(2, problems): baseline and run, problems on which either engine failed left out."""
        both = np.stack(
            [self.baseline.tokens_by_problem(*kinds)[self.rows], self.run.tokens_by_problem(*kinds)[self.others]]
        )
        return both[:, ~np.isnan(both).any(axis=0)]


@dataclass(frozen=True)
class _Power:
    smallest: float
    for_a_point: int | None


def _power(problems: int, differing: int) -> _Power:
    if not differing:
        return _Power(math.nan, None)
    share = differing / problems
    needed = problems_needed(0.01, share) if share >= 0.01 else None
    return _Power(smallest_difference(problems, share), needed)


def _aes(pair: _Pair, bootstrap: Bootstrap) -> Interval:
    """Of the problems with a verdict and tokens in both runs."""
    tokens = [
        pair.baseline.tokens_by_problem(*GENERATED)[pair.rows],
        pair.run.tokens_by_problem(*GENERATED)[pair.others],
    ]
    kept = ~np.isnan(np.stack([*tokens, pair.before, pair.after])).any(axis=0)
    return aes_interval((pair.before[kept], tokens[0][kept]), (pair.after[kept], tokens[1][kept]), bootstrap=bootstrap)


def _matched(baseline: RunTable, run: RunTable) -> _Pair:
    if baseline.benchmark != run.benchmark:
        raise BadInput(
            f"{run.folder} is a run on {run.benchmark!r}, {baseline.folder} one on {baseline.benchmark!r}: "
            "only runs on the same benchmark can be compared"
        )
    place = {problem: row for row, problem in enumerate(baseline.problem_ids)}
    found = [(place[problem], row) for row, problem in enumerate(run.problem_ids) if problem in place]
    if not found:
        raise BadInput(
            f"{run.folder} and {baseline.folder} have no problem in common: "
            "run both with the same split, limit and seed of problems"
        )
    rows, others = np.array(found, dtype=np.int64).T
    return _Pair(baseline, run, rows, others)
