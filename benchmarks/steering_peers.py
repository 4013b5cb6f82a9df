"""Extraction beside other libraries: the same 100 pairs as text, the same model, in one process, interleaved.

    python -m benchmarks.steering_peers [--pairs 9] [--json FILE]

repeng (`pip install repeng`) and steering-vectors (`pip install steering-vectors`) are measured where they
run with what is installed; else the reason is printed. Each is called as its README shows, on all
blocks that it can read; they differ in what they estimate (repeng: principal components; steering-vectors: mean
difference), which costs little beside the forward passes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import tyro

from benchmarks.interleaved import measure
from benchmarks.steering import _rate, written_pairs

if TYPE_CHECKING:
    from cot.engine import Engine
    from eval_math.records import Pair

Texts = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Peers:
    """Pairs per second of ours over theirs."""

    pairs: int = 9
    """Interleaved pairs of measurements."""
    count: int = 100
    """Pairs of traces."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: Peers) -> int:
    """Measure and print."""
    from cot.engine import EngineConfig
    from cot.engines import open_engine
    from scripts.command import write_figures
    from steering.extraction import extract

    written = written_pairs(command.count)
    engine: Any = open_engine(EngineConfig("embedded", "hf"))
    found = {}
    for name, work in PEERS.items():
        try:
            theirs = work(engine, _texts(engine, written))
            theirs()
        except Exception as error:  # noqa: BLE001
            print(f"{name}: does not run here: {type(error).__name__}: {error}")
            continue
        ratio = measure(
            name,
            lambda: _rate(command.count, lambda: extract(engine, written)),
            lambda theirs=theirs: _rate(command.count, theirs),
            pairs=command.pairs,
            goal=1.0,
        )
        print(f"extraction over {name}: {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
        found[name] = asdict(ratio)
    write_figures(command.json, found)
    return 0


def _texts(engine: Engine, pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Short and long side of each pair as the text of our own encoding."""
    from cot.chat import open_chat, resolve_model
    from steering.extraction import PairEncoder, Recipe, benchmark_prompt

    chat = open_chat(resolve_model(engine.identity.model))
    encoder = PairEncoder(engine, chat, Recipe(), benchmark_prompt)
    sides = [encoder.sides(pair) for pair in pairs]
    return [(chat.decode_all(short.ids), chat.decode_all(long.ids)) for long, short in sides]


def repeng(engine: Any, texts: Texts) -> Callable[[], object]:
    """repeng's ControlVector.train, as its README shows it."""
    from repeng import ControlModel, ControlVector, DatasetEntry

    tokenizer = _tokenizer()
    layers = engine.apply_model(lambda model: list(range(model.config.num_hidden_layers)))
    rows = [DatasetEntry(positive=short, negative=long) for short, long in texts]

    def train() -> object:
        model = ControlModel(engine.apply_model(lambda model: model), layers)
        try:
            return ControlVector.train(model, tokenizer, rows)
        finally:
            model.unwrap()

    return train


def steering_vectors(engine: Any, texts: Texts) -> Callable[[], object]:
    """steering-vectors' train_steering_vector, at its largest batch size of ours."""
    from steering_vectors import train_steering_vector

    tokenizer = _tokenizer()
    model = engine.apply_model(lambda model: model)
    return lambda: train_steering_vector(model, tokenizer, list(texts), batch_size=32, show_progress=False)


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    from cot.chat import resolve_model

    return AutoTokenizer.from_pretrained(resolve_model("embedded"))


PEERS: dict[str, Callable[[Any, Texts], Callable[[], object]]] = {
    "repeng": repeng,
    "steering-vectors": steering_vectors,
}


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Peers, description=__doc__)))
