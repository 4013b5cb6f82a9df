"""The reference engine: transformers with a KV cache, on CPU or one GPU.

Options: ``attn_implementation`` (sdpa, eager, ...), ``trust_remote_code``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from eval_math.errors import BadInput, EngineError
from eval_math.records import Request, Trace

from ..chat import max_length, model_hash, open_chat, resolve_model, template_hash
from ..engine import EngineConfig, EngineIdentity, Row, Thinker
from ..thinking import think_end
from . import ENGINES
from .batch import left_padded
from .cache import MakeCache
from .decoding import PREFILL_TOKENS, Changes, Decoder, Forward
from .latents import latents_of
from .work import (
    Check,
    Desk,
    check_items,
    check_open,
    check_options,
    choose_dtype,
    deliver,
    item_length,
    score_request,
)

T = TypeVar("T")
OPTIONS = ("attn_implementation", "trust_remote_code")
logger = logging.getLogger(__name__)


class HfEngine:
    """See `Engine` and `ModelAccess`. One `generate` at a time: the model's current rows belong to it."""

    eager = True

    def __init__(self, model: Any, desk: Desk, identity: EngineIdentity, batch_size: int) -> None:
        self._model: Any = model
        self._desk = desk
        self._batch_size = batch_size
        self._rows: list[Row] = []
        self._thinker: Thinker | None = None
        self._make_cache: MakeCache | None = None
        self.identity = identity
        self.capabilities = ENGINES["hf"].capabilities

    def generate(
        self, requests: Iterable[Request], *, on_trace: Callable[[Trace], None] | None = None
    ) -> Iterator[Trace]:
        """Decode; see `Engine.generate`.

        Raises:
            EngineError: the model failed (out of memory, ...); traces finished before were delivered.
        """
        return deliver(self._decoded(self._forward(), requests), on_trace)

    def score(self, items: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Log-probabilities in nats, float32; see `Engine.score`.

        Raises:
            BadInput: an item without prompt ids, or longer than max_model_len.
        """
        check_items(items, self._desk.max_model_len)
        scores: list[list[float]] = [[] for _ in items]
        order = sorted((at for at, item in enumerate(items) if item[1]), key=lambda at: item_length(items[at]))
        while order:
            rows = max(1, min(self._batch_size, PREFILL_TOKENS // item_length(items[order[-1]])))
            group, order = order[-rows:], order[:-rows]
            for at, values in zip(group, self._score([items[at] for at in group]), strict=True):
                scores[at] = values
        return scores

    def encode(self, text: str) -> list[int]:
        """Ids of bare text."""
        return self._desk.chat.encode(text)

    def prompt_ids(self, request: Request) -> list[int]:
        """Rendered prompt and prefill."""
        return self._desk.chat.render(request)

    def apply_model(self, change: Callable[[Any], T]) -> T:
        """``change(model)`` on the transformers model."""
        check_open(self._model is None, "hf")
        return change(self._model)

    def current_rows(self) -> list[Row]:
        """Rows of the running forward pass."""
        return list(self._rows)

    def check_requests(self, check: Check) -> Callable[[], None]:
        """Put requests to ``check`` when they are admitted, until what is returned is called."""
        return self._desk.add_check(check)

    def forget_prefixes(self) -> None:
        """Nothing to do: no cache outlives its request."""

    def think_with(self, thinker: Thinker) -> Callable[[], None]:
        """Let ``thinker`` open all requests until what is returned is called; see `LatentAccess`."""
        self._thinker = thinker
        return self._think_in_words

    def cache_with(self, make: Callable[[Any], Any]) -> Callable[[], None]:
        """Let ``make`` give the caches until what is returned is called; see `CacheAccess`."""
        self._make_cache = make
        return self._cache_everything

    def close(self) -> None:
        """Drop the model."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _decoded(self, forward: Forward, requests: Iterable[Request]) -> Iterator[Trace]:
        with latents_of(self._model, self._thinker) as latents:
            changes = Changes(latents, self._make_cache)
            yield from Decoder(forward, self._desk, self._batch_size, changes).run(requests)

    def _think_in_words(self) -> None:
        self._thinker = None

    def _cache_everything(self) -> None:
        self._make_cache = None

    def _forward(self) -> Forward:
        check_open(self._model is None, "hf")
        return Forward(self._model, self._model.device, self._announce)

    def _announce(self, rows: list[Row]) -> None:
        self._rows = rows

    def _score(self, group: list[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        sequences = [[*prompt, *completion] for prompt, completion in group]
        inputs = left_padded(sequences, 0, self._model.device)
        kept = max(len(completion) for _, completion in group) + 1
        rows = [self._score_row(at, item, inputs.ids.shape[1]) for at, item in enumerate(group)]
        logits = self._forward()(
            rows,
            input_ids=inputs.ids,
            attention_mask=inputs.mask,
            position_ids=inputs.positions,
            use_cache=False,
            logits_to_keep=kept,
        ).logits
        scores = []
        for at, (_, completion) in enumerate(group):
            steps = logits[at, -len(completion) - 1 : -1].float().log_softmax(-1)
            wanted = torch.tensor(list(completion), device=steps.device)
            scores.append(steps.gather(1, wanted[:, None]).squeeze(1).tolist())
        return scores

    def _score_row(self, at: int, item: tuple[Sequence[int], Sequence[int]], width: int) -> Row:
        chat, length = self._desk.chat, item_length(item)
        end = think_end(*item, chat.tags, chat.decode)
        return Row(score_request(at, item), at, width - length, length, 0, len(item[0]), end, (*item[0], *item[1]))


def open_engine(config: EngineConfig) -> HfEngine:
    """Load the model of ``config``.

    Raises:
        BadInput: unknown option, dtype, device or model.
        EngineError: the weights cannot be loaded.
    """
    check_options(config.options, OPTIONS, "hf")
    folder = resolve_model(config.model)
    length = max_length(folder, config.max_model_len)
    chat = open_chat(folder)
    device = choose_device(config.device)
    model = _load(folder, config, device)
    dtype = str(model.dtype).removeprefix("torch.")
    identity = EngineIdentity(
        engine="hf",
        model=config.model,
        model_hash=model_hash(folder),
        template_hash=template_hash(chat.tokenizer),
        dtype=dtype,
        versions={name: version(name) for name in ("torch", "transformers")},
        settings={"device": str(device), "batch_size": config.batch_size, "max_model_len": length, **config.options},
    )
    desk = Desk(chat, length, {"engine": "hf", "model": config.model})
    logger.info("hf engine: %s in %s on %s", folder.name, dtype, device)
    return HfEngine(model, desk, identity, config.batch_size)


def choose_device(name: str) -> torch.device:
    """The device behind ``name``; ``auto`` is the first GPU, else the CPU.

    Raises:
        BadInput: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device {name!r}: this machine has {torch.cuda.device_count()} GPU(s); use auto or cpu")
    return device


def _load(folder: Path, config: EngineConfig, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as logging_of_transformers

    dtype = choose_dtype(config.dtype, device.type == "cpu")
    bars = logging_of_transformers.is_progress_bar_enabled()
    logging_of_transformers.disable_progress_bar()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **config.options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise EngineError(f"the model in {folder} cannot be loaded: {error}") from error
    finally:
        if bars:
            logging_of_transformers.enable_progress_bar()
    return model.to(device).eval().requires_grad_(False)
