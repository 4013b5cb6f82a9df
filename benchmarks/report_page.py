"""How fast a large report opens in headless Chromium, how large it is, and what an accessibility check says.

    python -m benchmarks.report_page [--axe axe.min.js] [--screenshots FOLDER] [--page report.html] [--json FILE]

Makes ten synthetic runs of 1,319 problems with traces of about 2 kB and their report, or takes a page that is there,
and opens it at two widths, light and dark. Needs Chromium and chromedriver; ``axe.min.js`` is in npm's axe-core. Goals:
under 3 seconds, under 25 MB, no serious finding.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.report_memory import write_run
from eval_math.errors import BadInput
from eval_math.report import write_report
from scripts.command import write_figures

GOAL_SECONDS, GOAL_MB = 3.0, 25.0
PROBLEMS, RUNS = 1319, 10
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
SERIOUS = {"serious", "critical"}


@dataclass(frozen=True)
class View:
    """A way to look at the page."""

    name: str
    width: int
    height: int
    scheme: str

    @property
    def mobile(self) -> bool:
        return self.width < 600


VIEWS = (
    View("light", 1240, 900, "light"),
    View("dark", 1240, 900, "dark"),
    View("phone", 390, 844, "light"),
    View("phone-dark", 390, 844, "dark"),
)


@dataclass(frozen=True)
class Opened:
    """What one view measured; ``findings`` are axe's, as (rule, impact)."""

    view: str
    seconds: float
    wider_than_screen: bool
    findings: list[tuple[str, str]]

    @property
    def holds(self) -> bool:
        serious = any(impact in SERIOUS for _, impact in self.findings)
        return self.seconds < GOAL_SECONDS and not self.wider_than_screen and not serious


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium, closed at the end."""
    from selenium import webdriver

    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        raise BadInput("chromium and chromedriver are not on the path; install both (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


def look(driver: Any, page: Path, view: View, axe: str | None) -> Opened:
    """Open the page once and check it."""
    features = [{"name": "prefers-color-scheme", "value": view.scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": view.width, "height": view.height, "deviceScaleFactor": 1, "mobile": view.mobile}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get("about:blank")
    started = time.perf_counter()
    driver.get(page.resolve().as_uri())
    driver.execute_script("return document.querySelectorAll('article.trace').length")
    seconds = time.perf_counter() - started
    findings: list[tuple[str, str]] = []
    if axe is not None:
        driver.execute_script(axe)
        result = driver.execute_async_script("axe.run().then(arguments[0])")
        findings = [(each["id"], each["impact"]) for each in result["violations"]]
    wide = driver.execute_script("return document.documentElement.scrollWidth") > view.width
    return Opened(view.name, seconds, wide, findings)


def screenshot(driver: Any, view: View, out: Path, longest: int = 4200) -> None:
    """The whole page in this view, cut at ``longest`` pixels."""
    height = min(longest, driver.execute_script("return document.documentElement.scrollHeight"))
    clip = {"x": 0, "y": 0, "width": view.width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    out.write_bytes(base64.b64decode(shot["data"]))


def make_page(folder: Path) -> Path:
    """The report of the synthetic runs."""
    names = ["none", *(f"method-{i}" for i in range(1, RUNS))]
    runs = [write_run(folder / name, name, PROBLEMS) for name in names]
    write_report(runs, folder / "report.html")
    return folder / "report.html"


def main() -> int:
    parser = argparse.ArgumentParser(description="a large report in headless Chromium")
    parser.add_argument("--page", type=Path, help="a report that is there already")
    parser.add_argument("--axe", type=Path, help="axe.min.js of npm's axe-core")
    parser.add_argument("--screenshots", type=Path, help="folder for report-VIEW.png")
    parser.add_argument("--json")
    chosen = parser.parse_args()
    axe = chosen.axe.read_text(encoding="utf-8") if chosen.axe else None
    with tempfile.TemporaryDirectory() as folder, browser() as driver:
        page = chosen.page or make_page(Path(folder))
        size_mb = page.stat().st_size / 1e6
        found = []
        for view in VIEWS:
            found.append(look(driver, page, view, axe))
            if chosen.screenshots:
                screenshot(driver, view, chosen.screenshots / f"report-{view.name}.png")
    for each in found:
        verdict = "holds" if each.holds else "MISSED"
        print(f"{each.view:<11} {each.seconds:.2f} s  {each.findings or 'no finding'}  {verdict}")
    print(f"page of {size_mb:.1f} MB (goal {GOAL_MB:g})" + ("" if axe else "; accessibility not checked: give --axe"))
    write_figures(chosen.json, {"mb": size_mb, "views": [asdict(each) for each in found]})
    return 0 if all(each.holds for each in found) and size_mb < GOAL_MB else 1


if __name__ == "__main__":
    raise SystemExit(main())
