"""Shared fixtures: where the real data lies, and one quiet environment for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real benchmarks, traces and grading cases named by LACONIC_DATA."""
    folder = os.environ.get("LACONIC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LACONIC_DATA names no folder: tests on real benchmark data are skipped")
    return Path(folder)
