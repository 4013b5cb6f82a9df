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


@pytest.fixture(scope="module")
def one_thread():
    """Small passes on busy cores: threads would wait for one another; and sums in one order for every process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """Folder of the embedded reasoner."""
    from cot.embedded import embedded_model_path

    try:
        return embedded_model_path()
    except FileNotFoundError as error:
        pytest.skip(f"the embedded reasoner is not built: {error}")
