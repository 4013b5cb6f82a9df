"""Latent reasoners in an unmodified vLLM against a loop in transformers: ids, numbers of latents, refusals."""

import random
import shutil
from dataclasses import dataclass
from itertools import islice

import pytest
import torch

from cot.engine import EngineConfig
from cot.engines import open_engine
from eval_math.errors import BadInput
from eval_math.records import Message, Request, Sampling
from latent.config import LatentConfig
from latent.noise import SEEDS
from latent.reasoner import load_extras, rule_of, save_extras
from latent.rules import GaussianHead, ends
from latent.serving import mark_for_vllm, seeded_start, thinking_as

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
START, END = 713, 714
VOCABULARY = 768
MIXTURE = LatentConfig("latent-sft", "mixture", START, END, top_k=10, temperature=0.0, max_steps=60)
# A full stop ends the untrained head's thinking after 1 to 24 latents.
FULL_STOP = 13
GAUSSIAN = LatentConfig(
    "colar", "gaussian", START, FULL_STOP, embedding_std=0.05, head_width=32, stop="half", least_steps=1, max_steps=24
)
SMALL_CACHE = {
    "block_size": 32,
    "num_gpu_blocks_override": 24,
    "max_num_batched_tokens": 48,
    "enable_chunked_prefill": True,
}
N_REQUESTS = 40


def save_reasoner(source, folder, config, head=None):
    shutil.copytree(source, folder)
    save_extras(head, config, folder)
    mark_for_vllm(folder)
    return folder


@pytest.fixture(scope="module")
def mixture_folder(embedded_model, tmp_path_factory):
    return save_reasoner(embedded_model, tmp_path_factory.mktemp("mixture") / "model", MIXTURE)


@pytest.fixture(scope="module")
def gaussian_folder(embedded_model, tmp_path_factory):
    torch.manual_seed(3)
    head = GaussianHead(192, GAUSSIAN.head_width)
    with torch.no_grad():
        head.log_sigma.bias.fill_(1.5)
    return save_reasoner(embedded_model, tmp_path_factory.mktemp("gaussian") / "model", GAUSSIAN, head)


@dataclass
class Loop:
    """The reference: one request at a time, float32, with a KV cache."""

    model: object
    config: LatentConfig

    @torch.no_grad()
    def __call__(self, prompt, max_tokens, seed=0):
        """Tokens said and number of latents."""
        rule, said, made = rule_of(self.model, self.config), [], 0
        thinking = prompt[-1] == START
        out = self.model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
        while made + len(said) < max_tokens:
            hidden, logits = out.hidden_states[-1][:, -1], out.logits[:, -1]
            feed = None
            if thinking and not ends(logits, [(seed, made)], self.config)[0]:
                feed = rule(hidden, logits, [(seed, made)])
                made += 1
            else:
                said.append(self.config.end_id if thinking else int(logits.argmax()))
                thinking = False
            if said and said[-1] == 712:
                break
            fed = {"input_ids": torch.tensor([said[-1:]])} if feed is None else {"inputs_embeds": feed[:, None]}
            out = self.model(**fed, past_key_values=out.past_key_values, output_hidden_states=True)
        return said, made


def loop_of(folder, config=None):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return Loop(model, config or load_extras(model, folder))


@pytest.fixture(scope="module")
def mixture_loop(mixture_folder):
    return loop_of(mixture_folder)


@pytest.fixture(scope="module")
def gaussian_loop(gaussian_folder):
    return loop_of(gaussian_folder)


@pytest.fixture(scope="module")
def mixture_engine(mixture_folder):
    """Eight at a time in a cache for half of them, prompts in chunks."""
    engine = open_engine(
        EngineConfig(str(mixture_folder), "vllm", batch_size=8, max_model_len=512, options=SMALL_CACHE)
    )
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def gaussian_engine(gaussian_folder):
    engine = open_engine(EngineConfig(str(gaussian_folder), "vllm", batch_size=8, max_model_len=512))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests():
    """Problems of mixed lengths and budgets; every fifth closes thinking in its prompt, some start it in the middle."""
    from cot.embedded.problems import make_problems
    from eval_math.prompts import prompt

    made = []
    for at, problem in enumerate(make_problems("test", N_REQUESTS, seed=5)):
        messages = prompt(problem.record())
        if at % 7 == 3:
            messages = (Message("user", "<think> and </think> are tags. <think>"), *messages)
        made.append(
            Request(
                f"p{at}",
                messages=messages,
                sampling=Sampling(max_tokens=(12, 100, 140)[at % 3], seed=at),
                template={"enable_thinking": False} if at % 5 == 4 else {},
            )
        )
    return made


def run(engine, requests):
    return {trace.problem_id: trace for trace in engine.generate(requests)}


def differing(engine, loop, requests):
    """Requests whose tokens or number of latents are not the loop's."""
    traces = run(engine, requests)
    found = []
    for request in requests:
        trace = traces[request.problem_id]
        said, made = loop(engine.prompt_ids(request), request.sampling.max_tokens, request.sampling.seed)
        if (list(trace.token_ids), trace.n_latent_steps) != (said, made):
            found.append((request.problem_id, trace, said, made))
    return found


