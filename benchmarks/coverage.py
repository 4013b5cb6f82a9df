"""Do the 95% intervals hold what they say? Each is simulated many times, and how often it covers the truth counted.

Studies are drawn anew each time: a true accuracy, problems of different difficulty, token counts with a long tail,
methods that shorten and change some verdicts. A fixed accuracy would show the lattice of a count, not the interval.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval_math.efficiency import accuracy_token_area, aes, aes_interval, tokens_per_correct
from eval_math.files import write_json
from eval_math.repeated import Counts, over_problems, pass_at_k
from eval_math.statistics import (
    Bootstrap,
    Floats,
    Interval,
    difference_interval,
    saving_interval,
    share_interval,
    token_interval,
    wilson,
)

LOWEST, HIGHEST = 0.93, 0.97
TAIL = 0.7
"""Standard deviation of the logarithm of token counts: the longest of 1,000 is about ten times the median."""


@dataclass(frozen=True)
class Trial:
    """One simulated study: the interval it reports and the truth it should hold."""

    found: Interval
    truth: float

    @property
    def covered(self) -> bool:
        return self.found.low <= self.truth <= self.found.high


Study = Callable[[np.random.Generator, int, Bootstrap], Trial]


@dataclass(frozen=True)
class Pair:
    """Accuracy and tokens by problem, before and after; (problems,) each."""

    right: Floats
    tokens: Floats
    right_after: Floats
    tokens_after: Floats
    accuracy: float
    accuracy_after: float
    saved: float


def tokens(rng: np.random.Generator, n: int) -> Floats:
    """Long-tailed counts with mean 400."""
    return rng.lognormal(math.log(400) - TAIL**2 / 2, TAIL, n)


def pair(rng: np.random.Generator, n: int) -> Pair:
    """A method that keeps a random share of the tokens, gains some problems and loses some."""
    accuracy, gained, lost = rng.uniform(0.1, 0.95), rng.uniform(0.05, 0.3), rng.uniform(0.01, 0.1)
    right = (rng.random(n) < accuracy).astype(float)
    chance = np.where(right == 1, 1 - lost, gained)
    before, kept = tokens(rng, n), rng.uniform(0.2, 0.9)
    after = before * kept * rng.lognormal(-0.045, 0.3, n)
    return Pair(
        right,
        before,
        (rng.random(n) < chance).astype(float),
        after,
        accuracy,
        accuracy * (1 - lost) + (1 - accuracy) * gained,
        1 - kept,
    )


def accuracy(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    truth = rng.uniform(0.02, 0.98)
    return Trial(wilson(int(rng.binomial(n, truth)), n), truth)


def repeated_accuracy(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    a, b = rng.uniform(0.3, 3, 2)
    rates = rng.beta(a, b, n)
    return Trial(share_interval(rng.binomial(8, rates) / 8, bootstrap), a / (a + b))


def pass_at_4_of_16(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    a, b = rng.uniform(0.3, 3, 2)
    counts = [Counts(16, int(c)) for c in rng.binomial(16, rng.beta(a, b, n))]
    missed = math.exp(math.lgamma(b + 4) + math.lgamma(a + b) - math.lgamma(b) - math.lgamma(a + b + 4))
    return Trial(over_problems(counts, lambda c: pass_at_k(c, 4), bootstrap), 1 - missed)


def mean_tokens(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    return Trial(token_interval(tokens(rng, n)), 400.0)


def paired_difference(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    p = pair(rng, n)
    return Trial(difference_interval(p.right, p.right_after, bootstrap), p.accuracy_after - p.accuracy)


def token_saving(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    p = pair(rng, n)
    return Trial(saving_interval(p.tokens, p.tokens_after, bootstrap), p.saved)


def correct_price(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    p = pair(rng, n)
    return Trial(tokens_per_correct(p.right, p.tokens, bootstrap), 400 / p.accuracy)


def efficiency_score(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    p = pair(rng, n)
    truth = aes(p.accuracy_after, 400 * (1 - p.saved), base_accuracy=p.accuracy, base_tokens=400)
    return Trial(aes_interval((p.right, p.tokens), (p.right_after, p.tokens_after), bootstrap=bootstrap), truth)


def area(rng: np.random.Generator, n: int, bootstrap: Bootstrap) -> Trial:
    truth = rng.uniform(0.1, 0.95)
    # Tokens uniform on 0..1000: half of the budget is left on average.
    found = accuracy_token_area(rng.random(n) < truth, rng.uniform(0, 1000, n), 1000, bootstrap)
    return Trial(found, truth / 2)


STUDIES: dict[str, Study] = {
    "accuracy, one sample (Wilson)": accuracy,
    "accuracy, 8 samples (bootstrap)": repeated_accuracy,
    "pass@4 of 16 samples": pass_at_4_of_16,
    "mean tokens": mean_tokens,
    "paired accuracy difference": paired_difference,
    "paired token saving": token_saving,
    "tokens per correct answer": correct_price,
    "AES": efficiency_score,
    "accuracy-token area": area,
}


def coverage(study: Study, problems: int, studies: int, seed: int) -> Interval:
    """Share of simulated studies whose interval covers the truth."""
    rng = np.random.default_rng([seed, problems])
    covered = sum(study(rng, problems, Bootstrap(draws=1_000, seed=i)).covered for i in range(studies))
    return wilson(covered, studies)


def main() -> int:
    parser = argparse.ArgumentParser(description="coverage of the 95% intervals by simulation")
    parser.add_argument("--problems", type=int, nargs="+", default=[100, 500, 1319])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found = {
        (name, problems): coverage(study, problems, chosen.studies, chosen.seed)
        for name, study in STUDIES.items()
        for problems in chosen.problems
    }
    for (name, problems), share in found.items():
        print(f"{name:<34}{problems:>6} problems  {share.value:.3f} [{share.low:.3f}, {share.high:.3f}]")
    if chosen.json:
        rows = [{"interval": n, "problems": p, "coverage": s.value} for (n, p), s in found.items()]
        write_json(chosen.json, {"studies": chosen.studies, "seed": chosen.seed, "rows": rows})
    return 0 if all(LOWEST <= share.value <= HIGHEST for share in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
