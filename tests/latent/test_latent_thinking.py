"""Latent thinking in the transformers engine: the same as a loop written out, alone and in a batch; what is counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from cot.chat import model_hash
from cot.engine import EngineConfig
from cot.engines import open_engine
from cot.evaluate import EvalConfig
from cot.methods import parse_method
from eval_math.errors import BadInput
from eval_math.prompts import prompt
from eval_math.records import Request, Sampling
from latent.config import LatentConfig, write_config
from latent.noise import noise_seed
from latent.reasoner import attach, detach, save_extras
from latent.rules import ends, feed_rule
from latent.thinking import asked, opened, thinking


def mixing(chat, **changes) -> LatentConfig:
    config = LatentConfig("latent-sft", "mixture", chat.tags.start_id, chat.tags.end_id, temperature=0.0, max_steps=40)
    return replace(config, **changes)


def gaussian(chat, model, **changes) -> LatentConfig:
    std = float(model.get_input_embeddings().weight.std())
    config = LatentConfig("colar", "gaussian", chat.tags.start_id, chat.tags.end_id, head_width=32, least_steps=1,
                          embedding_std=std, max_steps=12, stop="half", rates=(1, 2, 3))  # fmt: skip
    return replace(config, **changes)


@pytest.fixture(scope="module")
def problems():
    from cot.benchmarks import load

    return load("embedded", split="dev", limit=10)


def requests_of(problems, **sampling) -> list[Request]:
    how = Sampling(**({"max_tokens": 120} | sampling))
    return [Request(p.id, messages=prompt(p), sampling=replace(how, seed=at)) for at, p in enumerate(problems)]


@pytest.fixture
def engine(embedded_model):
    engine = open_engine(EngineConfig("embedded", "hf", dtype="float32", batch_size=4))
    yield engine
    engine.close()


def written_out(model, config, ids, seed, max_tokens):
    """The loop of the papers, one request, everything computed anew in each step."""
    table = model.get_input_embeddings().weight
    rule = feed_rule(config, table, getattr(model, "latent_head", None))
    sequence, n, generated = table[ids].clone(), 0, []
    while n + len(generated) < max_tokens:
        out = model(inputs_embeds=sequence[None], output_hidden_states=True)
        hidden, logits = out.hidden_states[-1][:, -1], out.logits[:, -1]
        if generated:
            token = int(logits.argmax())
        elif not bool(ends(logits, [(seed, n)], config)):
            sequence = torch.cat([sequence, rule(hidden, logits, [(seed, n)])])
            n += 1
            continue
        else:
            token = config.end_id
        generated.append(token)
        if token == model.config.eos_token_id or token in model.generation_config.eos_token_id_set:
            break
        sequence = torch.cat([sequence, table[[token]]])
    return n, generated


@pytest.mark.parametrize("kind", ["mixture", "noisy mixture", "gaussian", "drawn gaussian", "hidden"])
def test_the_engine_takes_the_steps_of_a_loop_written_out(engine, chat, problems, kind):
    model = engine.apply_model(lambda model: model)
    config = {
        "mixture": mixing(chat),
        "noisy mixture": mixing(chat, temperature=1.0),
        "gaussian": gaussian(chat, model, temperature=0.0),
        "drawn gaussian": gaussian(chat, model),
        "hidden": mixing(chat, rule="hidden", stop="count", max_steps=5),
    }[kind]
    torch.manual_seed(0)
    attach(model, config)
    eos = set(engine._desk.chat.end_ids)
    object.__setattr__(model.generation_config, "eos_token_id_set", eos)
    requests = requests_of(problems)
    with torch.no_grad(), thinking(engine, config):
        found = {trace.problem_id: trace for trace in engine.generate(requests)}
        for request in requests:
            seed = noise_seed(request.sampling.seed)
            n, ids = written_out(model, config, engine.prompt_ids(request), seed, 120)
            trace = found[request.problem_id]
            assert (trace.n_latent_steps, list(trace.token_ids or ())) == (n, ids)
            assert trace.n_forward == n + len(ids)
    assert len({trace.n_latent_steps for trace in found.values()}) > 1 or kind in (
        "hidden",
        "drawn gaussian",
        "gaussian",
    )
    detach(model)


def test_latents_do_not_depend_on_the_company(engine, chat, problems):
    config = mixing(chat, temperature=1.0)
    requests = requests_of(problems)
    with thinking(engine, config):
        together = {t.problem_id: t for t in engine.generate(requests)}
        for request in requests[:3]:
            (alone,) = engine.generate([request])
            assert (alone.token_ids, alone.n_latent_steps) == (
                together[request.problem_id].token_ids, together[request.problem_id].n_latent_steps)  # fmt: skip
        again = {t.problem_id: t for t in engine.generate(reversed(requests))}
    assert {k: t.token_ids for k, t in again.items()} == {k: t.token_ids for k, t in together.items()}


def test_requests_that_do_not_think_are_plain_ones(engine, chat, problems):
    plain = [replace(request, template={"enable_thinking": False}) for request in requests_of(problems)]
    before = {t.problem_id: t.token_ids for t in engine.generate(plain)}
    mixed = [*plain[:5], *requests_of(problems)[5:]]
    with thinking(engine, mixing(chat)):
        found = {t.problem_id: t for t in engine.generate(mixed)}
    for request in plain[:5]:
        trace = found[request.problem_id]
        assert trace.token_ids == before[request.problem_id] and trace.n_latent_steps == 0
    assert all(found[request.problem_id].n_latent_steps for request in mixed[5:])
    # Nothing stays behind.
    assert {t.problem_id: t.n_latent_steps for t in engine.generate(requests_of(problems))} == {
        p.id: 0 for p in problems
    }


def test_limits_and_chains_without_latents(engine, chat, problems):
    with thinking(engine, mixing(chat, max_steps=7)):
        assert {t.n_latent_steps for t in engine.generate(requests_of(problems))} == {7}
    with thinking(engine, mixing(chat)):
        cut = list(engine.generate(requests_of(problems, max_tokens=9)))
        assert {(t.finish, t.n_latent_steps, t.n_tokens, t.text) for t in cut} == {("length", 9, 0, "")}
    with thinking(engine, mixing(chat, stop="count", max_steps=1, least_steps=0)):
        assert {t.n_latent_steps for t in engine.generate(requests_of(problems))} == {1}

    class Never:
        def open(self, request, prompt_ids):
            return object()

        def steps(self, hidden, logits, states):
            from cot.engine import Step

            return [Step(chat.tags.end_id) for _ in states]

    stop = engine.think_with(Never())
    none = list(engine.generate(requests_of(problems)))
    stop()
    assert {t.n_latent_steps for t in none} == {0} and all(t.thinking == "" and t.answer_text for t in none)
    assert all(t.n_thinking_tokens == 1 for t in none)


def test_prompts_that_do_not_open_thinking_are_given_the_tag(engine, chat, problems):
    start = chat.tags.start_id
    (request,) = requests_of(problems[:1])
    ids = engine.prompt_ids(request)
    assert opened(engine, request, start) == request
    spoken = asked(engine, request, " (Thinking speed: 3)", start)
    assert spoken.messages[-1].content == request.messages[-1].content + " (Thinking speed: 3)"
    shut = replace(request, messages=(), prompt_ids=tuple(ids[:-1]))
    assert asked(engine, shut, " (Thinking speed: 3)", start).messages == ()
    assert opened(engine, shut, start).prefill_ids == (start,)


def test_a_folder_is_evaluated_by_its_own_method(tmp_path, embedded_model, model, chat, problems):
    from cot.evaluate import evaluate_into
    from cot.training.folder import export_model

    config = gaussian(chat, model, speed_text=" (Thinking speed: {rate})")
    torch.manual_seed(0)
    attach(model, config)
    head = detach(model)
    folder = tmp_path / "reasoner"
    folder.mkdir()
    export_model(model, embedded_model, folder, lambda made: save_extras(head, config, made))
    engine = open_engine(EngineConfig(str(folder), "hf", batch_size=4))
    sampling = EvalConfig("embedded", sampling=Sampling(max_tokens=60))
    row = evaluate_into(tmp_path / "run", problems, parse_method("colar:rate=3"), engine, sampling)
    assert row.n == 10 and 0 < row.latent_steps_mean <= 12 and row.errors == 0
    traces = [json.loads(line) for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()]
    bare = {r.problem_id: len(engine.prompt_ids(r)) for r in requests_of(problems)}
    said = len(engine.encode(" (Thinking speed: 3)"))
    assert all(abs(each["n_prompt_tokens"] - bare[each["problem_id"]] - said) <= 1 for each in traces)
    before = model_hash(folder)
    write_config(replace(config, max_steps=99), folder)
    assert model_hash(folder) != before
    with pytest.raises(BadInput, match="trained for 1 to 3"):
        parse_method("colar:rate=9").check(engine)
    with pytest.raises(BadInput, match="made by colar; take method colar"):
        parse_method("latent-sft").check(engine)
    with pytest.raises(BadInput, match="no latent reasoner"):
        parse_method("colar").check(open_engine(EngineConfig("embedded", "hf")))
    engine.close()