def scheduler_of(engine):
    return engine._core.engine_core.engine_core.scheduler


def test_mixture_equals_the_loop_under_preemption(mixture_engine, mixture_loop, requests, monkeypatch):
    scheduler, preempted = scheduler_of(mixture_engine), []
    preempt = scheduler._preempt_request
    monkeypatch.setattr(scheduler, "_preempt_request", lambda r, *a, **k: (preempted.append(r), preempt(r, *a, **k)))
    assert not differing(mixture_engine, mixture_loop, requests)
    assert sum(request.num_preemptions > 0 and request.num_output_tokens > 0 for request in preempted) >= 5
    assert "latent" in mixture_engine.capabilities


@pytest.mark.parametrize("stop", ["likeliest", "sample", "half", "count"])
def test_drawn_mixtures_and_every_stop_rule_equal_the_loop(mixture_engine, mixture_loop, requests, stop):
    config = MIXTURE.changed(temperature=0.5, stop=stop, least_steps=2, max_steps=30, top_k=4)
    with thinking_as(mixture_engine, config):
        assert not differing(mixture_engine, Loop(mixture_loop.model, config), requests[:16])
    assert mixture_engine.apply_model(lambda model: model.latent_config) == MIXTURE


def test_hidden_states_as_latents_equal_the_loop(embedded_model, requests, tmp_path):
    config = LatentConfig("coconut", "hidden", START, END, stop="count", max_steps=5)
    folder = save_reasoner(embedded_model, tmp_path / "model", config)
    engine = open_engine(EngineConfig(str(folder), "vllm", batch_size=4, max_model_len=512))
    try:
        assert not differing(engine, loop_of(folder), requests[:8])
    finally:
        engine.close()


def test_gaussian_latents_are_drawn_by_seed_and_equal_the_loop(gaussian_engine, gaussian_loop, requests):
    assert not differing(gaussian_engine, gaussian_loop, requests)
    traces = run(gaussian_engine, requests)
    thinking = [request for request in requests if not request.template]
    assert all(1 <= traces[r.problem_id].n_latent_steps <= GAUSSIAN.max_steps for r in thinking)
    assert all(traces[r.problem_id].n_latent_steps == 0 for r in requests if r.template)
    assert len({traces[r.problem_id].n_latent_steps for r in thinking}) > 5


def test_a_head_without_noise_does_not_depend_on_the_seed(gaussian_engine, gaussian_loop, requests):
    config = GAUSSIAN.changed(temperature=0.0, stop="count", max_steps=7)
    with thinking_as(gaussian_engine, config):
        assert not differing(gaussian_engine, Loop(gaussian_loop.model, config), requests[:12])


def visible(ids) -> list[int]:
    """The tokens among output ids; the others are latents."""
    return [token for token in ids if token < VOCABULARY]


def raw(engine, name, prompt, **knobs):
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    parameters = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **{"temperature": 0.0, **knobs})
    return engine._core.add_request(name, tokens_input(list(prompt)), parameters)


def finish(engine, outputs=None):
    """Outputs of all that is running."""
    outputs = {} if outputs is None else outputs
    while engine._core.has_unfinished_requests():
        outputs |= {output.request_id: output.outputs[0] for output in engine._core.step() if output.finished}
    return outputs


def test_an_alias_names_the_seed(gaussian_engine, gaussian_loop, requests):
    prompt = gaussian_engine.prompt_ids(requests[0])
    for seed in (0, 5, SEEDS - 1):
        raw(gaussian_engine, str(seed), [*prompt[:-1], seeded_start(seed, VOCABULARY)], max_tokens=40)
    raw(gaussian_engine, "own", prompt, max_tokens=40, seed=5)
    answers = set()
    for name, output in finish(gaussian_engine).items():
        said, made = gaussian_loop(prompt, 40, 5 if name == "own" else int(name))
        assert (visible(output.token_ids), len(output.token_ids) - len(said)) == (said, made)
        answers.add(tuple(said))
    assert len(answers) == 3


def test_text_of_a_plain_vllm_holds_no_latents(gaussian_engine, requests):
    tokenizer = gaussian_engine._desk.chat.tokenizer
    prompt = gaussian_engine.prompt_ids(requests[0])
    raw(gaussian_engine, "text", prompt, max_tokens=60, skip_special_tokens=False, logprobs=2, seed=1)
    output = finish(gaussian_engine)["text"]
    said = visible(output.token_ids)
    assert len(said) < len(output.token_ids)
    assert output.text.removesuffix("<|end|>") == tokenizer.decode(said).removesuffix("<|end|>")


