"""The parts of the report that need no browser: names, sentences, figure, what the page carries and escapes."""

from __future__ import annotations

import json
import math
import re
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_runs import Outcome, many, write_run

from eval_math.errors import StoreError
from eval_math.report import collect, write_report
from eval_math.report.figure import NARROW, WIDE, Point, draw, pareto_front, ticks
from eval_math.report.names import short_names
from eval_math.report.segments import is_reflection, segment
from eval_math.report.traces import LONGEST_CHARACTERS, traces_json
from eval_math.statistics import Interval


class Tags(HTMLParser):
    """Start tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def payload(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_names_say_only_what_tells_methods_apart():
    labels = ["none", "asc:vector=/a/v.safetensors,strength=0.5", "asc:vector=/b/random.safetensors,strength=0.5"]
    assert short_names(labels) == ["none", "asc vector=v", "asc vector=random"]
    assert short_names(["budget:thinking=60", "asc:strength=1+budget:thinking=60"]) == ["budget", "asc+budget"]
    assert short_names(["asc:strength=1", "asc"]) == ["asc strength=1", "asc"]
    assert short_names(["none", "none"]) == ["none", "none"]
    assert len(short_names(["x" * 200])[0]) < 50


def test_runs_of_one_method_are_told_apart_by_model_then_folder(tmp_path):
    runs = [
        write_run(tmp_path / "one", many("1"), model="org/small"),
        write_run(tmp_path / "two", many("1"), model="org/large"),
        write_run(tmp_path / "three", many("1"), model="org/large"),
    ]
    names = [entry.name for entry in collect(runs).entries]
    assert names == ["none (small)", "none (large) (two)", "none (large) (three)"]


@settings(deadline=None)
@given(st.text(alphabet="Wait. \n!?a\"'é😀", max_size=200))
def test_sentences_joined_are_the_text(text):
    found = segment(text)
    assert "".join(found.sentences) == text
    assert all(found.sentences)


def test_sentences_that_look_back_are_found():
    found = segment(
        "We add: 2+2=4. Wait, let me double-check: 2+2=4. Yes, that is right.\nSo 3.5 is next.\n\nHmm. Done."
    )
    assert [found.sentences[i].strip() for i in found.reflections] == ["Wait, let me double-check: 2+2=4.", "Hmm."]
    assert "So 3.5 is next.\n\n" in found.sentences
    for sentence in (
        "But wait.",
        "Alternatively, use x.",
        "Let me verify this.",
        "Let's check.",
        "Is that right?",
        "hmmm",
    ):
        assert is_reflection(sentence), sentence
    for sentence in ("Then she waits for the waiter.", "The actual checkers board has 64 squares.", "Add 4 and 5."):
        assert not is_reflection(sentence), sentence


def test_segmenting_is_linear():
    start = time.process_time()
    for text in (". " * 200_000, "." * 400_000, '."' * 200_000, "\n" * 400_000, "wait" * 100_000, "let me " * 60_000):
        segment(text)
    assert time.process_time() - start < 10


def point(name, tokens, accuracy, **kind):
    around = Interval(tokens, 0.9 * tokens, 1.1 * tokens)
    return Point(name, around, Interval(accuracy, max(0, accuracy - 0.03), min(1, accuracy + 0.03)), **kind)


def test_front_has_no_dominated_point():
    points = [
        point("a", 100, 0.9),
        point("b", 200, 0.9),
        point("c", 50, 0.7),
        point("d", 60, 0.6),
        point("e", 300, 0.95),
    ]
    assert [p.name for p in pareto_front(points)] == ["c", "a", "e"]
    assert pareto_front([]) == []


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 153.2), (86.1, 97.7), (0, 32768), (99.9, 100)])
def test_ticks_are_round_and_cover(low, high):
    found = ticks(low, high, 6)
    assert found[0] <= low + 1e-9 and found[-1] >= high - 1e-9 and 2 <= len(found) <= 9


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_figure_is_wellformed_named_and_inside_its_frame(size):
    points = [point("none", 225, 0.96, is_baseline=True), point("<asc> & co", 110, 0.967), point("random", 222, 0.87)]
    root = ElementTree.fromstring(draw(points, size=size, name="f"))
    assert root.attrib["role"] == "img" and root.attrib["aria-labelledby"] == "f-title f-desc"
    texts = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]
    assert "none (baseline)" in texts and "<asc> & co" in texts
    description = next(node.text for node in root.iter() if node.tag.endswith("desc"))
    assert "none: accuracy 96.0% (95% interval 93.0 to 99.0), 225.0 thinking tokens (202.5 to 247.5)" in description
    assert "On the front, best accuracy for their tokens: <asc> & co" in description
    for circle in (node.attrib for node in root.iter() if node.tag.endswith("circle")):
        assert 0 < float(circle["cx"]) < size.width and 0 < float(circle["cy"]) < size.height


def test_points_stand_where_their_figures_say():
    root = ElementTree.fromstring(draw([point("a", 100, 0.5), point("b", 200, 0.7), point("c", 300, 0.6)]))
    marks = [(float(n.attrib["cx"]), float(n.attrib["cy"])) for n in root.iter() if n.tag.endswith("circle")]
    (ax, ay), (bx, by), (cx, cy) = marks
    assert bx - ax == pytest.approx(cx - bx, abs=0.2) and ay - cy == pytest.approx(cy - by, abs=0.2) and ay > by


def test_figure_without_or_with_strange_points():
    nan = Interval(math.nan, math.nan, math.nan)
    assert "No run has figures yet." in draw([Point("empty", nan, nan)])
    for value in (0.0, 1.0):
        ElementTree.fromstring(draw([Point("a", Interval(0, math.nan, math.nan), Interval(value, value, value))]))


def test_page_is_one_file_with_all_parts(tmp_path):
    base = write_run(tmp_path / "base", many("11001", thinking=200))
    steered = write_run(tmp_path / "steered", many("11101", thinking=50), method="asc:strength=0.5")
    collection = write_report([base, steered], tmp_path / "report.html", title="A & B")
    page = (tmp_path / "report.html").read_text()
    assert "<title>A &amp; B</title>" in page and [row.method for row in collection.rows] == [
        "none",
        "asc:strength=0.5",
    ]
    links = [v for tag, a in Tags(page).tags for k, v in a.items() if k in {"src", "href"}]
    assert links == ["data:,"]
    names = [tag for tag, _ in Tags(page).tags]
    # Two figures and the bar of the paired view; figures and how outputs ended.
    assert names.count("svg") == 3 and names.count("table") == 2 and names.count("h1") == 1
    assert "75.0% fewer tokens</b> (95% interval 75.0 to 75.0)" in page
    assert "config.seed" in page
    group = payload(page)["groups"][0]
    assert [p["id"] for p in group["problems"]] == ["p2", "p0", "p1", "p3", "p4"]
    assert group["problems"][0]["runs"][1]["change"] == "gained"
    assert group["runs"][1]["changes"] == [1, 0]


def test_what_a_model_writes_stays_text(tmp_path):
    evil = (
        '</script><script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" \u2028 <!-- <script> ]]> half \ud83d'
    )
    questions = {"p<b>": evil}
    outcomes = [Outcome("p<b>", text=evil, say=evil)]
    run = write_run(tmp_path / "<i>run", outcomes, method="<u>evil", model=evil, questions=questions, note=evil)
    write_report([run], tmp_path / "report.html", title=evil)
    page = (tmp_path / "report.html").read_text()
    tags = Tags(page).tags
    assert not {"img", "u"} & {tag for tag, _ in tags} and not any("onerror" in a for _, a in tags)
    assert [tag for tag, _ in tags].count("script") == 2
    assert "alert(1)" in payload(page)["groups"][0]["problems"][0]["runs"][0]["answer"]
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_page_carries_a_bounded_number_of_traces_changed_ones_first(tmp_path):
    base = write_run(tmp_path / "base", many("1" * 40 + "0" * 10))
    run = write_run(tmp_path / "run", many("1" * 39 + "0" + "1" * 2 + "0" * 8), method="asc")
    found = json.loads(traces_json(collect([base, run]), 5))["groups"][0]
    assert [p["id"] for p in found["problems"]] == ["p39", "p40", "p41", "p0", "p1"] and found["total"] == 50
    assert json.loads(traces_json(collect([base, run]), 0))["groups"][0]["problems"] == []
    few = json.loads(traces_json(collect([base, run]), 50, most_bytes=3000))["groups"][0]["problems"]
    assert 1 <= len(few) < 10


def test_very_long_thinking_loses_its_middle(tmp_path):
    text = "start " + "x " * LONGEST_CHARACTERS + " end"
    run = write_run(tmp_path / "run", [Outcome("a", text=text)])
    trace = json.loads(traces_json(collect([run]), 5))["groups"][0]["problems"][0]["runs"][0]
    shown = "".join(trace["sentences"])
    assert trace["omitted"] == len(text) - LONGEST_CHARACTERS
    assert shown.startswith("start") and shown.endswith("end") and f"{trace['omitted']:,} characters left out" in shown


def test_failed_ungraded_and_missing_traces_are_shown_as_such(tmp_path):
    base = write_run(tmp_path / "base", [Outcome("a"), Outcome("b", None), Outcome("c", None, finish="error")])
    run = write_run(tmp_path / "run", [Outcome("a", "unparsable", finish="length")], method="asc")
    found = {p["id"]: p["runs"] for p in json.loads(traces_json(collect([base, run]), 5))["groups"][0]["problems"]}
    assert found["b"][0]["verdict"] == "not graded" and found["b"][1] is None
    assert (found["c"][0]["verdict"], found["c"][0]["reason"]) == ("error", "out of memory")
    assert found["a"][1]["cut"] and found["a"][1]["change"] == "lost"


def test_empty_runs_one_run_and_several_benchmarks_make_a_page(tmp_path):
    empty = write_run(tmp_path / "empty", [])
    write_report([empty], tmp_path / "empty.html")
    assert "has no traces on toy yet" in (tmp_path / "empty.html").read_text()
    runs = [empty, write_run(tmp_path / "gsm", many("10"), benchmark="gsm8k")]
    collection = write_report(runs, tmp_path / "two.html")
    assert [group.benchmark for group in collection.groups] == ["toy", "gsm8k"]
    assert (tmp_path / "two.html").read_text().count("<svg") == 4


def test_a_run_that_shares_no_problem_is_shown_without_comparison(tmp_path):
    runs = [write_run(tmp_path / "a", many("10")), write_run(tmp_path / "b", [Outcome("z")], method="asc")]
    assert write_report(runs, tmp_path / "r.html").comparisons == []
    assert "no common problem" in (tmp_path / "r.html").read_text()


def test_a_page_that_cannot_be_written_is_an_error(tmp_path):
    run = write_run(tmp_path / "run", many("1"))
    with pytest.raises(StoreError):
        write_report([run], tmp_path / "no folder" / "report.html")
