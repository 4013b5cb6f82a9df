"""`laconic route fit`: learn from runs which questions are worth thinking about."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cot.router.table import RouteTable


@dataclass(frozen=True)
class Routes:
    """Where the routes' results come from."""

    route: Mapping[str, str] = field(default_factory=dict)
    """Run folders by route, several joined by commas: --route think runs/a nothink runs/b,runs/c."""
    rows: Path | None = None
    """Or a file of rows {id, question, category?, routes: {name: {success, tokens, samples?}}}."""
    method: Mapping[str, str] = field(default_factory=dict)
    """Methods by route, where they are not those of the runs."""


@dataclass(frozen=True)
class RouteFit(Routes):
    """Fit a router and write it to a folder."""

    out: Path = Path("router")
    """Folder of the router."""
    encoder: str = "hashed"
    """hashed (n-grams, nothing to download), minilm (optional package), or an encoder's folder or hub id."""
    aim: Literal["max_loss", "budget", "min_accuracy", "price"] = "max_loss"
    """What the price of tokens is chosen for, on questions the heads did not see."""
    value: float = 0.01
    """Of the aim: share of accuracy that may be lost (upper 95% bound), mean tokens, accuracy, or price."""
    seed: int = 0
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: RouteFit) -> int:
    """Fit, write, and say what the router brings on its own questions, held out."""
    from cot.router.artefact import save_router
    from cot.router.fitted import RouterConfig, fit_router

    from .command import check_target, write_figures

    check_target(command.json)
    table = read_table(command)
    config = RouterConfig(command.encoder, command.aim, command.value, command.seed)
    router = fit_router(table, config)
    save_router(router, command.out)
    stream = sys.stderr if command.json == "-" else sys.stdout
    for route, success, tokens in zip(table.routes, table.success.mean(0), table.tokens.mean(0), strict=True):
        print(f"{route:<16}{100 * success:6.1f}% correct {tokens:8.1f} tokens", file=stream)
    print(f"price {router.price:.4g} for {command.aim} {command.value:g}; router: {command.out}", file=stream)
    print(f"evaluate it on other runs: laconic route eval --router {command.out} --route ...", file=stream)
    write_figures(command.json, dict(router.figures))
    return 0


def read_table(command: Routes) -> RouteTable:
    """The table of a command's runs or rows.

    Raises:
        BadInput: neither or both given.
    """
    from dataclasses import replace

    from cot.router.table import table_of_rows, table_of_runs
    from eval_math.errors import BadInput

    if bool(command.route) == (command.rows is not None):
        raise BadInput("give either --route NAME RUN NAME RUN, or --rows FILE")
    if command.rows is not None:
        table = table_of_rows(command.rows)
    else:
        table = table_of_runs({name: [Path(each) for each in runs.split(",")] for name, runs in command.route.items()})
    return replace(table, methods={**table.methods, **command.method})
