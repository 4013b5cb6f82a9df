"""Latent reasoners as methods: what is asked, and who takes the steps between the tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeGuard

from cot.chat import resolve_model
from cot.engine import Engine, LatentAccess, ModelAccess, Step, Thinker
from cot.method import Method
from eval_math.errors import BadInput
from eval_math.records import Request, Trace

from .config import LatentConfig, StopName, is_latent
from .noise import noise_seed
from .reasoner import check_embeddings, load_extras, rule_of
from .rows import with_speed
from .rules import FeedRule, ends
from .serving import thinking_as

CONFIG = "latent_config"
"""Attribute of a model in memory that says which reasoner it is."""


@dataclass
class Thought:
    """A chain of latents on its way: its noise seed, and how many it has."""

    seed: int
    n: int = 0


@dataclass(frozen=True)
class RuleThinker:
    """A `Thinker` by a feed rule and a stop rule; it opens requests whose prompt ends with the start tag."""

    config: LatentConfig
    rule: FeedRule

    def open(self, request: Request, prompt_ids: Sequence[int]) -> Thought | None:
        """A new chain, seeded by the request."""
        return Thought(noise_seed(request.sampling.seed)) if prompt_ids[-1] == self.config.start_id else None

    def steps(self, hidden: Any, logits: Any, states: Sequence[Thought]) -> Sequence[Step]:
        """The end tag for chains that end, the next latent for the others."""
        places = [(state.seed, state.n) for state in states]
        done = ends(logits, places, self.config).tolist()
        feeds = self.rule(hidden, logits, places)
        for state in states:
            state.n += 1
        return [Step(self.config.end_id) if over else Step(None, feed) for over, feed in zip(done, feeds, strict=True)]


@dataclass(frozen=True)
class Latent(Method):
    """A trained latent reasoner: the model folder says how it thinks; what is given here overrides it."""

    name: ClassVar[str] = "latent"
    summary: ClassVar[str] = "a latent reasoner, as its folder says"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "latent"})

    rate: int | None = None
    """Tokens per latent that the question asks for; the smallest of the training if none is given."""
    temperature: float | None = None
    """Factor of the latents' spread or noise; 0 for none."""
    max_steps: int | None = None
    stop: StopName | None = None

    def check(self, engine: Engine) -> None:
        """Refuse a model that is no latent reasoner of this kind."""
        self.configured(engine)

    def attach(self, engine: Engine) -> AbstractContextManager[Any]:
        """Let the reasoner's rule take the steps."""
        config = self.configured(engine)
        return thinking_as(engine, config) if _is_served(engine) else thinking(engine, config)

    def drive(self, engine: Engine, requests: Iterable[Request]) -> Iterator[Trace]:
        """The requests as the reasoner was taught to read them: the speed said, the start tag at the end."""
        config = self.configured(engine)
        said = config.speed(self.rate)
        return engine.generate(asked(engine, request, said, config.start_id) for request in requests)

    def configured(self, engine: Engine) -> LatentConfig:
        """The reasoner's configuration with this method's changes.

        Raises:
            BadInput: the model is no latent reasoner, or made by another training.
        """
        config = config_of(engine)
        if self.name not in ("latent", config.method):
            raise BadInput(f"method {self.name}: the model was made by {config.method}; take method {config.method}")
        config.speed(self.rate)
        return config.changed(temperature=self.temperature, max_steps=self.max_steps, stop=self.stop)


def asked(engine: Engine, request: Request, said: str, start_id: int) -> Request:
    """The request with ``said`` after its last message (none is there if it came as ids), ending with the start tag."""
    if said and request.messages:
        request = replace(request, messages=with_speed(request.messages, said))
    return opened(engine, request, start_id)


def opened(engine: Engine, request: Request, start_id: int) -> Request:
    """The request, its prompt ending with the start tag."""
    if engine.prompt_ids(request)[-1] == start_id:
        return request
    return replace(request, prefill_ids=(*request.prefill_ids, start_id))


def config_of(engine: Engine) -> LatentConfig:
    """The configuration of the reasoner that an engine runs.

    Raises:
        BadInput: the engine runs a plain model, or cannot be fed embeddings.
    """
    if not isinstance(engine, ModelAccess):
        raise BadInput(f"engine {engine.identity.engine} cannot be fed latents; take hf or vllm")
    config = engine.apply_model(lambda model: getattr(model, CONFIG, None))
    if isinstance(config, LatentConfig):
        return config
    folder = resolve_model(engine.identity.model)
    if not is_latent(folder):
        raise BadInput(
            f"model {engine.identity.model!r} is no latent reasoner; `laconic train colar` or `latent-sft` makes one"
        )
    if not isinstance(engine, LatentAccess):
        raise BadInput(
            f"{folder}: config.json names no architecture that thinks in vLLM; call latent.serving.mark_for_vllm "
            "on the folder, or take engine hf"
        )
    return engine.apply_model(lambda model: remember(model, load_extras(model, folder)))


def _is_served(engine: Engine) -> TypeGuard[ModelAccess]:
    """Whether the engine's own model takes the steps, as in vLLM."""
    return isinstance(engine, ModelAccess) and engine.apply_model(lambda model: hasattr(model, "think_as"))


def remember(model: Any, config: LatentConfig) -> LatentConfig:
    """Note on the model which reasoner it is."""
    setattr(model, CONFIG, config)
    return config


def thinking(engine: Engine, config: LatentConfig) -> AbstractContextManager[None]:
    """Latent thinking by ``config`` as long as the block lasts; see `thinking_by`."""
    return thinking_by(engine, lambda model: RuleThinker(config, rule_of(model, config)))


@contextmanager
def thinking_by(engine: Engine, make: Callable[[Any], Thinker]) -> Iterator[None]:
    """Latent thinking by what ``make`` makes of the engine's model, as long as the block lasts.

    Raises:
        BadInput: the engine's model cannot be fed embeddings.
    """
    if not (isinstance(engine, LatentAccess) and isinstance(engine, ModelAccess)):
        raise BadInput(f"engine {engine.identity.engine} cannot be fed latents by this method; take hf")
    engine.apply_model(check_embeddings)
    stop = engine.think_with(engine.apply_model(make))
    try:
        yield
    finally:
        stop()
