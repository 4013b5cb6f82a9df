"""Steering in the embedded reasoner's model card: every way of reading a vector, its curve, and the null baselines."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cot.budget import Cut
from cot.embedded.card import CardPlan, Part, Record, Rounds, Table, decoding_name, finding_row
from cot.embedded.probes import Finding, Probe, saving
from cot.embedded.problems import EmbeddedProblem, make_problems
from cot.embedded.traces import write_trace
from cot.engine import Engine, EngineConfig
from cot.engines import open_engine
from cot.method import Method
from eval_math.records import Pair

from .asc import Asc
from .ces import CesConfig
from .extraction import Recipe, extract
from .learned import learn_vector
from .vector import SteeringVector, load_vector, save_vector

log = logging.getLogger(__name__)

PAIRS = 100
STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Length of what is added, as a share of the mean norm of the states at the block."""
LOSS_ALLOWED = 0.02
READINGS: dict[str, Recipe] = {
    "last token, mean": Recipe(pooling="last"),
    "last token, median": Recipe(pooling="last", estimator="median"),
    "last token, first component": Recipe(pooling="last", estimator="pca_center"),
    "boundaries, mean": Recipe(pooling="boundary"),
    "all tokens, mean": Recipe(pooling="mean_response"),
}
PAPER = "last token, mean"
LEARNED = "learned (CES)"
LEARNING = CesConfig(0, steps=100, learning_rate=0.4, pairs_per_step=4)
"""Faster than the paper's 3,000 steps at 0.01: the model is small and so is the time."""


def traced_pairs(count: int = PAIRS, seed: int = 0) -> list[Pair]:
    """A short (level 0) and a long (level 3 or 4) written trace of each of ``count`` train problems."""
    rng = random.Random(f"vector:{seed}")
    return [_pair(problem, rng) for problem in make_problems("train", count, seed=seed)]


def _pair(problem: EmbeddedProblem, rng: random.Random) -> Pair:
    short, long = write_trace(problem, 0, rng), write_trace(problem, rng.choice((3, 4)), rng)
    return Pair(problem.id, problem.question, f"{long}</think>", f"{short}</think>", "written:embedded")


@dataclass(frozen=True)
class SteeringSection:
    """A sweep on dev problems for every reading, then the paper's reading and the null baselines on test problems."""

    title: str = "Steering"
    pairs: int = PAIRS
    strengths: tuple[float, ...] = STRENGTHS

    def rounds(self, model: Path, folder: Path, plan: CardPlan) -> Rounds:
        """Sweep, then test."""
        vectors = read_vectors(model, folder / "vectors", self.pairs, [PAPER] if plan.brief else [*READINGS, LEARNED])
        base = Probe("steering", "unsteered", Method(), split="dev", count=plan.sweep)
        sweep = [probe for name, path in vectors.items() for probe in self._points(name, path, plan)]
        swept = yield [base, *sweep]
        chosen = {name: best_point(swept[0], _of(swept[1:], path)) for name, path in vectors.items()}
        tables = [Table(f"Dev problems, greedy; vectors from {self.pairs} pairs.", _sweep_rows(swept))]
        figures: Record = {"dev": [_point_record(each) for each in swept]}
        best = chosen[PAPER]
        if best is not None:
            tested = yield _test_probes(best, chosen, vectors[PAPER], plan, self.strengths)
            tested += yield [_cut_probe(tested, plan)]
            figures |= _test_figures(tested)
            tables.append(Table("Test problems; changes are paired with the unsteered run.", _test_rows(tested)))
        return Part(self.title, NOTE, figures, tables)

    def _points(self, name: str, path: Path, plan: CardPlan) -> list[Probe]:
        blocks = sorted(load_vector(path).directions)[-2:]
        return [
            Probe("steering", name, Asc(str(path), block, strength), split="dev", count=plan.sweep)
            for block in blocks
            for strength in self.strengths
        ]


NOTE = """Vector: from pairs of written traces of train problems (level 0 minus level 3 or 4), added to the output of a
block at the last prompt token and every thinking token. Strength is the length of what is added, as a share of the mean
norm of the states there. The best point of a reading is the shortest that loses at most two points on dev problems.
"""


def best_point(base: Finding, points: Sequence[Finding]) -> Finding | None:
    """The shortest point that loses at most two points of accuracy, None if none does."""
    allowed = [point for point in points if point.accuracy >= base.accuracy - LOSS_ALLOWED]
    return min(allowed, key=lambda point: point.thinking_tokens, default=None)


def read_vectors(model: Path, folder: Path, pairs: int, readings: Sequence[str]) -> dict[str, Path]:
    """Vector files by reading, those missing in ``folder`` made first."""
    paths = {name: folder / f"{_slug(name)}.safetensors" for name in readings}
    missing = [name for name in readings if not paths[name].is_file()]
    if missing:
        engine = open_engine(EngineConfig(str(model), "hf"))
        try:
            for name in missing:
                save_vector(_read_vector(engine, traced_pairs(pairs), name), paths[name])
        finally:
            engine.close()
    return paths


