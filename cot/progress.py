"""The progress of a run: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS = 15.0


class Progress:
    """Done and total, tokens per second, accuracy so far, time left; written to ``stream`` (standard error).

    Args:
        total: units of work in the run.
        done: units that were stored before; they do not count for the speed.
    """

    def __init__(self, label: str, total: int, done: int = 0, *, stream: TextIO | None = None) -> None:
        self._label = label
        self._total = total
        self._before = done
        self._done = done
        self._tokens = 0
        self._graded = 0
        self._correct = 0
        self._stream = stream or sys.stderr
        self._started = self._shown = time.monotonic()
        self._bar = _bar(label, total, done, self._stream) if self._stream.isatty() else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._before:
            self._write_line()

    def answered(self, n_tokens: int) -> None:
        """One more unit is done."""
        self._done += 1
        self._tokens += n_tokens
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures(), refresh=False)
            self._bar.update()
        elif time.monotonic() - self._shown >= LINE_SECONDS:
            self._write_line()

    def graded(self, correct: bool) -> None:
        """One more trace has a verdict."""
        self._graded += 1
        self._correct += correct

    def line(self) -> str:
        """What is known now, as one line of text."""
        parts = [f"{self._label}: {self._done}/{self._total}", self._figures()]
        rate = (self._done - self._before) / max(time.monotonic() - self._started, 1e-9)
        if rate > 0 and self._done < self._total:
            parts.append(f"{_clock((self._total - self._done) / rate)} left")
        return ", ".join(part for part in parts if part)

    def _figures(self) -> str:
        seconds = time.monotonic() - self._started
        speed = f"{self._tokens / max(seconds, 1e-9):,.0f} tokens/s" if self._tokens else ""
        accuracy = f"accuracy {self._correct / self._graded:.3f}" if self._graded else ""
        return ", ".join(part for part in (speed, accuracy) if part)

    def _write_line(self) -> None:
        self._shown = time.monotonic()
        self._stream.write(self.line() + "\n")
        self._stream.flush()


def _bar(label: str, total: int, done: int, stream: TextIO) -> tqdm[NoReturn]:
    from tqdm import tqdm

    shape = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left, {postfix}]"
    return tqdm(total=total, initial=done, desc=label, file=stream, dynamic_ncols=True, bar_format=shape)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
