"""What each route brought on each question: success and tokens, from stored runs or from rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eval_math.errors import BadInput
from eval_math.files import read_records, read_rows
from eval_math.records import Problem, digest
from eval_math.runtable import read_run, run_file

Floats = npt.NDArray[np.float64]


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

    def __post_init__(self) -> None:
        if len(self.routes) < 2:
            raise BadInput(f"a router needs two routes or more; {len(self.routes)} given: {', '.join(self.routes)}")
        if len(self.ids) < 10:
            raise BadInput(f"{len(self.ids)} questions have all routes; at least 10 are expected")

    def rows(self, chosen: Sequence[int] | npt.NDArray[np.int64]) -> RouteTable:
        """Those questions alone."""
        at = np.asarray(chosen)
        ids, questions, categories = (
            tuple(each[i] for i in at) for each in (self.ids, self.questions, self.categories)
        )
        figures = (self.success[at], self.tokens[at], self.samples[at])
        return RouteTable(ids, questions, categories, self.routes, *figures, self.methods)

    def fingerprint(self) -> str:
        """Hash of everything that a fit depends on, whatever the order of files."""
        rows = sorted(zip(self.ids, self.questions, self.success.tolist(), self.tokens.tolist(), strict=True))
        return digest({"routes": list(self.routes), "rows": [list(row) for row in rows]})


def table_of_runs(routes: Mapping[str, Sequence[Path]]) -> RouteTable:
    """Runs of `laconic eval` by route; questions that lack a route are left out.

    Raises:
        BadInput: runs of several models, a question twice on one route, or too few questions.
    """
    found: dict[str, dict[str, tuple[float, float, int]]] = {}
    problems: dict[str, Problem] = {}
    methods: dict[str, str] = {}
    models: set[str] = set()
    for route, folders in routes.items():
        found[route] = {}
        for folder in folders:
            run = read_run(folder)
            models.add(run.model)
            methods[route] = run.method
            problems |= {p.id: p for p in read_records(Problem, run_file(folder, "problems.jsonl"))}
            rows = zip(
                run.problem_ids,
                run.accuracy_by_problem(),
                run.tokens_by_problem("thinking", "answer"),
                np.bincount(run.problem, minlength=len(run.problem_ids)),
                strict=True,
            )
            for name, accuracy, tokens, count in rows:
                if name in found[route]:
                    raise BadInput(f"{folder}: question {name} is on route {route!r} twice; give each run once")
                if not (np.isnan(accuracy) or np.isnan(tokens)):
                    found[route][name] = (float(accuracy), float(tokens), int(count))
    if len(models) > 1:
        raise BadInput(f"runs of several models: {', '.join(sorted(models))}; a router is of one model")
    shared = sorted(set.intersection(*(set(rows) for rows in found.values()))) if found else []
    return _table(shared, problems, found, methods)


def table_of_rows(path: Path) -> RouteTable:
    """Rows {id, question, category?, routes: {name: {success, tokens, samples?}}}.

    Raises:
        BadInput: a row without one of them, or an id twice.
    """
    found: dict[str, dict[str, tuple[float, float, int]]] = {}
    problems: dict[str, Problem] = {}
    for number, row in read_rows(path):
        try:
            name, routes = str(row["id"]), row["routes"]
            if name in problems:
                raise BadInput(f"{path}, line {number}: id {name!r} is there twice")
            problems[name] = Problem(name, "", str(row["question"]), "", subject=row.get("category"))
            for route, figures in routes.items():
                values = float(figures["success"]), float(figures["tokens"]), int(figures.get("samples", 1))
                found.setdefault(route, {})[name] = values
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"{path}, line {number}: {error}; {{id, question, routes: {{name: {{success, tokens}}}}}} is expected"
            ) from error
    shared = sorted(set.intersection(*(set(rows) for rows in found.values()))) if found else []
    return _table(shared, problems, found, {})


def _table(
    ids: Sequence[str], problems: Mapping[str, Problem], found: Mapping[str, Mapping[str, Any]],
    methods: Mapping[str, str],
) -> RouteTable:  # fmt: skip
    if not ids:
        raise BadInput(
            f"no question has all routes ({', '.join(found) or 'none given'}); run them on the same problems"
        )
    values = np.array([[found[route][name] for route in found] for name in ids], dtype=np.float64)
    order = np.argsort(values[..., 1].mean(0), kind="stable")
    routes = [list(found)[at] for at in order]
    values = values[:, order]
    chosen = [problems[name] for name in ids]
    categories = tuple(each.subject or "" for each in chosen)
    questions = tuple(each.question for each in chosen)
    figures = (values[..., 0].copy(), values[..., 1].copy(), values[..., 2].copy())
    return RouteTable(tuple(ids), questions, categories, tuple(routes), *figures, methods)
