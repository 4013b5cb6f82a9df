r"""SEAL (arXiv 2504.07986): thoughts sorted by keywords; away from reflection and transition, at break tokens only.

A chain of thought is cut at its break tokens, those that hold the boundary (a blank line). Each thought is execution,
reflection or transition by its words, and stands for the state of the break token before it, where the model decides
what comes next. v = mean(execution) - mean(reflection and transition); h <- h + strength * v at the break tokens.

Departures: a thought before the first break token has no state and is left out; boundary and words are parameters;
steering ends with the thinking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cot.chat import open_chat, resolve_model
from cot.engine import Engine
from eval_math.errors import BadInput
from eval_math.files import read_records
from eval_math.prompts import prompt as benchmark_messages
from eval_math.records import Grade, Problem, Request, Trace, digest

from .asc import Asc
from .capture import Reading, Text, read_states
from .extraction import DEFAULT_DEPTH, _longest, _readable, _usual_batch
from .gate import gate_texts, gate_tokens
from .sites import check_blocks, model_shape
from .vector import SteeringVector, VectorInfo

if TYPE_CHECKING:
    import torch

Kind = Literal["execution", "reflection", "transition"]
REFLECTION = (
    "wait", "verify", "make sure", "hold on", "think again", "'s correct", "'s incorrect", "let me check", "seems right"
)  # fmt: skip
TRANSITION = (
    "alternatively", "think differently", "another way", "another approach", "another method", "another solution",
    "another strategy", "another technique",
)  # fmt: skip
BLANK_LINE = "\\n\\n"


@dataclass(frozen=True)
class Seal(Asc):
    """Adds SEAL's vector at the break tokens of the thinking. An empty ``gate`` is the file's boundary."""

    name: ClassVar[str] = "seal"
    summary: ClassVar[str] = "a vector away from reflection and transition, added where a thought ends"

    def _gate_texts(self) -> tuple[str, ...]:
        return gate_texts(self.gate or self._load().info.extra.get("boundary", BLANK_LINE))


@dataclass(frozen=True)
class SealRecipe:
    """How traces become SEAL's direction."""

    blocks: tuple[int, ...] | None = None
    """Blocks to read, from 0; None = all."""
    boundary: str = BLANK_LINE
    r"""Texts of break tokens, separated by ``;`` (``\n`` for a line break)."""
    reflection: tuple[str, ...] = REFLECTION
    transition: tuple[str, ...] = TRANSITION
    longest: float = 0.5
    """Share of the correct traces that is read, the longest first."""
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.longest <= 1 or not gate_texts(self.boundary):
            raise BadInput(
                f"seal: longest={self.longest}, boundary={self.boundary!r}; a share up to 1 and texts expected"
            )


@dataclass(frozen=True)
class Thought:
    """``opened_at`` is the place of the break token before it among the output's tokens."""

    opened_at: int
    text: str
    kind: Kind


def sort_thought(text: str, recipe: SealRecipe = SealRecipe()) -> Kind:
    """Kind of a thought by its words, in any case; reflection before transition."""
    lower = text.lower()
    if any(word in lower for word in recipe.reflection):
        return "reflection"
    return "transition" if any(word in lower for word in recipe.transition) else "execution"


def cut_thoughts(ids: Sequence[int], breaks: frozenset[int], decode: Any, recipe: SealRecipe) -> list[Thought]:
    """The thoughts after each break token among the ids of a chain of thought; empty ones are left out."""
    at = [place for place, token in enumerate(ids) if token in breaks]
    spans = zip(at, [*at, len(ids)][1:], strict=True)
    texts = [(start, decode(ids[start + 1 : stop]).strip()) for start, stop in spans]
    return [Thought(start, text, sort_thought(text, recipe)) for start, text in texts if text]