@pytest.mark.parametrize(
    "knobs",
    [
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 0.7, "top_p": 0.5, "min_p": 0.1},
        {"repetition_penalty": 1.5},
        {"presence_penalty": 2.0, "frequency_penalty": -2.0, "temperature": 1.0},
        {"allowed_token_ids": list(range(VOCABULARY))},
        {"logit_bias": {FULL_STOP: -100.0, 5: 100.0}},
        {"min_tokens": 30},
        {"bad_words": ["7"]},
    ],
)
def test_sampling_parameters_leave_latents_alone(gaussian_engine, gaussian_loop, requests, knobs):
    for request in requests[:3]:
        raw(gaussian_engine, request.problem_id, gaussian_engine.prompt_ids(request), max_tokens=40, **knobs)
    outputs = finish(gaussian_engine)
    for request in requests[:3]:
        _, made = gaussian_loop(gaussian_engine.prompt_ids(request), 40)
        ids = outputs[request.problem_id].token_ids
        assert all(token >= VOCABULARY for token in ids[:made]) and ids[made] == FULL_STOP
        assert all(token < VOCABULARY for token in ids[made:])


@pytest.mark.parametrize(
    ("knobs", "word"),
    [
        ({"structured_outputs": {"regex": "[0-9]+"}}, "structured_outputs"),
        ({"allowed_token_ids": [1, 2]}, "end of thinking"),
        ({"min_tokens": 3, "stop_token_ids": [END]}, "min_tokens"),
    ],
)
def test_parameters_that_would_forbid_the_end_are_refused(gaussian_engine, knobs, word):
    from vllm.exceptions import VLLMError
    from vllm.sampling_params import StructuredOutputsParams

    if "structured_outputs" in knobs:
        knobs = {"structured_outputs": StructuredOutputsParams(**knobs["structured_outputs"])}
    with pytest.raises((ValueError, VLLMError), match=word):
        raw(gaussian_engine, "refused", [1, START], max_tokens=4, **knobs)
    assert not gaussian_engine._core.has_unfinished_requests()


def test_latents_of_another_request_in_a_prompt_are_an_error(gaussian_engine):
    raw(gaussian_engine, "stale", [1, VOCABULARY + SEEDS, 2], max_tokens=4)
    raw(gaussian_engine, "good", [1, 2], max_tokens=4)
    outputs = finish(gaussian_engine)
    assert outputs["stale"].finish_reason == "error" and outputs["good"].finish_reason == "length"


def test_scores_are_those_of_text(mixture_engine, mixture_loop):
    prompt, completion = [5, 6, START, 7], [START, 8, END, 9, START]
    with torch.no_grad():
        logits = mixture_loop.model(torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
    wanted = [float(logits[len(prompt) + at - 1, token]) for at, token in enumerate(completion)]
    (found,) = mixture_engine.score([(prompt, completion)])
    assert found == pytest.approx(wanted, abs=1e-3)


def test_aborted_requests_leave_no_slots_behind_and_change_no_other(mixture_engine, mixture_loop, requests):
    rng, engine = random.Random(1), mixture_engine
    waiting = list(requests)
    names, outputs, aborts = {}, {}, 0
    while waiting or names:
        while waiting and len(names) < 10:
            request = waiting.pop()
            name = f"{request.problem_id}-{rng.random()}"
            prompt, most = engine.prompt_ids(request), request.sampling.max_tokens
            names[name] = (request, raw(engine, name, prompt, max_tokens=most, stop_token_ids=[712]))
        for output in engine._core.step():
            if output.finished and output.request_id in names:
                outputs[names.pop(output.request_id)[0].problem_id] = output.outputs[0]
        if names and rng.random() < 0.05:
            request, internal = names.pop(rng.choice(sorted(names)))
            engine._core.abort_request([internal], internal=True)
            waiting.append(request)
            aborts += 1
    assert aborts > 10
    for request in requests:
        said, made = mixture_loop(engine.prompt_ids(request), request.sampling.max_tokens)
        ids = outputs[request.problem_id].token_ids
        assert (visible(ids), len(ids) - len(visible(ids))) == (said, made)
    assert not scheduler_of(engine)._live_slots()
    assert engine.apply_model(lambda model: model.slots.ids.slots) == 8 * (MIXTURE.max_steps + 1)


def test_a_closed_iterator_leaves_the_engine_usable(mixture_engine, mixture_loop, requests):
    for _ in range(3):
        list(islice(mixture_engine.generate(requests), 2))
    assert not differing(mixture_engine, mixture_loop, requests[:8])


def test_ids_survive_beside_hidden_states_in_every_dtype():
    from latent.vllm_model import _digits, _numbers

    ids = torch.arange(0, 128**3, 61)
    assert all(_numbers(_digits(ids).to(dtype)) == ids.tolist() for dtype in (torch.bfloat16, torch.float16))


def test_a_change_that_does_not_fit_is_refused(mixture_engine):
    wrong = [(MIXTURE.changed(max_steps=61), "hf_overrides"), (MIXTURE.changed(start_id=3), "start_id")]
    for config, word in wrong:
        with pytest.raises(BadInput, match=word), thinking_as(mixture_engine, config):
            pass
