"""Traces from what a server said, counted as exactly as its answer allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval_math.records import Json, Request, Trace

from ..thinking import Split, ThinkTags
from .openai_wire import Answer
from .work import Desk, Work, failed_trace

Counted = Literal["ids", "tokenizer", "usage"]


@dataclass(frozen=True)
class Reader:
    """Writes traces; ``desk`` is None without a local tokenizer."""

    desk: Desk | None
    provenance: Mapping[str, Json]

    def trace(self, request: Request, work: Work | None, answer: Answer) -> Trace:
        """The trace of one answer."""
        if self.desk is None or work is None:
            return self._by_usage(request, answer)
        if answer.ids is not None:
            return self._by_ids(self.desk, work, answer, answer.ids)
        return self._by_tokenizer(self.desk, work, answer)

    def failed(self, request: Request, error: str) -> Trace:
        """The trace of a request that the server did not serve."""
        return failed_trace(request, error, self._provenance(request, None))

    def _by_ids(self, desk: Desk, work: Work, answer: Answer, ids: Sequence[int]) -> Trace:
        """As the engines in this process write it; where the server rendered otherwise, its prompt ids count."""
        if answer.prompt_ids is not None and answer.prompt_ids != work.ids:
            work = replace(work, ids=answer.prompt_ids)
        trace = desk.finished(work, ids, answer.finish)
        return replace(trace, provenance=self._provenance(work.request, "ids"))

    def _by_tokenizer(self, desk: Desk, work: Work, answer: Answer) -> Trace:
        """The text encoded again; its ids are a count, not what was generated."""
        tags = desk.chat.tags
        text = _tagged(answer, tags, desk.chat.opens_thinking(work.ids[: work.n_prompt]))
        if work.request.sampling.stop_at_think_end and answer.finish == "stop" and tags.end_text not in text:
            text += tags.end_text
        trace = desk.finished(work, desk.chat.encode(text), answer.finish)
        return replace(trace, token_ids=None, provenance=self._provenance(work.request, "tokenizer"))

    def _by_usage(self, request: Request, answer: Answer) -> Trace:
        cut = _cut_text(answer, request.sampling.stop_at_think_end)
        return Trace(
            problem_id=request.problem_id,
            sample=request.sample,
            method="",
            text=_tagged(answer, ThinkTags(), opened=True),
            thinking=cut.thinking,
            answer_text=cut.answer,
            n_prompt_tokens=answer.n_prompt,
            n_thinking_tokens=cut.n_thinking,
            n_answer_tokens=cut.n_answer,
            finish=answer.finish,
            n_forward=cut.n_thinking + cut.n_answer,
            token_ids=answer.ids,
            provenance=self._provenance(request, "usage"),
        )

    def _provenance(self, request: Request, counted: Counted | None) -> Mapping[str, Json]:
        shown: dict[str, Json] = {**self.provenance, "seed": request.sampling.seed}
        return shown if counted is None else shown | {"counted": counted}


def _tagged(answer: Answer, tags: ThinkTags, opened: bool) -> str:
    """The output as the model wrote it: reasoning that a server split off is put back between its tags."""
    if answer.reasoning is None:
        return answer.text
    start = "" if opened else tags.start_text
    closed = bool(answer.text) or answer.finish == "stop"
    return start + answer.reasoning + (tags.end_text + answer.text if closed else "")


def _cut_text(answer: Answer, stopped_at_end: bool) -> Split:
    """Thinking and answer by the server's reasoning field or by the tags; counts from its usage."""
    thinking, text, closed = _parts(answer, stopped_at_end)
    total = answer.n_tokens if answer.n_tokens is not None else len(answer.ids or ())
    if thinking is None:
        return Split(None, text, 0, total, False)
    share = len(thinking) / max(1, len(thinking) + len(text)) if text else 1.0
    n_thinking = min(total, answer.n_reasoning if answer.n_reasoning is not None else round(total * share))
    return Split(thinking, text, n_thinking, total - n_thinking, closed)


def _parts(answer: Answer, stopped_at_end: bool) -> tuple[str | None, str, bool]:
    """Thinking, answer, and whether thinking ended."""
    tags, ended = ThinkTags(), answer.finish == "stop"
    if answer.reasoning is not None:
        return answer.reasoning, answer.text, bool(answer.text) or ended
    before, tag, after = answer.text.partition(tags.end_text)
    opened = before.lstrip().startswith(tags.start_text)
    if tag or opened or (stopped_at_end and ended):
        return before.replace(tags.start_text, "", 1), after, bool(tag) or ended
    return None, answer.text, False