def extract_seal(engine: Engine, runs: Sequence[Path], recipe: SealRecipe = SealRecipe()) -> SteeringVector:
    """SEAL's vector from the longest correct traces of run folders of this model.

    Raises:
        BadInput: no break token in the vocabulary, or the traces lack execution or the other two kinds.
    """
    access = _readable(engine)
    shape, limit, usual = access.apply_model(lambda m: (model_shape(m), _longest(m), _usual_batch(m)))
    blocks = check_blocks(range(shape.num_layers) if recipe.blocks is None else recipe.blocks, shape.num_layers)
    found = _sort_traces(engine, runs, recipe, limit)

    def mean(texts: list[Text]) -> tuple[dict[int, torch.Tensor], dict[int, float]]:
        reading = Reading(texts, blocks, recipe.batch_tokens or usual)
        return _mean(access.apply_model(lambda m: read_states(m, reading)), texts)

    (execution, norms), (others, _) = mean(found.execution), mean(found.others)
    info = VectorInfo(
        model_id=engine.identity.model,
        model_type=shape.model_type,
        hidden_size=shape.hidden_size,
        num_layers=shape.num_layers,
        apply_layers=(min(blocks, key=lambda b: abs(b - round(DEFAULT_DEPTH * shape.num_layers))),),
        extract_layers=blocks,
        gamma=1.0,
        estimator="seal",
        n_pairs=len(found.source),
        position="break token before a thought",
        pair_source="; ".join(map(str, runs)),
        source_sha256=digest(found.source, 64),
        extra={"boundary": recipe.boundary, **{f"n_{kind}": str(n) for kind, n in sorted(found.kinds.items())}},
    )
    return SteeringVector({b: execution[b] - others[b] for b in blocks}, info, resid_norm=norms)


@dataclass
class _Sorted:
    """Break tokens before thoughts that execute and before others, thoughts by kind, and the traces that were read."""

    execution: list[Text] = field(default_factory=list)
    others: list[Text] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    source: list[list[str | int]] = field(default_factory=list)

    def add(self, ids: tuple[int, ...], n_prompt: int, thoughts: list[Thought]) -> None:
        """The thoughts of one trace; ``ids`` are prompt and thinking."""
        self.kinds.update(thought.kind for thought in thoughts)
        for texts, executes in ((self.execution, True), (self.others, False)):
            places = [n_prompt + each.opened_at for each in thoughts if (each.kind == "execution") == executes]
            if places:
                texts.append(Text(ids, tuple(places)))


def _sort_traces(engine: Engine, runs: Sequence[Path], recipe: SealRecipe, limit: int) -> _Sorted:
    """The thoughts of the longest correct traces that fit the model's length.

    Raises:
        BadInput: no break token in the vocabulary, or one of the two sides is empty.
    """
    chat = open_chat(resolve_model(engine.identity.model))
    breaks = gate_tokens(engine.identity.model, gate_texts(recipe.boundary))
    found = _Sorted()
    for problem, trace in _long_traces(runs, recipe.longest):
        before = engine.prompt_ids(Request(problem.id, messages=benchmark_messages(problem)))
        # The end tag, the last token of thinking, belongs to no thought.
        thinking = (trace.token_ids or ())[: trace.n_thinking_tokens]
        if len(before) + len(thinking) <= limit:
            thoughts = cut_thoughts(thinking[:-1], breaks, chat.decode, recipe)
            found.source.append([problem.id, trace.sample, len(thoughts)])
            found.add((*before, *thinking), len(before), thoughts)
    if not found.execution or not found.others:
        raise BadInput(
            f"seal: {dict(found.kinds) or 'no thoughts'} found in {len(found.source)} correct traces; execution and "
            f"reflection or transition are needed: give another --boundary than {recipe.boundary!r}, or longer traces"
        )
    return found


def _mean(states: Any, texts: Sequence[Text]) -> tuple[dict[int, torch.Tensor], dict[int, float]]:
    """Mean over all places of all texts, by block: of the states, of their norms."""
    import torch

    weights = torch.tensor([float(len(text.positions)) for text in texts])
    share = weights / weights.sum()
    pooled = {block: (share[:, None] * rows).sum(0) for block, rows in states.pooled.items()}
    return pooled, {block: float((share * norms).sum()) for block, norms in states.norms.items()}


def _long_traces(runs: Sequence[Path], share: float) -> list[tuple[Problem, Trace]]:
    found: list[tuple[Problem, Trace]] = []
    for run in runs:
        problems = {problem.id: problem for problem in read_records(Problem, Path(run) / "problems.jsonl")}
        grades = read_records(Grade, Path(run) / "grades.jsonl", torn_tail=True)
        good = {(g.problem_id, g.sample) for g in grades if g.status == "correct" and not g.truncated}
        for trace in read_records(Trace, Path(run) / "traces.jsonl", torn_tail=True):
            if (trace.problem_id, trace.sample) in good and trace.n_thinking_tokens:
                found.append((problems[trace.problem_id], trace))
    found.sort(key=lambda item: -item[1].n_thinking_tokens)
    return found[: max(1, round(share * len(found)))] if found else []
