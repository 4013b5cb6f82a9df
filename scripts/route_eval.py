"""`laconic route eval`: what a router saves and loses on runs that it was not fitted on."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .route_fit import Routes, read_table

if TYPE_CHECKING:
    from cot.router.report import RouterReport


@dataclass(frozen=True)
class RouteEval(Routes):
    """Accuracy against tokens of a router, its bounds and the rules it has to beat."""

    router: Path = Path("router")
    """Folder of `laconic route fit`."""
    svg: Path | None = None
    """Draw the curve to this file."""
    draws: int = 2000
    """Of the bootstrap."""
    json: str | None = None
    """Write the figures as one JSON object to this file, - for standard output."""


def run(command: RouteEval) -> int:
    """Evaluate and print."""
    from cot.router.artefact import load_router
    from cot.router.report import draw_curve, evaluate_router
    from eval_math.files import write_atomic

    from .command import check_target, write_figures

    check_target(command.json)
    table, live = read_table(command), load_router(command.router)
    report = evaluate_router(table, live, command.draws)
    print(shown(report), file=sys.stderr if command.json == "-" else sys.stdout)
    if command.svg:
        write_atomic(command.svg, draw_curve(table, live))
    write_figures(command.json, figures(report))
    return 0


def shown(report: RouterReport) -> str:
    """A table of rules, then the areas."""
    lines = [f"{'rule':<16}{'accuracy':>10}{'tokens':>10}{'saved':>9}"]
    for rule in report.rules:
        lines.append(f"{rule.name:<16}{100 * rule.accuracy:>9.1f}%{rule.tokens:>10.1f}{100 * rule.saved:>8.1f}%")
    loss, saved = report.loss, report.saved
    lines += [
        "",
        f"against always {report.dearest}: {100 * saved.value:.1f}% [{100 * saved.low:.1f}, {100 * saved.high:.1f}] of "
        f"the tokens saved at a loss of {100 * loss.value:.2f} [{100 * loss.low:.2f}, {100 * loss.high:.2f}] points "
        f"(n = {report.n})",
    ]
    for name, value in report.areas.items():
        lines.append(f"{name:<22}{value.value:6.3f} [{value.low:.3f}, {value.high:.3f}]")
    lines.append(f"questions that could not be judged: {report.fallbacks}")
    return "\n".join(lines)


def figures(report: RouterReport) -> dict[str, Any]:
    """As JSON; what is undefined (APGR where the dearest route is not the better one) is null."""
    return _plain(asdict(report))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
