"""A direction planted to end thinking does so, sooner the stronger it is; cached logits are those of one full pass."""

from dataclasses import replace

import pytest
import torch

from cot.benchmarks import load
from cot.engine import EngineConfig
from cot.engines import open_engine
from eval_math.prompts import prompt
from eval_math.records import Request, Sampling
from steering.application import Steering, steer


@pytest.fixture(scope="module")
def reasoner():
    from cot.embedded import embedded_model_path

    try:
        embedded_model_path()
    except FileNotFoundError as error:
        pytest.skip(f"the embedded reasoner is not built: {error}")
    engine = open_engine(EngineConfig("embedded", "hf", dtype="float32", batch_size=8))
    yield engine
    engine.close()


def test_a_step_towards_the_end_tag_shortens_thinking_the_more_the_stronger(reasoner):
    """The end tag's row of the unembedding, centred and scaled by the last norm, added to the last block's output."""
    [end] = reasoner.encode("</think>")
    rows = reasoner.apply_model(lambda m: m.get_output_embeddings().weight.detach().float())
    last = reasoner.apply_model(lambda m: m.config.num_hidden_layers) - 1
    step = (rows[end] - rows.mean(0)) * reasoner.apply_model(lambda m: m.model.norm.weight.detach().float())
    step = step / step.norm()
    asked = [
        Request(p.id, messages=prompt(p), sampling=Sampling(max_tokens=100))
        for p in load("embedded", split="dev", limit=6)
    ]
    lengths = []
    for strength in (0.0, 100.0, 300.0, 1000.0, 10_000.0):
        with steer(reasoner, Steering({last: step}, strength=strength)) as count:
            traces = list(reasoner.generate(asked))
        assert count.mismatches(traces) == {}
        lengths.append(sum(t.n_thinking_tokens for t in traces))
    assert lengths == sorted(lengths, reverse=True), lengths
    assert lengths[-1] <= len(asked) < lengths[0], lengths


@pytest.mark.parametrize("where", ["last", "all"])
def test_cached_logits_equal_those_of_one_teacher_forced_pass(engine, requests, where):
    step = 8 * torch.randn(64, generator=torch.Generator().manual_seed(3)) / 8
    logits = []

    def keep(module, arguments, output):
        logits.append(output.logits[0, -1].log_softmax(-1))

    request = replace(requests[0], sampling=Sampling(max_tokens=12))
    with steer(engine, Steering({1: step}, where, "eos")):
        handle = engine.apply_model(lambda m: m.register_forward_hook(keep))
        [trace] = engine.generate([request])
        handle.remove()
        [scores] = engine.score([(engine.prompt_ids(request), trace.token_ids)])
    cached = [float(row[token]) for row, token in zip(logits, trace.token_ids, strict=True)]
    assert cached == pytest.approx(scores, abs=1e-4)
