"""The dataset card: what the rows are made of, and what was refused, out of the manifest and the counts alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval_math.files import write_atomic
from eval_math.records import Json

from .driver import Counts
from .stats import JobStats

CARD = "README.md"


def write_card(folder: Path, manifest: Mapping[str, Any], stats: JobStats, counts: Counts) -> None:
    """Write ``README.md`` into the dataset folder; what is not known is called unknown."""
    write_atomic(folder / CARD, "\n".join([*_header(stats), *_sections(manifest, stats, counts)]) + "\n")


def _header(stats: JobStats) -> list[str]:
    """The block that the `datasets` library and the hub read."""
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in stats.splits:
        lines += [f"  - split: {split}", f"    path: {split}.jsonl"]
    return [*lines, "---", ""]


def _sections(manifest: Mapping[str, Any], stats: JobStats, counts: Counts) -> list[str]:
    config, figures = manifest["config"], stats.to_json()
    return [
        f"# Compressed chains of thought: {config['method']['name']}",
        "",
        "## Made from",
        "",
        *_table(["source", "rows", "model", "sha256"], [_source(each) for each in manifest["sources"]]),
        "",
        "Licences of the sources and of their models' outputs: unknown to the tool that wrote this card; look them up "
        "before you pass the rows on.",
        "",
        "## Made with",
        "",
        *_table(["what", "value"], _making(manifest, config, counts)),
        "",
        "## Rows",
        "",
        f"{stats.sources} source rows, of which {stats.duplicates} had the content of an earlier one.",
        "",
        *_table(["source rows", "count"], sorted(stats.statuses.items())),
        "",
        *_table(
            ["condition", "rows", "kept ratio: mean", "p5", "median", "p95", "thinking tokens: mean"], _kinds(stats)
        ),
        "",
        *_table(["split", "rows"], sorted(stats.splits.items())),
        "",
        "## Refused",
        "",
        f"{stats.attempts} rewrites were checked, {stats.rejected_attempts} failed at least one gate; each is in "
        "`rejected.jsonl` with its reasons.",
        "",
        *_table(["gate", "rewrites refused"], sorted(stats.gates.items(), key=lambda item: -item[1])),
        "",
        *_table(["source left out", "rows"], sorted(stats.errors.items(), key=lambda item: -item[1])),
        "",
        "Accepted by length of the source's thinking, and by level of the problem: a compressor that does well on what "
        "is short and easy makes a dataset of it.",
        "",
        *_table(["thinking tokens", "accepted", "of"], _accepted(figures["accepted_by_length"])),
        "",
        *_table(["level", "accepted", "of"], _accepted(figures["accepted_by_level"])),
        "",
        "## Limits",
        "",
        "Answers were checked with laconic's grader, numbers and equations by the gates; whether a rewritten step is "
        "sound was not. The whole configuration, prompts by their hash, is in `manifest.json`.",
    ]


def _source(each: Mapping[str, Any]) -> list[Any]:
    return [
        f"{Path(each['path']).name} ({each['kind']})",
        each["rows"],
        each["about"].get("model", "unknown"),
        each["sha256"][:16],
    ]


def _making(manifest: Mapping[str, Any], config: Mapping[str, Any], counts: Counts) -> list[list[Any]]:
    last, writer = manifest["sessions"][-1], manifest["writer"]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    work = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(counts).items() if value)
    return [
        [
            "writer",
            f"{writer['model']} ({writer['engine']}, {writer['dtype']}, {writer['model_hash']})" if writer else "none",
        ],
        ["student", f"{config['student']['name']} (template {config['student']['template_hash']})"],
        ["method", f"`{_shown(config['method'])}`"],
        ["gates", f"`{_shown(config.get('gates', 'none'))}`"],
        ["seed", config["seed"]],
        ["last session", work or "nothing new"],
        ["versions", versions],
        ["hardware", last["hardware"]],
    ]


def _kinds(stats: JobStats) -> list[list[Any]]:
    rows = []
    for name, n in sorted(stats.rows.items()):
        ratio, length = stats.ratios[name].figures(), stats.thinking[name].figures()
        rows.append(
            [name, n, *(_number(ratio[each]) for each in ("mean", "p5", "median", "p95")), _number(length["mean"])]
        )
    return rows


def _accepted(figures: Json) -> list[list[Any]]:
    assert isinstance(figures, dict)
    return [[name, *(value if isinstance(value, list) else [value])] for name, value in figures.items()]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return [f"(no {head[0]})"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows)]


def _shown(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _number(value: Json) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
