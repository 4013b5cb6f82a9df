"""The embedded reasoner as a model to be changed, and rows to train it on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def latent_rows(tmp_path_factory) -> Path:
    """Concise correct traces of embedded problems."""
    from cot.embedded.problems import make_problems
    from cot.embedded.traces import ANSWER, write_trace
    from eval_math.prompts import prompt

    rng = random.Random(0)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w") as handle:
        for problem in make_problems("train", 64, seed=7):
            text = f"<think>{write_trace(problem, 0, rng)}</think>{ANSWER.format(answer=problem.answer)}"
            turns = [{"role": each.role, "content": each.content} for each in prompt(problem.record())]
            row = {"id": problem.id, "prompt": turns, "completion": [{"role": "assistant", "content": text}]}
            handle.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def model(embedded_model):
    """The embedded reasoner in float32, fresh for each test."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(embedded_model, dtype="float32")


@pytest.fixture(scope="session")
def chat(embedded_model):
    from cot.chat import open_chat

    return open_chat(embedded_model)


@pytest.fixture(scope="module", autouse=True)
def quiet_cores(one_thread):
    """All trainings of this folder."""
