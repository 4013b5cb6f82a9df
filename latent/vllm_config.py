"""How vLLM is set up for a latent reasoner: what is switched on, what is refused, and how many slots there are.

Options, as ``hf_overrides`` (``--hf-overrides '{"latent_slots": 8192, "latent": {"temperature": 0}}'``):

- ``latent_slots``: rows of the table of latents. By default enough for ``max_num_seqs`` requests of ``max_steps``
  latents each, at most `MOST_SLOTS`. With fewer, fewer requests run at a time.
- ``latent``: fields of `LatentConfig` other than those in ``latent.json``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm.logger import init_logger

from cot.chat import resolve_model

from .config import LatentConfig, read_config
from .serving import VirtualIds

MOST_SLOTS = 65536
"""Each slot is a column of the logits and a row of embeddings."""
CODE_BASE = 128
CODE_DIGITS = 3
"""A token id as numbers that bfloat16 holds exactly."""
SCHEDULER = "latent.vllm_scheduler.LatentScheduler"
SAMPLING = "latent.vllm_sampling:LatentSampling"
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""What ``uni`` means. On CPU vLLM takes that name for ``mp``, and puts the model in another process."""
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
end_ids: set[int] = set()
"""Of the reasoners that this process has configured."""
logger = init_logger("vllm.plugins.laconic")


@dataclass(frozen=True)
class Served:
    """A latent reasoner in one vLLM engine; ``running`` requests think or speak at a time."""

    folder: Path
    config: LatentConfig
    ids: VirtualIds
    running: int

    def room_for(self, config: LatentConfig) -> bool:
        """Whether the slots suffice for thinking as ``config`` says."""
        return self.running * slots_of_one(config) <= self.ids.slots


def set_up(vllm_config: Any) -> None:
    """Set up ``vllm_config`` for the latent reasoner that its model is.

    Raises:
        ValueError: names what a latent reasoner cannot go with, and what to change.
    """
    _refuse(vllm_config)
    served = served_by(vllm_config)
    model, scheduler = vllm_config.model_config, vllm_config.scheduler_config
    if served.running < scheduler.max_num_seqs:
        logger.warning("%d slots: %d requests run at a time", served.ids.slots, served.running)
    # The weights stay as wide as they are: their layers read hf_config.
    model.model_arch_config.vocab_size = served.ids.total
    model.logits_processors = [*(model.logits_processors or ()), SAMPLING]
    scheduler.scheduler_cls = SCHEDULER
    scheduler.async_scheduling = False
    vllm_config.parallel_config.distributed_executor_backend = ONE_PROCESS
    if vllm_config.cache_config.enable_prefix_caching:
        logger.info("Prefix caching is off: the same slot holds another latent later")
    vllm_config.cache_config.enable_prefix_caching = False
    end_ids.add(served.config.end_id)


def served_by(vllm_config: Any) -> Served:
    """What a vLLM configuration serves.

    Raises:
        ValueError: latent.json or the options are wrong.
    """
    model = vllm_config.model_config
    folder = resolve_model(model.model)
    config = _overridden(read_config(folder), getattr(model.hf_config, "latent", None) or {})
    most, each = vllm_config.scheduler_config.max_num_seqs, slots_of_one(config)
    slots = getattr(model.hf_config, "latent_slots", None) or max(each, min(most * each, MOST_SLOTS))
    ids = VirtualIds(model.hf_config.vocab_size, slots)
    if slots < each:
        raise ValueError(f"latent_slots={slots}: one request of max_steps={config.max_steps} needs {each}")
    if ids.total > CODE_BASE**CODE_DIGITS:
        raise ValueError(f"latent_slots={slots}: at most {CODE_BASE**CODE_DIGITS - ids.first_slot} are possible")
    return Served(folder, config, ids, min(most, slots // each))


def slots_of_one(config: LatentConfig) -> int:
    """Slots that one request can hold: its latents, and one of a pass whose result is dropped."""
    return config.max_steps + 1


def _overridden(config: LatentConfig, changes: dict[str, Any]) -> LatentConfig:
    try:
        return config.changed(**changes)
    except TypeError as error:
        raise ValueError(f"hf_overrides latent={changes}: no such field of latent.json ({error})") from error


def _refuse(vllm_config: Any) -> None:
    model, parallel, scheduler = vllm_config.model_config, vllm_config.parallel_config, vllm_config.scheduler_config
    backend = parallel.distributed_executor_backend
    # As a default only: where the user has asked for the other runner, they are told.
    os.environ.setdefault(RUNNER, "0")
    wrong = {
        "tensor_parallel_size=1": parallel.tensor_parallel_size > 1,
        "pipeline_parallel_size=1": parallel.pipeline_parallel_size > 1,
        "distributed_executor_backend=uni": backend not in (None, "uni", ONE_PROCESS),
        "no speculative decoding": vllm_config.speculative_config is not None,
        "no LoRA (merge the adapter)": vllm_config.lora_config is not None,
        "no KV connector": vllm_config.kv_transfer_config is not None,
        "no prompt embeddings": model.enable_prompt_embeds,
        "no async scheduling": bool(scheduler.async_scheduling),
        "scheduling policy fcfs": scheduler.policy != "fcfs",
        "no scheduler class of its own": scheduler.scheduler_cls not in (None, SCHEDULER),
        f"model runner V1 ({RUNNER}=0)": vllm_config.use_v2_model_runner,
        "runner type generate": model.runner_type != "generate",
    }
    needs = [need for need, found in wrong.items() if found]
    if needs:
        raise ValueError(f"a latent reasoner in vLLM needs {', '.join(needs)}; change that, or use engine hf")
