"""Flags from dataclasses, from a config file, and both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from laconic_cli.command import check_target, parse

from eval_math.errors import BadInput


@dataclass(frozen=True)
class Flags:
    """A command."""

    count: int = 1
    """How many."""
    names: tuple[str, ...] = ()
    """Which."""
    loud: bool = False
    """Whether."""
    most: int | None = None
    """At most."""
    out: Path = Path("runs")
    """Where."""


def parsed(tmp_path: Path, config: object, *words: str) -> Flags:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config))
    return parse(Flags, [*words, "--config", str(path)], prog="laconic test")


def test_a_config_gives_the_flags_with_their_types(tmp_path):
    stored = {"count": 3, "names": ["a", "b=c"], "loud": True, "most": None, "out": "x/y"}
    assert parsed(tmp_path, {"command": stored}) == Flags(3, ("a", "b=c"), True, None, Path("x/y"))


def test_flags_override_the_config(tmp_path):
    assert parsed(tmp_path, {"count": 3, "loud": True}, "--count", "4", "--no-loud") == Flags(4)


@pytest.mark.parametrize(
    ("config", "named"), [({"count": "three"}, "--count"), ({"count": [1, 22]}, "22"), ({"most": 1.5}, "--most")]
)
def test_a_value_of_another_type_is_refused(tmp_path, config, named, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(tmp_path, config)
    assert stop.value.code == 2 and named in capsys.readouterr().err


def test_a_json_target_without_folder_is_refused_at_start(tmp_path):
    check_target("-")
    check_target(str(tmp_path / "figures.json"))
    with pytest.raises(BadInput, match="does not exist"):
        check_target(str(tmp_path / "none" / "figures.json"))


@pytest.mark.parametrize(
    ("config", "said"), [({"cuont": 1}, "unknown flag"), ([1], "JSON object"), ({"command": {}}, "holds no flags")]
)
def test_a_config_that_is_none_is_refused(tmp_path, config, said):
    with pytest.raises(BadInput, match=said):
        parsed(tmp_path, config)