def _read_vector(engine: Engine, pairs: Sequence[Pair], reading: str) -> SteeringVector:
    """One reading of the pairs; its strength counts in shares of the residual norm."""
    vector = extract(engine, pairs, READINGS.get(reading, READINGS[PAPER])).vector
    vector = replace(vector, info=replace(vector.info, gamma_unit="resid"))
    if reading != LEARNED:
        return vector
    return learn_vector(engine, pairs, vector, [replace(LEARNING, block=b) for b in sorted(vector.directions)[-2:]])


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def _of(findings: Sequence[Finding], path: Path) -> list[Finding]:
    return [each for each in findings if isinstance(each.probe.method, Asc) and each.probe.method.vector == str(path)]


def _test_probes(
    best: Finding, chosen: dict[str, Finding | None], vector: Path, plan: CardPlan, strengths: Sequence[float]
) -> list[Probe]:
    """Unsteered, the best point greedy and sampled, nulls of equal norm, the other readings' best, and the curve."""
    method = best.probe.method
    assert isinstance(method, Asc)

    def probe(label: str, method: Method, temperature: float = 0.0, count: int = plan.problems) -> Probe:
        return Probe("steering", label, method, temperature, plan.split, count)

    half = max(1, plan.problems // 2)
    nulls = [
        probe(f"random direction, seed {s}", replace(method, direction="random", seed=s), 0.0, half) for s in range(3)
    ]
    others = [
        probe(f"best of: {name}", found.probe.method)
        for name, found in chosen.items()
        if found is not None and name != PAPER
    ]
    curve = [probe("curve", replace(method, strength=strength), 0.0, half) for strength in strengths]
    if plan.brief:
        nulls, curve = nulls[:1], []
    return [
        probe("unsteered", Method()),
        probe("unsteered", Method(), 0.6),
        probe("steered", method),
        probe("steered", method, 0.6),
        *nulls,
        probe("negative direction", replace(method, direction="negative"), 0.0, half),
        *others,
        *curve,
    ]


def _cut_probe(tested: Sequence[Finding], plan: CardPlan) -> Probe:
    """Thinking cut at the steered run's mean length, the answer forced: the null baseline at equal tokens."""
    steered = next(each for each in tested if each.probe.label == "steered")
    return Probe("steering", "cut at equal length", Cut(max(2, round(steered.thinking_tokens))), 0.0, plan.split,
                 plan.problems)  # fmt: skip


def _baseline(tested: Sequence[Finding], temperature: float) -> Finding:
    return next(e for e in tested if e.probe.label == "unsteered" and e.probe.temperature == temperature)


def _test_figures(tested: Sequence[Finding]) -> Record:
    return {
        "test": [
            {**_point_record(each), **saving(_baseline(tested, each.probe.temperature), each)}
            for each in tested
            if each.probe.label != "unsteered"
        ],
        "unsteered": [each.record() for each in tested if each.probe.label == "unsteered"],
    }


def _point_record(found: Finding) -> Record:
    method = found.probe.method
    place = {"block": method.block, "strength": method.strength} if isinstance(method, Asc) else {}
    return {**found.record(), **place}


def _sweep_rows(swept: Sequence[Finding]) -> list[Record]:
    """One row per reading and block, one column per strength: accuracy at tokens."""
    rows: dict[tuple[str, int], Record] = {}
    for found in swept[1:]:
        method = found.probe.method
        assert isinstance(method, Asc) and method.block is not None
        row = rows.setdefault((found.probe.label, method.block), {"reading": found.probe.label, "block": method.block})
        row[f"{method.strength}"] = f"{found.accuracy:.3f} at {found.thinking_tokens:.0f}"
    base = {"reading": f"unsteered: {swept[0].accuracy:.3f} at {swept[0].thinking_tokens:.0f} (n={swept[0].n})"}
    return [*rows.values(), base]


def _test_rows(tested: Sequence[Finding]) -> list[Record]:
    rows = []
    for found in tested:
        method = found.probe.method
        setting = f"block {method.block}, strength {method.strength}" if isinstance(method, Asc) else ""
        row = {**finding_row(found), "setting": setting, "decoding": decoding_name(found)}
        if found.probe.label != "unsteered":
            paired = saving(_baseline(tested, found.probe.temperature), found)
            row["saved %"] = _percent(paired["saved"])
            row["accuracy change, points"] = _percent(paired["accuracy_change"])
        rows.append(row)
    return rows


def _percent(values: Sequence[float]) -> str:
    value, low, high = (100 * each for each in values)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
