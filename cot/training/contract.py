"""What laconic relies on in TRL, checked before a training starts: versions, and behaviour by small probes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from eval_math.errors import MissingPart

from .data import IGNORED

TRL_RANGE = ">=1.16,<1.17"
TRANSFORMERS_RANGE = ">=5.10.4,<5.18"
ADVICE = f"laconic trains with trl{TRL_RANGE} and transformers{TRANSFORMERS_RANGE}: pip install 'trl==1.16.*'"


def check_trl() -> None:
    """Refuse a TRL that is missing, of another version, or that treats tokenised columns otherwise.

    Raises:
        MissingPart: says what was found and what is expected.
    """
    for package, versions in (("trl", TRL_RANGE), ("transformers", TRANSFORMERS_RANGE)):
        check_version(package, versions)
    for probe in (_probe_sft, _probe_dpo):
        check_probe(probe)


def check_peft() -> None:
    """Refuse LoRA where peft is not installed.

    Raises:
        MissingPart: names the package.
    """
    if find_spec("peft") is None:
        raise MissingPart(
            "tuning by LoRA needs the package peft, which is missing: pip install 'peft>=0.21', or take --tuning full"
        )


def check_version(package: str, versions: str) -> None:
    """Refuse a package that is not installed or lies outside ``versions``.

    Raises:
        MissingPart: says so.
    """
    from packaging.specifiers import SpecifierSet

    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise MissingPart(f"{package} is not installed; {ADVICE}") from error
    if not SpecifierSet(versions).contains(found, prereleases=True):
        raise MissingPart(f"{package} {found} is installed, {versions} is expected; {ADVICE}")


def check_probe(probe: Callable[[], tuple[Any, Any]]) -> None:
    """Refuse a TRL whose (found, expected) differ, or that lacks a name the probe uses.

    Raises:
        MissingPart: shows both.
    """
    try:
        found, expected = probe()
    except (ImportError, AttributeError, TypeError, KeyError) as error:
        raise MissingPart(f"this TRL lacks what laconic relies on ({error}); {ADVICE}") from error
    if found != expected:
        raise MissingPart(f"this TRL makes {found} of tokenised rows, where {expected} is expected; {ADVICE}")


def _probe_sft() -> tuple[Any, Any]:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [{"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}, {"input_ids": [4, 5], "labels": [IGNORED, 5]}]
    batch = DataCollatorForLanguageModeling(pad_token_id=0)(rows)
    found = {name: batch[name].tolist() for name in ("input_ids", "labels", "attention_mask")}
    return found, {
        "input_ids": [[1, 2, 3], [4, 5, 0]],
        "labels": [[IGNORED, 2, 3], [IGNORED, 5, IGNORED]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
    }


def _probe_dpo() -> tuple[Any, Any]:
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    if not callable(DPOTrainer._prepare_dataset):
        raise AttributeError("DPOTrainer._prepare_dataset")
    rows = [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]}]
    batch = DataCollatorForPreference(pad_token_id=0)(rows)
    found = {name: batch[name].tolist() for name in ("input_ids", "completion_mask", "attention_mask")}
    return found, {
        "input_ids": [[1, 2, 3, 0], [1, 2, 4, 5]],
        "completion_mask": [[0, 0, 1, 0], [0, 0, 1, 1]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
    }
