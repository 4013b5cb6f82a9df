"""One reasoner's folder, one method, two engines: the same answers and as many latents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cot.engine import EngineConfig
from cot.engines import open_engine
from cot.methods import parse_method
from cot.training.folder import export_model
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Request, Sampling
from latent.config import LatentConfig
from latent.reasoner import attach, detach
from latent.serving import save_reasoner


@pytest.fixture
def folder(tmp_path, embedded_model, model, chat):
    unit = float(model.get_input_embeddings().weight.detach().std())
    config = LatentConfig("colar", "gaussian", chat.tags.start_id, chat.tags.end_id, head_width=32, least_steps=1,
                          embedding_std=unit, max_steps=12, stop="half", rates=(1, 2, 3), temperature=0.0,
                          speed_text=" (Thinking speed: {rate})")  # fmt: skip
    torch.manual_seed(0)
    attach(model, config)
    head = detach(model)
    folder = tmp_path / "reasoner"
    folder.mkdir()
    export_model(model, embedded_model, folder, lambda made: save_reasoner(head, config, made))
    return folder


def asked(method, n=12) -> list[Request]:
    from cot.benchmarks import load

    problems = load("embedded", split="dev", limit=n)
    how = Sampling(max_tokens=60)
    return [
        Request(p.id, messages=method.messages(p, prompt(p)), sampling=replace(how, seed=at))
        for at, p in enumerate(problems)
    ]


def run(folder, engine, specs):
    engine = open_engine(EngineConfig(str(folder), engine, dtype="float32", batch_size=4))
    found = {}
    try:
        for spec in specs:
            method = parse_method(spec)
            method.check(engine)
            with method.attach(engine):
                traces = list(method.drive(engine, asked(method)))
            found[spec] = {t.problem_id: (t.n_latent_steps, t.token_ids, t.n_forward, t.answer_text) for t in traces}
    finally:
        engine.close()
    return found


@pytest.mark.vllm
def test_both_engines_think_alike(folder):
    pytest.importorskip("vllm", reason="vLLM is not installed: latent reasoners are not compared with it")
    specs = ("colar:rate=3", "colar:rate=2,temperature=1,max_steps=6", "latent:stop=sample")
    theirs, ours = run(folder, "vllm", specs), run(folder, "hf", specs)
    assert theirs == ours
    assert all(0 < n <= 12 for n, *_ in ours["colar:rate=3"].values())
    assert max(n for n, *_ in ours[specs[1]].values()) <= 6
    assert ours[specs[1]] != ours["colar:rate=3"]


@pytest.mark.vllm
def test_what_vllm_cannot_think_with_is_refused():
    pytest.importorskip("vllm", reason="vLLM is not installed: refusals are not tested")
    engine = open_engine(EngineConfig("embedded", "vllm", batch_size=4))
    try:
        with pytest.raises(BadInput, match="no latent reasoner"):
            parse_method("colar").check(engine)
        with pytest.raises(BadInput, match="take hf"), parse_method("soft").attach(engine):
            pass
    finally:
        engine.close()
