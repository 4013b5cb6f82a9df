"""A learned vector as a vector file: ASC-CES on pairs, with the metadata that read vectors have."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from cot.chat import open_chat, resolve_model
from cot.engine import Engine, ModelAccess
from eval_math.errors import BadInput
from eval_math.records import Pair

from .ces import CesConfig, CesStep, learn
from .extraction import PairEncoder, Recipe, benchmark_prompt, encode_pairs
from .forcing import Response
from .vector import SteeringVector

log = logging.getLogger(__name__)

LONGEST_TOKENS = 4096


def learn_vector(
    engine: Engine,
    pairs: Sequence[Pair],
    like: SteeringVector,
    configs: Sequence[CesConfig],
    on_step: Callable[[CesStep], None] | None = None,
) -> SteeringVector:
    """Learn one direction for each configuration's block; metadata and norms are those of ``like``.

    Generic text is the prompts of the pairs: text of the domain that holds no response. The last line of each log, with
    the energies of short and long responses apart, goes into the metadata.

    Raises:
        BadInput: the engine's model is not in this process, no pair fits, or no configuration is given.
    """
    if not isinstance(engine, ModelAccess):
        raise BadInput(f"engine {engine.identity.engine!r}: its model is not in this process; use engine hf")
    if not configs:
        raise BadInput("learned vector: no block given")
    chat = open_chat(resolve_model(engine.identity.model))
    encoder = PairEncoder(engine, chat, Recipe(pooling="mean_response"), benchmark_prompt)
    texts = [Response(t.ids, t.positions[0]) for t in encode_pairs(encoder, pairs, LONGEST_TOKENS).texts]
    examples = list(zip(texts[0::2], texts[1::2], strict=True))
    generic = [text.ids[: text.start] for text in texts[0::2]]
    directions, records = {}, {}
    for config in configs:
        found = engine.apply_model(lambda model, config=config: learn(model, examples, config, generic, on_step))
        log.info("learned vector at block %d: %s after %d steps", config.block, found.log[-1], len(found.log))
        directions[config.block] = found.vector
        records[config.block] = {**asdict(found.log[-1]), "ended_early": found.ended_early}
    blocks = tuple(sorted(directions))
    extra = {**like.info.extra, "ces": json.dumps(records), "gamma_source": "learned with strength 1"}
    info = replace(
        like.info, estimator="ces", gamma=1.0, apply_layers=(blocks[-1],), extract_layers=blocks, extra=extra
    )
    return replace(like, directions=directions, pairs={}, info=info)
