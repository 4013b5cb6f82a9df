"""What each route brought on each question: success and tokens, from stored runs or from rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput
from eval_math.files import read_records, read_rows
from eval_math.records import Problem, digest
from eval_math.runtable import RunTable, read_run, run_file

Floats = npt.NDArray[np.float64]
FEWEST = 10
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class RouteTable:
    """Questions by routes, routes in rising order of mean tokens."""

    ids: tuple[str, ...]
    questions: tuple[str, ...]
    categories: tuple[str, ...]
    """Of each question, "" where there is none."""
    routes: tuple[str, ...]
    success: Floats
    """Share of correct samples (questions, routes)."""
    tokens: Floats
    """Mean generated tokens (questions, routes)."""
    samples: Floats
    """Samples (questions, routes)."""
    methods: Mapping[str, str]
    """The method of each route that came from runs."""
    truncated: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """Share of samples that were cut off (questions, routes); they count as wrong. Empty where it is not known."""
    groups: tuple[str, ...] = ()
    """Questions of one group share a fold; () = questions of the same words do."""
    model: str = ""
    """The model of all routes, where they came from runs."""

    def __post_init__(self) -> None:
        if len(self.routes) < 2:
            raise BadInput(f"a router needs two routes or more; {len(self.routes)} given: {', '.join(self.routes)}")

    @property
    def fold_names(self) -> tuple[str, ...]:
        """What decides the fold of each question."""
        return self.groups or tuple(map(same_words, self.questions))

    def rows(self, chosen: Sequence[int] | npt.NDArray[np.int64]) -> RouteTable:
        """Those questions alone."""
        at = np.asarray(chosen)
        ids, questions, categories, groups = (
            tuple(each[i] for i in at) if each else () for each in (self.ids, self.questions, self.categories,
                                                                     self.groups)
        )  # fmt: skip
        figures = (self.success[at], self.tokens[at], self.samples[at])
        truncated = self.truncated[at] if len(self.truncated) else self.truncated
        return RouteTable(ids, questions, categories, self.routes, *figures, self.methods, truncated, groups,
                          self.model)  # fmt: skip

    def in_order(self, routes: Sequence[str]) -> RouteTable:
        """The same with its routes in that order.

        Raises:
            BadInput: they are other routes.
        """
        if sorted(routes) != sorted(self.routes):
            raise BadInput(f"the table has routes {', '.join(self.routes)}, the router {', '.join(routes)}")
        at = [self.routes.index(name) for name in routes]
        truncated = self.truncated[:, at] if self.truncated.size else self.truncated
        figures = (self.success[:, at], self.tokens[:, at], self.samples[:, at])
        return RouteTable(self.ids, self.questions, self.categories, tuple(routes), *figures, self.methods, truncated,
                          self.groups, self.model)  # fmt: skip

    def fingerprint(self) -> str:
        """Hash of everything that a fit depends on, whatever the order of rows."""
        columns = (self.ids, self.questions, self.categories, self.fold_names)
        figures = (self.success.tolist(), self.tokens.tolist(), self.samples.tolist())
        return digest({"routes": list(self.routes), "rows": sorted(map(list, zip(*columns, *figures, strict=True)))})


@dataclass(frozen=True)
class Brought:
    """What one route brought on one question."""

    success: float
    tokens: float
    samples: int = 1
    truncated: float = 0.0


Columns = Mapping[str, Mapping[str, Brought]]
"""By route and question."""


def same_words(question: str) -> str:
    """The words of a question in lower case: what two copies share whatever their spaces and signs."""
    return " ".join(_WORD.findall(question.lower())) or question


def table_of_runs(routes: Mapping[str, Sequence[Path]], *, shared_only: bool = False) -> RouteTable:
    """Runs of `laconic eval` by route.

    Args:
        shared_only: leave out questions that a route lacks; else they are refused.

    Raises:
        BadInput: runs of several models, several methods on one route, a question twice on one route, questions that a
            route lacks, or too few questions.
    """
    found: dict[str, dict[str, Brought]] = {}
    problems: dict[str, Problem] = {}
    methods: dict[str, str] = {}
    models: dict[str, str] = {}
    for route, folders in sorted(routes.items()):
        found[route] = {}
        for folder in folders:
            run = read_run(folder)
            models.setdefault(_model_of(run), run.model)
            if methods.setdefault(route, run.method) != run.method:
                raise BadInput(f"{folder}: route {route!r} is {methods[route]!r} in another run, {run.method!r} here")
            problems |= {p.id: p for p in read_records(Problem, run_file(folder, "problems.jsonl"))}
            _add(found[route], _brought(run), f"{folder}: route {route!r}")
    if len(models) > 1:
        raise BadInput(f"runs of several models: {', '.join(sorted(models.values()))}; a router is of one model")
    return _table(problems, found, methods, (shared_only, "".join(models.values())))


def table_of_rows(path: Path, *, shared_only: bool = False) -> RouteTable:
    """Rows {id, question, category?, group?, routes: {name: {success, tokens, samples?, truncated?}}}.

    Or one row per answer: {id, question, category?, group?, route, sample?, correct, tokens, truncated?}; ``correct``
    null counts as wrong.

    Raises:
        BadInput: a row without one of them, an id or an answer twice, or as `table_of_runs`.
    """
    found: dict[str, dict[str, Brought]] = {}
    problems: dict[str, Problem] = {}
    groups: dict[str, str] = {}
    answers: dict[tuple[str, str, int], Brought] = {}
    for number, row in read_rows(path):
        try:
            name = str(row["id"])
            routes = row.get("routes")
            if routes is not None and name in problems:
                raise BadInput(f"{path}, line {number}: id {name!r} is there twice")
            problems[name] = Problem(name, "", str(row["question"]), "", subject=row.get("category"))
            groups |= {name: str(row["group"])} if "group" in row else {}
            if routes is None:
                unit = (str(row["route"]), name, int(row.get("sample", 0)))
                if unit in answers:
                    raise BadInput(f"{path}, line {number}: route, id and sample {unit} are there twice")
                answers[unit] = Brought(bool(row["correct"]), float(row["tokens"]), 1, bool(row.get("truncated")))
            for route, figures in (routes or {}).items():
                found.setdefault(route, {})[name] = _row(figures)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(
                f"{path}, line {number}: {error!r}; {{id, question, routes: {{name: {{success, tokens}}}}}} or {{id, "
                "question, route, correct, tokens}} is expected"
            ) from error
    _pool(found, answers)
    return _table(problems, found, {}, (shared_only, ""), groups)


def _row(figures: Mapping[str, float]) -> Brought:
    found = Brought(float(figures["success"]), float(figures["tokens"]), int(figures.get("samples", 1)),
                    float(figures.get("truncated", 0)))  # fmt: skip
    if not (0 <= found.success <= 1 and 0 <= found.tokens < float("inf") and found.samples >= 1):
        raise ValueError("success is a share, tokens and samples are counts")
    return found


def _pool(found: dict[str, dict[str, Brought]], answers: Mapping[tuple[str, str, int], Brought]) -> None:
    """Means of the samples of each question on each route."""
    units: dict[tuple[str, str], list[Brought]] = {}
    for (route, name, _), each in answers.items():
        units.setdefault((route, name), []).append(each)
    for (route, name), each in units.items():
        n = len(each)
        mean = Brought(sum(a.success for a in each) / n, sum(a.tokens for a in each) / n, n,
                       sum(a.truncated for a in each) / n)  # fmt: skip
        found.setdefault(route, {})[name] = mean


def _model_of(run: RunTable) -> str:
    """What tells models apart: the hash of their weights where a run has one."""
    config = run.info.get("config")
    return str((config.get("model_hash") if isinstance(config, dict) else None) or run.model)


def _brought(run: RunTable) -> dict[str, Brought]:
    """By question; those without a sample that counts for accuracy are left out."""
    counted = np.bincount(run.problem[run.judged], minlength=len(run.problem_ids))
    cut = np.bincount(run.problem[run.judged & run.truncated], minlength=len(run.problem_ids))
    columns = (run.problem_ids, run.accuracy_by_problem(), run.tokens_of_judged("thinking", "answer"), counted, cut)
    return {
        name: Brought(float(accuracy), float(tokens), int(n), float(lost / n))
        for name, accuracy, tokens, n, lost in zip(*columns, strict=True)
        if n
    }


def _add(found: dict[str, Brought], new: Mapping[str, Brought], where: str) -> None:
    for name, each in new.items():
        if name in found:
            raise BadInput(f"{where} has question {name} twice; give each run once, and samples with --n")
        found[name] = each


def _table(
    problems: Mapping[str, Problem], found: Columns, methods: Mapping[str, str], given: tuple[bool, str],
    groups: Mapping[str, str] | None = None,
) -> RouteTable:  # fmt: skip
    shared_only, model = given
    ids = sorted(set.intersection(*(set(rows) for rows in found.values()))) if found else []
    if not ids:
        raise BadInput(
            f"no question has all routes ({', '.join(found) or 'none given'}); run them on the same problems"
        )
    if len(ids) < FEWEST:
        raise BadInput(f"{len(ids)} questions have all routes; at least {FEWEST} are expected")
    _check_missing(found, len(ids), shared_only)
    names = sorted(found)
    means = [float(np.mean([found[route][name].tokens for name in ids])) for route in names]
    routes = tuple(name for _, name in sorted(zip(means, names, strict=True)))
    cells = [[found[route][name] for route in routes] for name in ids]
    success, tokens, samples, truncated = (
        np.array([[getattr(cell, of) for cell in row] for row in cells], dtype=np.float64)
        for of in ("success", "tokens", "samples", "truncated")
    )
    chosen = [problems[name] for name in ids]
    own = tuple((groups or {}).get(each.id, same_words(each.question)) for each in chosen) if groups else ()
    questions, categories = tuple(each.question for each in chosen), tuple(each.subject or "" for each in chosen)
    return RouteTable(tuple(ids), questions, categories, routes, success, tokens, samples, methods, truncated, own,
                      model)  # fmt: skip


def _check_missing(found: Columns, shared: int, shared_only: bool) -> None:
    every = set().union(*found.values())
    lacking = {route: sorted(every - set(rows)) for route, rows in found.items() if len(rows) < len(every)}
    if lacking and not shared_only:
        listed = "; ".join(f"{route!r} lacks {len(names)}, e.g. {names[0]}" for route, names in lacking.items())
        raise BadInput(
            f"only {shared} of {len(every)} questions have all routes ({listed}); run the rest, or give --shared-only "
            "to leave those out"
        )
