"""The ``laconic`` command: finds the chosen command's file, reads its flags, turns errors into one line.

Only the chosen command is imported, and each imports torch or vllm only once it runs, so that help is instant.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("eval_math", "cot", "steering", "latent", "rl")


@dataclass(frozen=True)
class Entry:
    """One command: its module in this package, the dataclass of its flags, a line of help."""

    module: str
    flags: str
    summary: str


COMMANDS: dict[tuple[str, ...], Entry] = {
    ("demo",): Entry("demo", "Demo", "pairs, vector, baseline and steered runs, report: the main job in minutes"),
    ("eval",): Entry("eval", "Eval", "run a model with a method on a benchmark, grade it, store it"),
    ("grade",): Entry("grade", "GradeFile", "grade a file of outputs"),
    ("report",): Entry("report", "Report", "one HTML page from run folders: figure, tables, traces; or md, csv, svg"),
    ("compare",): Entry("compare", "Compare", "one run against another, problem by problem"),
    ("steer", "pairs"): Entry("steer_pairs", "SteerPairs", "long and short traces of the same problems"),
    ("steer", "extract"): Entry("steer_extract", "SteerExtract", "a steering vector from pairs"),
    ("steer", "sweep"): Entry("steer_sweep", "SteerSweep", "find block and strength on a dev set"),
    ("steer", "calibrate"): Entry("steer_calibrate", "SteerCalibrate", "a strength for a budget of divergence"),
    ("steer", "bake"): Entry("steer_bake", "SteerBake", "a model folder with a vector in its weights"),
    ("steer", "show"): Entry("steer_show", "SteerShow", "what a vector file holds"),
    ("steer", "import"): Entry("steer_import", "SteerImport", "a vector from ASC's release, an array or GGUF"),
    ("steer", "export-vector"): Entry("steer_export_vector", "SteerExportVector", "a vector as GGUF or .npy"),
    ("steer", "serve"): Entry("steer_serve", "SteerServe", "an OpenAI-compatible vLLM server, steered per request"),
    ("compress", "c3ot"): Entry("compress", "CompressC3ot", "long and short traces behind conditions, to train on"),
    ("compress", "adapt"): Entry("compress_adapt", "CompressAdapt", "each trace at the level a student can learn from"),
    ("compress", "r1-compress"): Entry("compress", "CompressR1", "traces rewritten chunk by chunk, to train on"),
    ("compress", "tokenskip"): Entry("compress", "CompressTokenSkip", "traces without unimportant words, to train on"),
    ("compress", "shortest"): Entry("compress", "CompressShortest", "shortest correct samples, to train on or prefer"),
    ("compress", "reference"): Entry("compress", "CompressReference", "reference solutions as thoughts, to train on"),
    ("compress", "explain"): Entry("compress", "CompressExplain", "what the gates said about one trace"),
    ("train", "sft"): Entry("train_sft", "TrainSft", "fine-tune a model on rows of prompt and completion"),
    ("train", "dpo"): Entry("train_dpo", "TrainDpo", "train a model on preferred and rejected completions"),
    ("train", "colar"): Entry("train_latent", "TrainColar", "teach a model to think in latents (CoLaR)"),
    ("train", "colar-rl"): Entry("train_colar_rl", "TrainColarRl", "make short correct chains of latents likelier"),
    ("train", "latent-sft"): Entry("train_latent", "TrainLatentSft", "teach a model to think in mixtures (Latent-SFT)"),
    ("train", "icot"): Entry("train_latent", "TrainIcot", "teach a model to answer without thinking (iCoT)"),
    ("train", "coconut"): Entry("train_latent", "TrainCoconut", "teach a model to think in hidden states (Coconut)"),
    ("heads", "find"): Entry("heads_find", "HeadsFind", "score KV heads by how much reasoning needs them (RLKV)"),
    ("heads", "show"): Entry("heads_show", "HeadsShow", "which heads a table ranks first, as text and heat map"),
    ("heads", "plan"): Entry("heads_plan", "HeadsPlan", "memory of a KV cache by plan, without loading weights"),
    ("route", "fit"): Entry("route_fit", "RouteFit", "learn from runs which questions are worth thinking about"),
    ("route", "eval"): Entry("route_eval", "RouteEval", "what a router saves and loses on other runs"),
    ("route", "serve"): Entry("route_serve", "RouteServe", "an OpenAI-compatible proxy that thinks only when it pays"),
    ("train", "embedded"): Entry("train_embedded", "TrainEmbedded", "train the reasoner that ships with laconic"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit code (0 done, 2 bad input, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(overview())
        return 0
    if words[0] == "--version":
        print(_version())
        return 0
    name = _chosen(words)
    if name is None:
        return _unknown(words)
    from eval_math.errors import BadInput, LaconicError

    try:
        _refuse_shadows()
        return _run(name, words[len(name) :])
    except KeyboardInterrupt:
        _complain("interrupted; whatever was finished is stored, and the same command goes on from there")
        return 130
    except BadInput as error:
        _complain(f"error: {error}")
    except LaconicError as error:
        _complain(f"error: {type(error).__name__}: {error}")
    except OSError as error:
        if error.errno == errno.EPIPE:
            _silence_stdout()
            return 0
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}:
            raise
        _complain(f"error: {error.filename or 'a file'}: {error.strerror}; free some space or choose another folder")
    return 2


def overview() -> str:
    """The text of ``laconic --help``."""
    lines = ["laconic: shorter, cheaper chains of thought at equal accuracy", "", "usage: laconic COMMAND [flags]", ""]
    width = max(len(" ".join(name)) for name in COMMANDS)
    lines += [f"  {' '.join(name):<{width}}  {entry.summary}" for name, entry in COMMANDS.items()]
    lines += ["", "laconic COMMAND --help shows the flags. Every default runs on the reasoner that ships with laconic."]
    return "\n".join(lines)


def _chosen(words: Sequence[str]) -> tuple[str, ...] | None:
    return next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS), None)


def _unknown(words: Sequence[str]) -> int:
    import difflib

    group = [" ".join(name) for name in COMMANDS if name[0] == words[0]]
    if group and words[1:2] in (["-h"], ["--help"]):
        print(f"usage: laconic {words[0]} COMMAND; one of: {', '.join(group)}")
        return 0
    if group:
        _complain(f"error: {words[0]!r} needs one of: {', '.join(group)}")
        return 2
    near = difflib.get_close_matches(words[0], [" ".join(n) for n in COMMANDS], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    _complain(f"error: unknown command {words[0]!r}{hint} `laconic --help` lists them all")
    return 2


def _run(name: tuple[str, ...], words: Sequence[str]) -> int:
    from .command import parse

    _quieten()
    entry = COMMANDS[name]
    module = importlib.import_module(f".{entry.module}", __package__)
    command = parse(getattr(module, entry.flags), words, prog="laconic " + " ".join(name))
    return int(module.run(command))


def _refuse_shadows() -> None:
    from eval_math.errors import BadInput

    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent.parent != root:
            raise BadInput(
                f"package {package!r} comes from {origin or 'nowhere'}, not from laconic ({root}); "
                "another distribution or a file of yours shadows it: rename that file or use a fresh environment"
            )


def _quieten() -> None:
    """Notes that libraries print while they are imported would bury what the command says; set before any import."""
    for name, value in {"TORCH_CPP_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        import warnings

        warnings.filterwarnings("ignore", message=".*torch.distributed.reduce_op.*", category=FutureWarning)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"laconic {version('laconic')}"
    except PackageNotFoundError:
        return "laconic (not installed)"


def _complain(text: str) -> None:
    print(f"laconic: {text}", file=sys.stderr)


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
