"""What counts as a valid short trace, and how a card is put together."""

from __future__ import annotations

import pytest

from cot.embedded.card import Table, table_text
from cot.embedded.probes import Probe, is_valid_shortening, shorten_problem
from cot.embedded.problems import make_problems
from cot.method import Method
from cot.prompting import Concise

PROBLEM = next(p for p in make_problems("test", 50) if p.steps == 3)
A, B, C = PROBLEM.equations


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (f"So {A}. So {B}. So {C}.", True),
        (f"So {A}. So {C}.", True),
        (f"So {A}. So {B}.", False),
        (f"So {B}. So {A}. So {C}.", False),
        (f"So {A}. So {B}. So 1+1=2. So {C}.", False),
        (f"So {A}. So {B}. So {C.split('=')[0]}=0{PROBLEM.answer}.", False),
        (f"So {A}. So {A}. So {B}. So {C}.", False),
        (f"The answer is {PROBLEM.answer}.", False),
        ("", False),
    ],
)
def test_validity(text, valid):
    assert is_valid_shortening(text, PROBLEM) is valid


def test_the_same_trace_is_asked_for_each_time():
    assert shorten_problem(PROBLEM, 4) == shorten_problem(PROBLEM, 4)
    assert shorten_problem(PROBLEM, 4) != shorten_problem(PROBLEM, 2)


def test_probes_share_a_folder_only_where_they_ask_the_same():
    probes = [Probe("s", "a"), Probe("s", "a", Concise()), Probe("s", "a", count=7),
              Probe("s", "a", temperature=0.6), Probe("s", "a", split="dev"), Probe("s", "a", steps=(1, 1)),
              Probe("s", "a", task="shorten"), Probe("s", "a", task="shorten", level=2)]  # fmt: skip
    assert len({probe.name for probe in probes}) == len(probes)
    assert Probe("s", "a", Method()).name == Probe("other", "b").name


def test_tables_keep_every_column():
    text = table_text(Table("c", [{"a": 1}, {"a": 2, "b": 3}]).rows)
    assert text.splitlines() == ["| a | b |", "|---|---|", "| 1 |  |", "| 2 | 3 |"]
