"""Reasoning heads in the embedded reasoner's model card: what is lost when one KV head sees a window only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cot.embedded.card import CardPlan, Part, Record, Rounds, Table
from cot.embedded.probes import Finding, Probe
from cot.engine import EngineConfig
from cot.engines import open_engine
from cot.method import Method

from .windows import Head, WindowedHeads, head_grid

NOTE = """One KV head at a time sees only the first {sink} and the last {recent} tokens; accuracy of {problem} problems,
greedy. Then groups: the half that is missed least, the half that is missed most, and all heads.
"""


@dataclass(frozen=True)
class HeadSection:
    """Leave-one-out over all KV heads under a window, then halves by that ranking."""

    title: str = "Heads"
    sink: int = 4
    recent: int = 16
    share: float = 0.2
    """Problems per head, as a share of the plan's."""

    def rounds(self, model: Path, folder: Path, plan: CardPlan) -> Rounds:
        """One head at a time, then groups."""
        heads = _all_heads(model)
        count = max(1, round(self.share * plan.problems))
        found = yield [self._probe(plan, count, ()), *(self._probe(plan, count, (head,)) for head in heads)]
        ranked = sorted(zip(found[1:], heads, strict=True), key=lambda pair: -pair[0].accuracy)
        order = [head for _, head in ranked]
        half = len(order) // 2
        groups = yield [self._probe(plan, count, tuple(sorted(g))) for g in (order[:half], order[half:], order)]
        spread = ranked[0][0].accuracy - ranked[-1][0].accuracy
        figures: Record = {
            "full": found[0].record(),
            "heads": [{"head": list(head), **each.record()} for head, each in zip(heads, found[1:], strict=True)],
            "groups": {name: each.record() for name, each in zip(GROUPS, groups, strict=True)},
            "kv_heads": len(heads),
            "spread": round(spread, 4),
        }
        note = NOTE.format(sink=self.sink, recent=self.recent, problem=f"{count} {plan.split}")
        tables = [
            Table("", _grid(heads, found[1:])),
            Table("", [_row("no head", found[0]), *map(_row, GROUPS, groups)]),
        ]
        return Part(self.title, note + f"Spread between the least and the most needed: {100 * spread:.1f} points.\n",
                    figures, tables)  # fmt: skip

    def _probe(self, plan: CardPlan, count: int, heads: tuple[Head, ...]) -> Probe:
        method = WindowedHeads(heads, self.sink, self.recent) if heads else Method()
        return Probe("heads", _name(heads), method, split=plan.split, count=count)


GROUPS = ("the half missed least", "the half missed most", "all heads")


def _all_heads(model: Path) -> list[Head]:
    engine = open_engine(EngineConfig(str(model), "hf"))
    try:
        layers, heads = head_grid(engine)
    finally:
        engine.close()
    return [(layer, head) for layer in range(layers) for head in range(heads)]


def _name(heads: tuple[Head, ...]) -> str:
    return "windowed: " + " ".join(f"{layer}.{head}" for layer, head in heads) if heads else "no head windowed"


def _grid(heads: list[Head], found: list[Finding]) -> list[Record]:
    rows: dict[int, Record] = {}
    for (layer, head), each in zip(heads, found, strict=True):
        rows.setdefault(layer, {"layer": layer})[f"head {head}"] = f"{each.accuracy:.3f} at {each.thinking_tokens:.0f}"
    return list(rows.values())


def _row(name: str, found: Finding) -> Record:
    low, high = found.record()["interval"]
    return {"windowed": name, "n": found.n, "accuracy": f"{found.accuracy:.3f}", "interval": f"{low:.3f} to {high:.3f}",
            "tokens": f"{found.thinking_tokens:.1f}", "cut": found.truncated}  # fmt: skip
