"""Flags from dataclasses: every command's flags, their types and defaults come from one frozen dataclass."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from eval_math.errors import BadInput

C = TypeVar("C")


def parse(flags: type[C], words: Sequence[str], *, prog: str) -> C:
    """The command's flags out of ``words``; ``--config FILE.json`` gives other defaults, flags override it.

    Raises:
        SystemExit: code 2 with the parser's own text on an unknown flag or bad value, 0 on ``--help``.
        BadInput: the config file cannot be read or has unknown keys.
    """
    import tyro

    rest, config = _config(list(words))
    stored = [] if config is None else _stored_words(flags, config)
    command = tyro.cli(flags, args=[*stored, *rest], prog=prog, description=flags.__doc__)
    check_target(getattr(command, "json", None))
    return command


def check_target(target: str | None) -> None:
    """Refuse at start a ``--json`` file whose folder is not there."""
    if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
        raise BadInput(f"--json {target}: its folder does not exist; make it first, or give - for standard output")


def write_figures(target: str | None, figures: Mapping[str, Any]) -> None:
    """What ``--json`` asks for: one JSON object in the file ``target``, or on standard output for ``-``."""
    if target is None:
        return
    if target == "-":
        json.dump(figures, sys.stdout, ensure_ascii=False, indent=2, allow_nan=False)
        print()
        return
    from eval_math.files import write_json

    write_json(Path(target), dict(figures))


def _config(words: list[str]) -> tuple[list[str], Path | None]:
    for index, word in enumerate(words):
        if word == "--config":
            if index + 1 >= len(words):
                raise BadInput("--config needs a file: a JSON object of flags, or a run folder's run.json")
            return words[:index] + words[index + 2 :], Path(words[index + 1])
        if word.startswith("--config="):
            return words[:index] + words[index + 1 :], Path(word.removeprefix("--config="))
    return words, None


def _stored_words(flags: type[Any], path: Path) -> list[str]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"--config {path}: a JSON object is expected ({error})") from error
    values = stored.get("command", stored) if isinstance(stored, dict) else None
    if isinstance(stored, dict) and "command" in stored and not values:
        raise BadInput(
            f"--config {path}: this run was not made by `laconic eval`, so it holds no flags; "
            "give a run.json that `laconic eval` wrote, or a JSON object of flags"
        )
    if not isinstance(values, dict):
        raise BadInput(f"--config {path}: a JSON object of flags is expected")
    known = {field.name: field for field in dataclasses.fields(flags)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise BadInput(f"--config {path}: unknown flag(s) {', '.join(unknown)}; known: {', '.join(known)}")
    return [word for name, value in values.items() for word in _as_words(known[name], value)]


def _as_words(field: dataclasses.Field[Any], value: Any) -> list[str]:
    """The words that would give the flag this value on the command line; its parser then checks the type."""
    flag = field.name.replace("_", "-")
    if value is None or value == []:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    words = [str(part) for part in value] if isinstance(value, list) else [str(value)]
    return words if "Positional" in str(field.type) else [f"--{flag}", *words]
