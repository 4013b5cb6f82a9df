"""A steering vector out of pairs: v = mean over pairs of [h(short) - h(long)], h the pooled output of a block.

Each text is one forward pass over question + response, without generation, logits or KV cache; it ends after the last
block that is asked for. Departures from the paper: the question goes through the model's chat template, prompt and
response are encoded apart (no token spans the border), all blocks are read in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cot.chat import Chat, open_chat, resolve_model
from cot.engine import Engine, ModelAccess
from cot.thinking import prompt_state
from eval_math.errors import BadInput
from eval_math.prompts import prompt as benchmark_messages
from eval_math.records import Message, Pair, Problem, Request, digest

from .capture import Progress, Reading, Text, read_states
from .estimators import ESTIMATORS
from .forcing import Response
from .pairs import Dropped
from .sites import ModelShape, check_blocks, model_shape
from .vector import SteeringVector, VectorInfo

Pooling = Literal["last", "mean_response", "first_k", "boundary"]
Span = Literal["response", "thinking"]
MakePrompt = Callable[[Pair], tuple[Message, ...]]

DEFAULT_DEPTH = 0.72
DEFAULT_GAMMA = 0.25
BOUNDARY_ENDS = (".", ";", ":", "\n")


@dataclass(frozen=True)
class Recipe:
    """How states become a direction."""

    blocks: tuple[int, ...] | None = None
    """Blocks to read, from 0; None = all."""
    pooling: Pooling = "last"
    """last: the final token. mean_response: all of them. first_k: the first ``first_tokens`` of them. boundary: tokens
    that end a sentence, line or step."""
    first_tokens: int = 16
    """Tokens that ``first_k`` reads."""
    span: Span = "thinking"
    """How far a side is read: up to the end of thinking where both sides have one, or the whole response. By its end an
    answer has washed out how it was reached."""
    estimator: str = "mean_diff"
    batch_tokens: int | None = None
    """Padded tokens per forward pass; None = 2,048 on a CPU, 16,384 on a GPU."""
    max_tokens: int | None = None
    """Longest question + response; longer pairs are skipped. None = what the model was made for."""

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise BadInput(f"estimator {self.estimator!r} is unknown; choose one of {', '.join(ESTIMATORS)}")
        if (self.batch_tokens is not None and self.batch_tokens < 1) or self.first_tokens < 1:
            raise BadInput(
                f"batch_tokens {self.batch_tokens}, first_tokens {self.first_tokens} given, at least 1 expected"
            )


@dataclass(frozen=True)
class Extraction:
    """A vector and the pairs that it could not use."""

    vector: SteeringVector
    skipped: tuple[Dropped, ...]


def extract(
    engine: Engine,
    pairs: Sequence[Pair],
    recipe: Recipe = Recipe(),
    *,
    prompt: MakePrompt | None = None,
    on_progress: Progress | None = None,
) -> Extraction:
    """Read the pairs with ``engine``'s model and average their differences.

    Args:
        prompt: the conversation before a pair's response; None = `benchmark_prompt`. Give what the model will be asked
            later.
        on_progress: called with (texts read, texts in all).

    Raises:
        BadInput: the engine's model cannot be read, a block is out of range, or no pair fits the model.
    """
    access = _readable(engine)
    shape, limit = access.apply_model(lambda model: (model_shape(model), _longest(model)))
    blocks = check_blocks(range(shape.num_layers) if recipe.blocks is None else recipe.blocks, shape.num_layers)
    encoder = PairEncoder(engine, open_chat(resolve_model(engine.identity.model)), recipe, prompt or benchmark_prompt)
    encoded = encode_pairs(encoder, pairs, recipe.max_tokens or limit)
    batch_tokens = recipe.batch_tokens or access.apply_model(_usual_batch)
    reading = Reading(encoded.texts, blocks, batch_tokens, on_progress)
    states = access.apply_model(lambda model: read_states(model, reading))
    rows = {block: states.pooled[block][1::2] - states.pooled[block][0::2] for block in blocks}
    vector = SteeringVector(
        directions={block: ESTIMATORS[recipe.estimator](rows[block]) for block in blocks},
        info=_info(engine, shape, recipe, encoded.used),
        pairs=rows,
        resid_norm={block: float(states.norms[block].mean()) for block in blocks},
    )
    return Extraction(vector, tuple(encoded.skipped))


def long_responses(engine: Engine, pairs: Sequence[Pair], span: Span = "thinking") -> list[Response]:
    """The long sides as responses to teacher-force: what the model would say unsteered."""
    encoder = PairEncoder(engine, open_chat(resolve_model(engine.identity.model)), Recipe(span=span), benchmark_prompt)
    limit = _readable(engine).apply_model(_longest)
    found = (encoder.response(pair) for pair in pairs)
    return [response for response in found if response is not None and len(response.ids) <= limit]


@dataclass(frozen=True)
class EncodedPairs:
    """Long and short texts in turn, the pairs they come from, and the pairs that do not fit."""

    texts: list[Text]
    used: list[Pair]
    skipped: list[Dropped]


def _readable(engine: Engine) -> ModelAccess:
    from transformers import PreTrainedModel

    if "capture" in engine.capabilities and isinstance(engine, ModelAccess):
        access: ModelAccess = engine
        if access.apply_model(lambda model: isinstance(model, PreTrainedModel)):
            return access
    raise BadInput(f"engine {engine.identity.engine!r} cannot read hidden states for a vector; use engine hf")


def _longest(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31)


def _usual_batch(model: Any) -> int:
    """A CPU is busy with little, and larger batches only fall out of its caches."""
    return 2048 if model.get_input_embeddings().weight.device.type == "cpu" else 16_384


def benchmark_prompt(pair: Pair) -> tuple[Message, ...]:
    """The conversation with which the pair's benchmark asks its questions; pairs from files are asked as most are."""
    benchmark = pair.source.partition(":")[2]
    return benchmark_messages(Problem(pair.problem_id, benchmark, pair.question, answer=""))


