"""R1-Compress: long traces shortened chunk by chunk, the versions chosen by the model's own probability.

arXiv 2505.16838. A trace is cut into chunks; a writer gives several shorter versions of each; from left to right, of
the shortest versions the one is taken that a reasoning model finds likeliest after the question and what was chosen
before. Reflection survives that a rewrite of the whole trace would remove. What we could find of the paper leaves open
the number of versions, the share that the length filter keeps, the temperature, the prompt, whether log-probabilities
are summed or averaged, and the longest chunk: those defaults are ours and marked so. Further departures: the original
chunk is always a version, so that every chunk has one; versions and the whole trace pass the gates of
`datagen.gates`; writer and scorer may be one model.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from eval_math.errors import BadInput
from eval_math.records import Json, Message, Request, Sampling, Trace

from .datagen.admission import admit, data_row, question_prompt
from .datagen.gates import Candidate, Rejection, check, clean
from .datagen.prompt_files import filled, prompts_hash, read_prompts
from .datagen.records import Attempt, Call, Generate, Outcome, Reply, Score, SourceRow
from .datagen.rewriter import Bench, Work
from .datagen.student import Output
from .segments import Boundary, Chunk, count_reflections, join_chunks, split_chunks

PROMPTS = "r1_compress"


@dataclass(frozen=True)
class Version:
    """One way to write a chunk; number 0 is the chunk as it stands in the source."""

    number: int
    text: str
    n_tokens: int


@dataclass(frozen=True)
class R1Compress:
    """How the dataset is made."""

    name: ClassVar[str] = "r1-compress"

    min_words: int = 50
    """A chunk ends at the first boundary after so many words (the paper's example)."""
    max_words: int = 400
    """No chunk is longer (ours)."""
    boundary: Boundary = "paragraph"
    """Where a chunk may end: after a blank line (the paper), or after a sentence."""
    versions: int = 8
    """M, rewrites of each chunk (ours)."""
    keep: float = 0.5
    """alpha, the share of a chunk's versions, shortest first, that the search chooses from (ours)."""
    score: Literal["mean", "sum"] = "mean"
    """Log-probability per token, or of the whole version (ours)."""
    temperature: float = 0.7
    """Of the writer (ours)."""
    top_p: float = 0.95
    """Of the writer (ours)."""
    compressor: str = "general"
    """Prompt of the writer, by its name in the prompt file; `embedded` is the skill of the embedded reasoner."""
    prompt_file: Path | None = None
    """Other prompts, in the form of ``cot/prompts/r1_compress.json``."""

    def __post_init__(self) -> None:
        known = read_prompts(PROMPTS, self.prompt_file).get("compressors", {})
        if self.compressor not in known:
            raise BadInput(f"r1-compress: compressor={self.compressor!r} unknown; the file has {', '.join(known)}")
        if self.versions < 0:
            raise BadInput(f"r1-compress: versions={self.versions}, 0 or more are expected")
        if not 0 < self.keep <= 1:
            raise BadInput(f"r1-compress: keep={self.keep}, a share above 0 and up to 1 is expected")

    @property
    def needs(self) -> frozenset[str]:
        """`score` too, unless the filter leaves one version."""
        return frozenset({"generate"} if self._kept(self.versions + 1) == 1 else {"generate", "score"})

    def fingerprint(self) -> dict[str, Json]:
        """Name, hyper-parameters, and the prompts' content."""
        fields = {k: v for k, v in asdict(self).items() if k != "prompt_file"}
        return {"name": self.name, **fields, "prompts": prompts_hash(PROMPTS, self.prompt_file)}

    def rewrite(self, row: SourceRow, bench: Bench) -> Work:
        """One row: the trace with each chunk in the version that was chosen."""
        output = admit(row)
        if isinstance(output, Outcome):
            return output
        chunks = split_chunks(output.thinking, self.min_words, self.max_words, self.boundary)
        attempts: list[Attempt] = []
        versions = yield from self._write(row, output, chunks, bench, attempts)
        chosen = yield from self._search(row, output, chunks, versions, bench)
        text = join_chunks([replace(chunk, text=version.text) for chunk, version in zip(chunks, chosen, strict=True)])
        whole = _whole(row, output, text, bench)
        found = check(whole, bench.gates)
        attempts.append(Attempt("trace", 0, text, tuple(found)))
        rows = () if found else (data_row(question_prompt(row), text, output, bench.student),)
        figures = _figures(output.thinking, text, chosen)
        status = "rejected" if found else "kept"
        return Outcome(status, rows, tuple(attempts), n_source_tokens=whole.n_source_tokens, figures=figures)

    def _write(
        self, row: SourceRow, output: Output, chunks: Sequence[Chunk], bench: Bench, attempts: list[Attempt]
    ) -> Generator[list[Call], list[Reply], list[list[Version]]]:
        """The versions of each chunk that pass the gates, the original first."""
        calls: list[Call] = [
            self._call(row, chunk, bench, at, n) for at, chunk in enumerate(chunks) for n in range(self.versions)
        ]
        replies = iter((yield calls) if calls else [])
        found, before = [], ""
        for at, chunk in enumerate(chunks):
            kept = [Version(0, chunk.text, bench.student.count(chunk.text))]
            for sample in range(self.versions):
                trace = next(replies)
                assert isinstance(trace, Trace)
                candidate = self._candidate(row, chunk, trace, bench)
                candidate = replace(candidate, before=before, answer_text=output.answer, last=at == len(chunks) - 1)
                wrong = check(candidate, bench.gates)
                if trace.error:
                    wrong = [Rejection("engine", trace.error), *wrong]
                attempts.append(Attempt(f"chunk-{at}", sample, candidate.text, tuple(wrong)))
                if not wrong and all(candidate.text != each.text for each in kept):
                    kept.append(Version(len(kept), candidate.text, candidate.n_tokens))
            found.append(kept)
            before += chunk.text + chunk.separator
        return found

    def _search(
        self,
        row: SourceRow,
        output: Output,
        chunks: Sequence[Chunk],
        versions: Sequence[Sequence[Version]],
        bench: Bench,
    ) -> Generator[list[Call], list[Reply], list[Version]]:
        """From left to right the likeliest of each chunk's shortest versions, given the question and those before."""
        encode = bench.scoring.encode
        prefix = _prompt(row, output, bench)
        chosen = []
        for chunk, listed in zip(chunks, versions, strict=True):
            shortest = sorted(listed, key=lambda each: (each.n_tokens, each.number))[: self._kept(len(listed))]
            if len(shortest) > 1:
                asked: list[Call] = [Score(prefix, tuple(encode(each.text))) for each in shortest]
                best = self._best(shortest, (yield asked))
            else:
                best = shortest[0]
            chosen.append(best)
            prefix = (*prefix, *encode(best.text + chunk.separator))
        return chosen

    def _best(self, versions: Sequence[Version], replies: Sequence[Reply]) -> Version:
        """The likeliest; ties go to the shorter one, then to the lower number, which is the order they stand in."""
        return max(zip(versions, map(self._likelihood, replies), strict=True), key=lambda pair: pair[1])[0]

    def _likelihood(self, reply: Reply) -> float:
        assert isinstance(reply, tuple)
        total = math.fsum(reply)
        return total / len(reply) if self.score == "mean" and reply else total

    def _kept(self, n: int) -> int:
        # A share such as 1/n must keep one, whatever its last bit.
        return max(1, math.ceil(self.keep * n - 1e-9))

    def instruction(self, row: SourceRow, chunk: Chunk) -> tuple[Message, ...]:
        """What the writer is shown."""
        template = read_prompts(PROMPTS, self.prompt_file)["compressors"][self.compressor]
        return (Message("user", filled(template, question=row.problem.question, chunk=chunk.text)),)

    def _call(self, row: SourceRow, chunk: Chunk, bench: Bench, at: int, sample: int) -> Generate:
        most = len(bench.engine.encode(chunk.text)) + 16
        sampling = Sampling(max_tokens=most, temperature=self.temperature, top_p=self.top_p)
        return Generate(f"chunk-{at}", sample, self.instruction(row, chunk), sampling, {"enable_thinking": False})

    def _candidate(self, row: SourceRow, chunk: Chunk, trace: Trace, bench: Bench) -> Candidate:
        raw = trace.answer_text if trace.thinking is not None else trace.text
        text = clean(raw)
        return Candidate(
            question=row.problem.question,
            source=chunk.text,
            text=text,
            raw=raw,
            answer=row.problem.answer,
            finish=trace.finish,
            n_source_tokens=bench.student.count(chunk.text),
            n_tokens=bench.student.count(text),
            instruction=self.instruction(row, Chunk(""))[-1].content,
        )


def _whole(row: SourceRow, output: Output, text: str, bench: Bench) -> Candidate:
    return Candidate(
        question=row.problem.question,
        source=output.thinking,
        text=text,
        raw=text,
        answer=row.problem.answer,
        answer_text=output.answer,
        n_source_tokens=bench.student.count(output.thinking),
        n_tokens=bench.student.count(text),
    )


def _prompt(row: SourceRow, output: Output, bench: Bench) -> tuple[int, ...]:
    """The question as the scorer sees it, thinking opened."""
    engine, tags = bench.scoring, bench.student.chat.tags
    ids = engine.prompt_ids(Request("row", messages=question_prompt(row)))
    opened = bench.student.chat.opens_thinking(ids)
    return (*ids, *engine.encode(output.lead if opened else tags.start_text + output.lead))


def _figures(source: str, text: str, chosen: Sequence[Version]) -> dict[str, Json]:
    """Reflection marks of source and rewrite, and how much was rewritten."""
    return {
        "chunks": len(chosen),
        "chunks_rewritten": sum(version.number > 0 for version in chosen),
        "reflections_source": count_reflections(source),
        "reflections_kept": count_reflections(text),
    }
