"""What a run says to who waits for it: lines on standard error, and a bar on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_EVERY_S = 15.0
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
)


class Talk:
    """A voice with a name, so that two runs side by side can be told apart."""

    def __init__(self, name: str = "") -> None:
        self._prefix = f"[{name}] " if name else ""
        self._console = Console(stderr=True, highlight=False)
        self._bar = not name and sys.stderr.isatty()

    def line(self, text: str) -> None:
        """Says one line."""
        self._console.print(self._prefix + text, markup=False, soft_wrap=True)

    def track(self, rows: Iterable[T], total: int, what: str, start: int = 0) -> Iterator[T]:
        """The rows as they come, with word of how far it is; a row may be a mapping of numbers."""
        if self._bar:
            yield from self._with_bar(rows, total, what, start)
        else:
            yield from self._with_lines(rows, total, what, start)

    @contextmanager
    def bar(self, what: str, total: int) -> Generator[Callable[[int, int], None]]:
        """What is told how far something is, as (done, of how many)."""
        if self._bar:
            with Progress(*_COLUMNS, console=self._console) as progress:
                bar = progress.add_task(what, total=total)
                yield lambda done, total: progress.update(bar, completed=done, total=total)
        else:
            yield self._lines(what)

    def _lines(self, what: str) -> Callable[[int, int], None]:
        said = 0.0

        def tell(done: int, total: int) -> None:
            nonlocal said
            if done == total or time.monotonic() - said > _EVERY_S:
                self.line(f"{what} {done}/{total}")
                said = time.monotonic()

        return tell

    def _with_bar(self, rows: Iterable[T], total: int, what: str, start: int) -> Iterator[T]:
        numbers = TextColumn("{task.fields[numbers]}")
        with Progress(*_COLUMNS, numbers, console=self._console) as progress:
            bar = progress.add_task(what, total=total, completed=start, numbers="")
            for row in rows:
                progress.update(bar, advance=1, numbers=_numbers(row))
                yield row

    def _with_lines(self, rows: Iterable[T], total: int, what: str, start: int) -> Iterator[T]:
        said = 0.0
        for number, row in enumerate(rows, start=start + 1):
            if number == total or time.monotonic() - said > _EVERY_S:
                self.line(f"{what} {number}/{total}  {_numbers(row)}".rstrip())
                said = time.monotonic()
            yield row


_SHOWN = ("loss", "reward", "reward_answer", "answered", "tool_use", "tool_errors", "turns")


def _numbers(row: object) -> str:
    if not isinstance(row, dict):
        return ""
    return "  ".join(f"{name} {row[name]:.3f}" for name in _SHOWN if name in row)