@dataclass(frozen=True)
class PairEncoder:
    """Turns the sides of a pair into texts to read."""

    engine: Engine
    chat: Chat
    recipe: Recipe
    prompt: MakePrompt

    def sides(self, pair: Pair) -> list[Text]:
        """The long text, then the short one."""
        before = self.engine.prompt_ids(Request(pair.problem_id, messages=self.prompt(pair)))
        return [self._text(before, side) for side in _sides(pair, self.recipe.span, self.chat.tags.end_text)]

    def response(self, pair: Pair) -> Response | None:
        """Prompt and long side; None if nothing is said."""
        before = self.engine.prompt_ids(Request(pair.problem_id, messages=self.prompt(pair)))
        ids = self._ids(before, _sides(pair, self.recipe.span, self.chat.tags.end_text)[0])
        return Response(ids, len(before)) if len(ids) > len(before) else None

    def _text(self, before: Sequence[int], response: str) -> Text:
        ids = self._ids(before, response)
        return Text(ids, tuple(self._positions(len(before), ids)))

    def _ids(self, before: Sequence[int], response: str) -> tuple[int, ...]:
        opened = prompt_state(before, self.chat.tags, self.chat.decode) == "open"
        if opened and response.lstrip().startswith(self.chat.tags.start_text):
            # The template opens thinking already.
            response = response.lstrip().removeprefix(self.chat.tags.start_text).lstrip("\n")
        return (*before, *self.engine.encode(response))

    def _positions(self, start: int, ids: Sequence[int]) -> Sequence[int]:
        response = range(start, len(ids))
        if self.recipe.pooling == "last":
            return response[-1:]
        if self.recipe.pooling == "mean_response":
            return response
        if self.recipe.pooling == "first_k":
            return response[: self.recipe.first_tokens]
        return [start - 1, *(p for p in response if self._ends_unit(ids[p]))]

    def _ends_unit(self, token: int) -> bool:
        return self.chat.decode([token]).rstrip(" ").endswith(BOUNDARY_ENDS)


def encode_pairs(encoder: PairEncoder, pairs: Sequence[Pair], limit: int) -> EncodedPairs:
    """Both sides of each pair as texts of at most ``limit`` tokens.

    Raises:
        BadInput: no pair fits.
    """
    found = EncodedPairs([], [], [])
    for pair in pairs:
        sides = encoder.sides(pair)
        longest = max(len(side.ids) for side in sides)
        if longest > limit:
            found.skipped.append(Dropped(pair, "too_long", f"{longest} tokens with the question, {limit} fit"))
        elif not all(side.positions for side in sides):
            found.skipped.append(Dropped(pair, "empty", f"no token to read with pooling {encoder.recipe.pooling}"))
        else:
            found.texts.extend(sides)
            found.used.append(pair)
    if not found.used:
        reason = f"; first: {found.skipped[0].pair.problem_id}, {found.skipped[0].detail}" if found.skipped else ""
        raise BadInput(f"none of {len(pairs)} pairs can be read by this model{reason}; give other or shorter pairs")
    return found


def _sides(pair: Pair, span: Span, end: str) -> tuple[str, str]:
    """Long and short text; up to the end of thinking only where both have one, so that both end alike."""
    if span == "thinking" and end in pair.long and end in pair.short:
        return pair.long.partition(end)[0].rstrip(), pair.short.partition(end)[0].rstrip()
    return pair.long, pair.short


def _info(engine: Engine, shape: ModelShape, recipe: Recipe, used: Sequence[Pair]) -> VectorInfo:
    blocks = range(shape.num_layers) if recipe.blocks is None else sorted(set(recipe.blocks))
    preferred = min(blocks, key=lambda b: abs(b - round(DEFAULT_DEPTH * shape.num_layers)))
    return VectorInfo(
        model_id=engine.identity.model,
        model_type=shape.model_type,
        hidden_size=shape.hidden_size,
        num_layers=shape.num_layers,
        apply_layers=(preferred,),
        extract_layers=tuple(blocks),
        gamma=DEFAULT_GAMMA,
        estimator=recipe.estimator,
        n_pairs=len(used),
        position=f"{recipe.pooling}:{recipe.span}",
        pair_source="; ".join(sorted({pair.source for pair in used})),
        source_sha256=digest([[p.question, p.long, p.short] for p in used], 64),
        version=_version(),
        extra={"gamma_source": "default, not calibrated", "model_hash": engine.identity.model_hash},
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("laconic")
    except PackageNotFoundError:
        return ""
