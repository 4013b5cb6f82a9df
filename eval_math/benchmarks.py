"""The benchmarks by name, from a local file or folder or from the hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .errors import BadInput
from .problem_files import SUFFIXES, Naming, bare_name, build_problems, is_problem_file, read_problems
from .records import Problem, digest

logger = logging.getLogger(__name__)

DATA_VARIABLE = "LACONIC_DATA"
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


@dataclass(frozen=True)
class SplitSource:
    """One split: how many problems it has, where the hub keeps it, what its files are called in a data folder.

    ``files`` are read one after the other; ``file_count`` is their number of problems where it is not ``count``.
    """

    hub_split: str
    count: int
    files: tuple[str, ...] = ()
    prefix: str = ""
    file_count: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on the hub, pinned to one commit of its dataset."""

    name: str
    hub: str
    revision: str
    splits: Mapping[str, SplitSource]
    configs: tuple[str | None, ...] = (None,)
    id_field: str = ""


BENCHMARKS: Mapping[str, Benchmark] = {
    "gsm8k": Benchmark(
        "gsm8k",
        "openai/gsm8k",
        "740312add88f781978c0658806c59bc2815b9866",
        {
            "test": SplitSource("test", 1319, ("gsm8k_test.jsonl",), "gsm8k/test/"),
            "train": SplitSource("train", 7473, ("gsm8k_train.jsonl.gz",), "gsm8k/train/"),
        },
        configs=("main",),
    ),
    "math500": Benchmark(
        "math500",
        "HuggingFaceH4/MATH-500",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        {"test": SplitSource("test", 500, ("math500.jsonl",), "math500/")},
        id_field="unique_id",
    ),
    "aime24": Benchmark(
        "aime24",
        "HuggingFaceH4/aime_2024",
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        {"test": SplitSource("train", 30, ("aime24.jsonl",), "aime24/")},
    ),
    "aime25": Benchmark(
        "aime25",
        "math-ai/aime25",
        "563bb8404243c5f09de6ec262f2db674fe5bce9b",
        {"test": SplitSource("test", 30, ("aime25.jsonl",), "aime25/")},
    ),
    "math": Benchmark(
        "math",
        "EleutherAI/hendrycks_math",
        "21a5633873b6a120296cce3e2df9d5550074f4a3",
        {
            "test": SplitSource("test", 5000, ("math500.jsonl", "math_test_rest.jsonl.gz"), "math_test/"),
            "train": SplitSource("train", 7500, ("math_train.jsonl.gz",), "math_train/", file_count=7472),
        },
        configs=MATH_SUBJECTS,
    ),
    "gsm-hard": Benchmark(
        "gsm-hard",
        "reasoning-machines/gsm-hard",
        "960448f73503112d4226baeb8eb41d3fb5ae2506",
        {"test": SplitSource("train", 1319, ("gsm_hard.jsonl",), "gsm_hard/")},
    ),
    "svamp": Benchmark(
        "svamp",
        "ChilleD/SVAMP",
        "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
        {
            "test": SplitSource("test", 300, ("svamp.jsonl",), "svamp/", file_count=1000),
            "train": SplitSource("train", 700, (), "svamp/"),
        },
        id_field="ID",
    ),
}
"""By name. `svamp` from a file is the authors' one set of 1,000; the hub splits it 700 to 300. `math` train from a file
lacks the 28 problems of which its collection has none."""


