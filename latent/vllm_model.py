"""vLLM's Llama, Mistral, Qwen2 and Qwen3 with latent thinking; see `serving` for the ids that carry it.

The id that a row was fed says whether a latent follows, and travels beside its hidden state: no state is kept per
request. The forward pass only looks rows up in a table; latents are made, and the table is written, where logits are
computed, outside of compiled code and CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from eval_math.errors import BadInput

from .config import LatentConfig
from .reasoner import read_head
from .rules import FeedRule, GaussianHead, ends, feed_rule
from .vllm_config import CODE_BASE, CODE_DIGITS, Served, served_by
from .vllm_slots import SlotTable, tables

_Causal = LlamaForCausalLM if TYPE_CHECKING else object


class LatentMixin(_Causal):
    """Latent thinking on top of a causal language model of vLLM."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.served: Served = served_by(vllm_config)
        self.latent_config: LatentConfig = self.served.config
        width = self.config.hidden_size
        self.slots = SlotTable(self.served.ids, width)
        tables[vllm_config.instance_id] = self.slots
        # Kept out of the modules: its weights come from a file of their own, and stay float32.
        self._head = (_head(self.latent_config, width),)
        self._rule: FeedRule | None = None

    def think_as(self, config: LatentConfig) -> LatentConfig:
        """Think as ``config`` says from now on; returns what was before.

        Raises:
            BadInput: another start, end, rule or head, or more steps than there are slots for.
        """
        before = self.latent_config
        fixed = ("start_id", "end_id", "rule", "head_width", "deterministic_head")
        if any(getattr(config, name) != getattr(before, name) for name in fixed):
            raise BadInput(f"{', '.join(fixed)} of a served reasoner cannot change; load the other one")
        if not self.served.room_for(config):
            raise BadInput(
                f"max_steps={config.max_steps}: {self.served.ids.slots} slots are too few; start vLLM with "
                f"hf_overrides={{'latent': {{'max_steps': {config.max_steps}}}}}"
            )
        self.latent_config, self._rule = config, None
        return before

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Embeddings (tokens, d) of real and virtual ids."""
        ids = self.served.ids
        start = torch.full_like(input_ids, self.latent_config.start_id)
        rows = super().embed_input_ids(torch.where(input_ids < ids.vocabulary, input_ids, start))
        slot = (input_ids - ids.first_slot).clamp(0, ids.slots - 1)
        return torch.where((input_ids >= ids.first_slot)[:, None], self.slots.rows[slot], rows)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Any:
        """Hidden states (tokens, d + digits): behind each one the id that it was fed."""
        if input_ids is None:
            raise ValueError("a latent reasoner in vLLM is fed ids; leave enable_prompt_embeds off")
        hidden: Any = super().forward(None, positions, intermediate_tensors, self.embed_input_ids(input_ids))
        return torch.cat([hidden, _digits(input_ids).to(hidden.dtype)], -1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        """Logits (rows, all ids): of tokens, or of the one id that follows in latent thinking."""
        hidden = hidden_states[:, :-CODE_DIGITS].contiguous()
        fed = _numbers(hidden_states[:, -CODE_DIGITS:])
        logits: Any = super().compute_logits(hidden)
        wide = logits.new_full((len(fed), self.served.ids.total), -torch.inf)
        wide[:, : logits.shape[-1]] = logits
        thinking = [at for at, token in enumerate(fed) if token >= self.served.ids.vocabulary]
        if thinking:
            following = self._think(hidden[thinking], logits[thinking], [fed[at] for at in thinking])
            wide[thinking] = -torch.inf
            wide[thinking, following] = 0.0
        return wide

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load a model folder; vLLM reads the head's file along with it, unless there is an index."""
        head = self._head[0]
        if head is None:
            return super().load_weights(weights)
        head.load_state_dict(dict(read_head(self.served.folder)))
        own = set(head.state_dict())
        return super().load_weights((name, tensor) for name, tensor in weights if name not in own)

    def _think(self, hidden: Tensor, logits: Tensor, fed: Sequence[int]) -> list[int]:
        """The id that follows in each row: a new latent's slot, or the end of thinking."""
        places = [self.slots.place(token) for token in fed]
        ended = ends(logits, places, self.latent_config).tolist()
        on = [at for at, over in enumerate(ended) if not over]
        following = [self.latent_config.end_id] * len(fed)
        if on:
            kept = [places[at] for at in on]
            feeds = self._feed()(hidden[on], logits[on], kept)
            for at, slot in zip(on, self.slots.put(feeds, kept), strict=True):
                following[at] = slot
        return following

    def _feed(self) -> FeedRule:
        if self._rule is None:
            table = self.model.get_parameter("embed_tokens.weight")[: self.served.ids.vocabulary]
            self._rule = feed_rule(self.latent_config, table, self._head[0])
        return self._rule


class LatentLlamaForCausalLM(LatentMixin, LlamaForCausalLM):
    """Llama."""


class LatentMistralForCausalLM(LatentMixin, MistralForCausalLM):
    """Mistral."""


class LatentQwen2ForCausalLM(LatentMixin, Qwen2ForCausalLM):
    """Qwen2."""


class LatentQwen3ForCausalLM(LatentMixin, Qwen3ForCausalLM):
    """Qwen3."""


def _head(config: LatentConfig, width: int) -> GaussianHead | None:
    if not config.head_width:
        return None
    return GaussianHead(width, config.head_width, config.deterministic_head).float().eval().requires_grad_(False)


def _digits(ids: Tensor) -> Tensor:
    return torch.stack([ids // CODE_BASE**at % CODE_BASE for at in range(CODE_DIGITS)], -1)


def _numbers(digits: Tensor) -> list[int]:
    powers = torch.tensor([CODE_BASE**at for at in range(CODE_DIGITS)], device=digits.device)
    return (digits.long() * powers).sum(-1).tolist()
