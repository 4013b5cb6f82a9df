"""The report in headless Chromium: it draws, it answers, it stays silent on the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from stored_runs import Outcome, write_run

from eval_math.report import write_report

selenium = pytest.importorskip("selenium", reason="selenium is not installed: the page is not tested in a browser")

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EVIL = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
LONG = "Mia has 3 apples. 3+4=7. Wait, let me double-check: 3+4=7. Yes.\n7*2=14. Alternatively, 6+8=14.\n"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    from selenium import webdriver

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed: the page is not tested in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Three methods on ten problems: p0 gained and p9 lost by asc."""
    folder = tmp_path_factory.mktemp("report")
    questions = {f"p{i}": f"Mia has {i + 3} apples and buys more. How many?" for i in range(10)} | {"p3": EVIL}

    def run(name: str, method: str, right: str, thinking: int, text: str) -> Path:
        outcomes = [
            Outcome(f"p{i}", "correct" if c == "1" else "incorrect", thinking=thinking + i, text=text)
            for i, c in enumerate(right)
        ]
        outcomes[3] = Outcome("p3", "unparsable", thinking=thinking, finish="length", text=EVIL, say=EVIL)
        return write_run(folder / name, outcomes, method=method, questions=questions)

    runs = [
        run("baseline", "none", "0111111111", 225, LONG * 3),
        run("steered", "asc:vector=/tmp/v.safetensors,strength=0.75", "1111111110", 110, LONG),
        run("random", "asc:vector=/tmp/random.safetensors,strength=0.75", "0111111001", 221, LONG * 3),
    ]
    write_report(runs, folder / "report.html", title="Shorter thinking")
    return folder / "report.html"


@pytest.fixture
def page(browser, report):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(report.as_uri())
    return browser


def css(page, selector: str) -> list:
    return page.find_elements("css selector", selector)


def texts(page, selector: str) -> list[str]:
    return [element.text for element in css(page, selector)]


def test_figure_table_and_traces_are_there(page):
    assert page.title == "Shorter thinking"
    assert [svg.is_displayed() for svg in css(page, "svg.figure")] == [True, False]
    labels = texts(page, ".wide svg .label")
    assert sorted(labels) == ["asc vector=random", "asc vector=v", "none (baseline)"]
    rows = [row.text for row in css(page, "tbody tr")]
    assert len(rows) == 6 and "80.0\n49.0 to 94.3" in rows[0] and "50.2\n" in rows[1]
    assert len(css(page, "#problems button")) == 10
    assert len(css(page, "article.trace")) == 2
    assert "Wait, let me double-check: 3+4=7." in texts(page, ".thinking mark")
    assert len(css(page, "details:not(.changed)")) == 4


def test_sentences_that_the_method_dropped_are_struck_out(page):
    """The baseline says thrice what the method says once."""
    left, right = css(page, "article.trace")
    gone = [mark.text for mark in left.find_elements("css selector", "mark.gone")]
    assert gone == ["Wait, let me double-check: 3+4=7.", "Alternatively, 6+8=14."] * 2
    assert len(left.find_elements("css selector", ".thinking mark:not(.gone)")) == 2
    assert left.find_elements("css selector", ".thinking .rest-gone")
    assert not right.find_elements("css selector", ".gone, .rest-gone")
    assert "6 sentences look back, 4 of them gone in the other trace" in left.text
    assert "gone in the other trace" in texts(page, "#reading > .key")[0]


def test_every_verdict_is_counted(page):
    head = texts(page, "table")[1].splitlines()
    assert head[0] == "how the outputs of toy ended"
    rows = [row.text.split() for row in css(page, "tbody tr")[3:]]
    # n, correct, incorrect, no answer found, cut off, loops
    assert rows[0][2:8] == ["10", "8", "1", "1", "1", "0"]