def load(
    benchmark: str,
    *,
    split: str = "test",
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> list[Problem]:
    """The problems of a benchmark, or of a local file given in its place.

    Args:
        data: a file, or a folder with files named as in `BENCHMARKS` (or with a folder ``benchmarks`` that has
            them); default: the folder named by the environment variable LACONIC_DATA, else the hub.
        limit: only so many problems: the first ones, or with ``seed`` the first after a shuffle by that seed. A
            larger limit with the same seed keeps the problems of a smaller one.

    Raises:
        BadInput: unknown benchmark or split, data not reachable, a wrong number of problems, or a bad file (line
            named).
    """
    if limit is not None and limit < 1:
        raise BadInput(f"limit={limit}: at least 1 problem is expected")
    problems = _load(benchmark, split, Path(data).expanduser() if data else None)
    return choose(problems, limit, seed)


def choose(problems: Sequence[Problem], limit: int | None, seed: int | None) -> list[Problem]:
    """The first ``limit`` problems, with ``seed`` after a shuffle; all of them, in order, without ``limit``."""
    if limit is None or limit >= len(problems):
        return list(problems)
    if seed is not None:
        problems = sorted(problems, key=lambda problem: digest([seed, problem.id]))
    return list(problems[:limit])


def find(benchmark: str, known: Sequence[str] = tuple(BENCHMARKS)) -> Benchmark:
    """The entry of `BENCHMARKS`.

    Raises:
        BadInput: unknown name; lists ``known``, and a near match.
    """
    entry = BENCHMARKS.get(benchmark.strip().lower().replace("_", "-"))
    if entry is None:
        near = get_close_matches(benchmark, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadInput(
            f"unknown benchmark {benchmark!r}; {hint}known: {', '.join(known)}, or a file {', '.join(SUFFIXES)}"
        )
    return entry


def is_file(benchmark: str) -> bool:
    """True if ``benchmark`` names a problem file rather than a benchmark."""
    return is_problem_file(benchmark)


def _load(benchmark: str, split: str, data: Path | None) -> list[Problem]:
    if is_file(benchmark):
        if data is not None and not Path(benchmark).exists():
            return _from_file((data / benchmark).expanduser())
        return _from_file(Path(benchmark).expanduser())
    entry = find(benchmark)
    part = entry.splits.get(split)
    if part is None:
        raise BadInput(f"benchmark {entry.name} has no split {split!r}; choose one of {', '.join(entry.splits)}")
    if data is not None:
        return _from_data(entry, part, data)
    folder = os.environ.get(DATA_VARIABLE)
    files = _files_in(Path(folder).expanduser(), part) if folder else None
    if files:
        return _from_known_files(entry, part, files)
    return _from_hub(entry, part, folder)


def _from_file(path: Path) -> list[Problem]:
    """Any problem file; one that is named as a benchmark's file is named and checked as that benchmark."""
    for entry in BENCHMARKS.values():
        for part in entry.splits.values():
            if part.files == (path.name,):
                return _from_known_files(entry, part, [path])
    stem = bare_name(path)
    return read_problems(path, Naming(stem, f"{stem}/"))


def _from_data(entry: Benchmark, part: SplitSource, data: Path) -> list[Problem]:
    if not data.exists():
        raise BadInput(f"{data}: no such file or folder; --data expects a problem file or a folder of them")
    if data.is_dir():
        files = _files_in(data, part)
        if not files:
            raise BadInput(
                f"{data}: {' and '.join(part.files) or f'a file for this split of {entry.name}'} is neither there nor "
                "in its folder benchmarks; name the file itself, or leave --data out to use the hub"
            )
        return _from_known_files(entry, part, files)
    if data.name in part.files and len(part.files) == 1:
        return _from_known_files(entry, part, [data])
    problems = read_problems(data, Naming(entry.name, part.prefix))
    if len(problems) != part.count:
        logger.warning("%s: %d problems taken as %s, which has %d", data, len(problems), entry.name, part.count)
    return problems


def _files_in(folder: Path, part: SplitSource) -> list[Path] | None:
    """The files of a split in a data folder, None if one is missing."""
    for place in (folder, folder / "benchmarks"):
        files = [place / name for name in part.files]
        if files and all(file.is_file() for file in files):
            return files
    return None


def _from_known_files(entry: Benchmark, part: SplitSource, files: Sequence[Path]) -> list[Problem]:
    naming = Naming(entry.name, part.prefix)
    problems = [problem for file in files for problem in read_problems(file, naming)]
    _check_count(entry, part.file_count or part.count, len(problems), " and ".join(map(str, files)))
    return problems


def _from_hub(entry: Benchmark, part: SplitSource, folder: str | None) -> list[Problem]:
    rows = [row for config in entry.configs for row in _hub_rows(entry, part, config, folder)]
    source = f"{entry.hub}@{entry.revision[:12]}"
    naming = Naming(entry.name, part.prefix, entry.id_field)
    problems = build_problems(enumerate(rows, 1), naming, source, unit="row")
    _check_count(entry, part.count, len(problems), source)
    return problems


def _hub_rows(entry: Benchmark, part: SplitSource, config: str | None, folder: str | None) -> list[dict[str, Any]]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        table = datasets.load_dataset(entry.hub, config, revision=entry.revision, split=part.hub_split)
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        wanted = " and ".join(part.files)
        looked = f"; {DATA_VARIABLE}={folder} does not hold {wanted} either" if folder and wanted else ""
        where = f", or set {DATA_VARIABLE} to a folder that holds {wanted}" if wanted else ""
        raise BadInput(
            f"benchmark {entry.name}: {entry.hub} could not be loaded from the hub ({reason}){looked}. "
            f"Pass a file or folder with --data{where}"
        ) from error
    return [dict(row) for row in table]


def _check_count(entry: Benchmark, expected: int, found: int, source: str) -> None:
    if found != expected:
        raise BadInput(
            f"{source}: {found} problems found, {entry.name} has {expected}; the file is cut short or of another "
            "version (rename it to use it as a set of its own)"
        )
