"""Prompts as versioned data: JSON files that ship with the package, known by their content."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from eval_math.errors import BadInput
from eval_math.records import digest


@cache
def read_prompts(name: str, file: Path | None = None) -> dict[str, Any]:
    """The prompts of a method: ``cot/prompts/NAME.json``, or ``file`` in its place.

    Raises:
        BadInput: the file cannot be read or is no JSON object.
    """
    try:
        text = file.read_text("utf-8") if file else files("cot").joinpath("prompts", f"{name}.json").read_text("utf-8")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise BadInput(f"prompts {file or name}: cannot be read ({error}); a JSON object is expected") from error
    if not isinstance(found, dict) or "version" not in found:
        raise BadInput(f"prompts {file or name}: a JSON object with a field version is expected")
    return found


def filled(template: str, **values: str) -> str:
    """``template`` with each ``{name}`` replaced by its value, in one pass.

    Not `str.format`: questions and traces are full of braces, and may spell a field's name themselves.
    """
    named = {f"{{{name}}}": value for name, value in values.items()}
    return re.sub("|".join(map(re.escape, named)), lambda found: named[found[0]], template)


def prompts_hash(name: str, file: Path | None = None) -> str:
    """Hash of a prompt file's content."""
    return digest(read_prompts(name, file), 16)