def test_paired_view_opens_the_traces_of_a_problem(page):
    boxes = css(page, ".paired")
    assert [box.find_element("css selector", "h3").text for box in boxes] == [
        "asc vector=v against none, toy",
        "asc vector=random against none, toy",
    ]
    assert "8 both right" not in boxes[0].text and "7 both right" in boxes[0].text
    assert "not decided" in boxes[0].text and "p = 1" in boxes[0].text
    boxes[1].find_element("css selector", "details:last-child summary").click()
    boxes[1].find_element("css selector", "button[data-open=p8]").click()
    assert css(page, "#problems [aria-current=true] .id")[0].text == "p8"
    assert texts(page, "article h3") == ["none", "asc vector=random"]
    assert page.switch_to.active_element.text.startswith("p8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_no_finding_of_the_accessibility_check(browser, report, scheme, width):
    import os

    if not os.environ.get("LACONIC_AXE"):
        pytest.skip("LACONIC_AXE does not name an axe.min.js (npm install axe-core): accessibility is not checked")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(report.as_uri())
    browser.execute_script(Path(os.environ["LACONIC_AXE"]).read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found["violations"]] == []
    assert len(found["passes"]) > 30
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_no_error_no_network_and_nothing_a_model_wrote_runs(page, report):
    for button in css(page, "#problems button"):
        button.click()
        assert css(page, "article.trace")
    page.find_element("css selector", "#search").send_keys("script")
    assert EVIL in texts(page, ".question p")[0]
    assert page.execute_script("return window.broken") is None
    assert page.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} == {report.as_uri()}


def test_search_filter_and_method_narrow_the_list(page):
    search = page.find_element("css selector", "#search")
    search.send_keys("MIA p2")
    assert texts(page, "#problems .id") == ["p2"]
    search.clear()
    search.send_keys("alternatively p7")
    assert texts(page, "#problems .id") == ["p7"], "the traces are searched too"
    search.clear()
    search.send_keys("no such words")
    assert texts(page, "#problems li") == ["No problem matches."]
    search.clear()
    search.send_keys(" ")
    assert len(css(page, "#problems button")) == 10

    def keep(name: str) -> list[str]:
        page.find_element("css selector", f"[data-filter={name}]").click()
        return texts(page, "#problems .id")

    assert (keep("gained"), keep("wrong"), keep("lost")) == (["p0"], ["p3"], ["p9"])
    assert "lost" in texts(page, "article.trace .badge")
    page.find_element("css selector", "#method option[value='2']").click()
    assert sorted(keep("lost")) == ["p7", "p8"] and keep("gained") == []
    assert texts(page, "article h3") == []
    assert texts(page, "#reading .note") == ["Nothing to read here."]
    keep("all")
    assert texts(page, "article h3") == ["none", "asc vector=random"]


def test_arrow_keys_walk_the_list(page):
    from selenium.webdriver.common.keys import Keys

    first = css(page, "#problems button")[0]
    first.click()
    first.send_keys(Keys.ARROW_DOWN)
    current = css(page, "#problems button[aria-current=true]")
    assert len(current) == 1 and current[0] == css(page, "#problems button")[1]
    assert page.switch_to.active_element == current[0]


def test_theme_follows_the_system_and_the_button(page):
    def paper() -> str:
        return page.execute_script("return getComputedStyle(document.documentElement).backgroundColor")

    def system(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    system("light")
    light = paper()
    system("dark")
    dark = paper()
    assert light != dark
    page.find_element("css selector", "#theme").click()
    assert paper() == light
    page.find_element("css selector", "#theme").click()
    assert paper() == dark
    system("light")
    assert paper() == dark


def test_a_phone_shows_the_narrow_figure_and_never_scrolls_sideways(page):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert [svg.is_displayed() for svg in css(page, "svg.figure")] == [False, True]
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    small = page.execute_script(
        "return [...document.querySelectorAll('.narrow text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(small) >= 11
    left, right = (trace.rect for trace in css(page, "article.trace"))
    assert right["y"] > left["y"] + left["height"] - 1


def test_one_run_is_read_alone(browser, tmp_path):
    run = write_run(tmp_path / "run", [Outcome("a", "correct"), Outcome("b", "incorrect")])
    write_report([run], tmp_path / "one.html")
    browser.get((tmp_path / "one.html").as_uri())
    assert len(css(browser, "article.trace")) == 1
    assert [b.get_attribute("data-filter") for b in css(browser, "#filters button")] == ["all", "solved", "failed"]
    browser.find_element("css selector", "[data-filter=failed]").click()
    assert texts(browser, "#problems .id") == ["b"]


def test_an_empty_run_gives_a_quiet_page(browser, tmp_path):
    write_report([write_run(tmp_path / "run", [])], tmp_path / "empty.html")
    browser.get_log("browser")
    browser.get((tmp_path / "empty.html").as_uri())
    assert texts(browser, "#problems li") == ["No problem matches."]
    assert browser.get_log("browser") == []
