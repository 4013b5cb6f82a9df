"""What R1-Compress's settings change in its rows: chunk size, versions, share kept, how versions are scored.

    python -m benchmarks.r1_ablation --traces RUN [--limit 150] [--out FOLDER] [--json FILE]

One setting is changed at a time. Of each dataset: rows kept, share of the thinking kept, chunks rewritten, reflection
marks kept, calls of the writer and scorings per row, and the share of the writer's prompt tokens that vLLM had cached.
The same command again goes on where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

BASE = ("--versions", "4")
CHANGES: dict[str, tuple[str, ...]] = {
    "base": (),
    "min_words 10": ("--min-words", "10"),
    "min_words 40": ("--min-words", "40"),
    "1 version": ("--versions", "1"),
    "8 versions": ("--versions", "8"),
    "keep 0.25": ("--keep", "0.25"),
    "keep 1": ("--keep", "1"),
    "keep 1, sum": ("--keep", "1", "--score", "sum"),
}
HEADS = ("setting", "rows", "kept", "chunks rewritten", "reflections", "calls/row", "scorings/row", "cached")


@dataclass(frozen=True)
class Ablation:
    """Datasets of the same traces under other settings."""

    traces: Path
    """Run folder with long traces."""
    limit: int = 150
    """The first so many."""
    block_size: int = 32
    """Tokens per block of vLLM's prefix cache: prompts shorter than a block share nothing."""
    out: Path = Path("r1-ablation")
    """Folder for the datasets."""
    json: str | None = None
    """Write the figures to this file (`-`: standard output)."""


def run(command: Ablation) -> int:
    """Make what is missing, print a line per setting."""
    from scripts.command import write_figures

    print(" | ".join(HEADS))
    found = {}
    for name, words in CHANGES.items():
        folder = command.out / name.replace(" ", "-").replace(",", "")
        if not (folder / "_SUCCESS").exists():
            _make(command, folder, words)
        found[name] = figures(folder)
        print(" | ".join([name, *(f"{value:.3g}" for value in found[name].values())]), flush=True)
    write_figures(command.json, found)
    return 0


def figures(folder: Path) -> dict[str, float]:
    """The figures of one dataset."""
    stats = json.loads((folder / "stats.json").read_text("utf-8"))
    calls = list(_calls(folder))
    traces = [call["trace"] for call in calls if "trace" in call]
    prompt = sum(trace["n_prompt_tokens"] for trace in traces)
    cached = sum(trace["provenance"].get("cached_tokens_in_batch", 0) for trace in traces)
    means = {name: each["mean"] for name, each in stats["figures"].items()}
    return {
        "rows": stats["rows"].get("rewritten", 0),
        "kept_ratio": stats["kept_ratio"]["rewritten"]["mean"],
        "chunks_rewritten": means["chunks_rewritten"] / means["chunks"],
        "reflections_kept": means["reflections_kept"] / means["reflections_source"],
        "calls_per_row": len(traces) / stats["sources"],
        "scorings_per_row": (len(calls) - len(traces)) / stats["sources"],
        "cached_share": cached / prompt if prompt else 0.0,
    }


def _calls(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("shard-*/calls.jsonl")):
        with file.open("rb") as lines:
            yield from map(json.loads, lines)


def _make(command: Ablation, folder: Path, words: tuple[str, ...]) -> None:
    options = ("--batch-size", "64", "--engine", "vllm", "--engine-options", f"block_size={command.block_size}")
    where = ("--traces", str(command.traces), "--limit", str(command.limit), "--out", str(folder))
    chosen = {**dict(zip(BASE[::2], BASE[1::2], strict=True)), **dict(zip(words[::2], words[1::2], strict=True))}
    flat = [word for pair in chosen.items() for word in pair]
    called = [sys.executable, "-m", "laconic_cli.main", "compress", "r1-compress", *where, *options, *flat]
    subprocess.run(called, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Ablation, description=__doc__)))
