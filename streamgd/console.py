"""How a command shows its work: a live bar on a terminal, plain lines elsewhere, or nothing; and tables of facts.

All of it goes to standard error; standard output is for results. A display that cannot be written to any more (a
closed pipe, a full disk) falls silent, for no run may die of its progress bar.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from streamgd.plain import count_noun

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.1
#: After so many phases only some of their last lines are written, so that hundreds of short passes fill no log.
MANY_PHASES = 20
#: A list whose text is longer than this has a line for each item.
LONGEST_LIST = 80


@dataclass(frozen=True)
class Phase:
    """How far a phase is. Rates count from ``first_rows``, where the phase began or was resumed."""

    name: str
    done_rows: int
    total_rows: int
    loss: float | None
    first_rows: int
    elapsed_s: float
    bottleneck: str | None = None

    @property
    def rate(self) -> float | None:
        """Rows per second, or None when nothing can be said yet."""
        rows = self.done_rows - self.first_rows
        return rows / self.elapsed_s if rows > 0 and self.elapsed_s > 0 else None

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the phase ends at the present rate, or None where rate or total are not known."""
        if self.rate is None or self.total_rows <= 0:
            return None
        return max(self.total_rows - self.done_rows, 0) / self.rate

    def facts(self) -> list[str]:
        """Rows, rate, loss and remaining time, for the bar and for lines."""
        of_total = f" of {self.total_rows:,}" if self.total_rows > 0 else ""
        parts = [f"{self.done_rows:,}{of_total} row{'' if (self.total_rows or self.done_rows) == 1 else 's'}"]
        if self.rate is not None:
            parts.append(format_rate(self.rate))
        if self.loss is not None:
            parts.append(f"loss {self.loss:.6g}")
        if self.remaining_s is not None:
            parts.append(f"ETA {format_duration(self.remaining_s)}")
        return parts + self._bottleneck()

    def last_line(self) -> str:
        """The line that tells how the phase went."""
        duration = f" in {format_duration(self.elapsed_s)}" if self.elapsed_s > 0 else ""
        parts = [count_noun(self.done_rows, "row") + duration]
        if self.rate is not None:
            parts.append(format_rate(self.rate))
        if self.loss is not None:
            parts.append(f"loss {self.loss:.6g}")
        return f"{self.name}: {', '.join(parts + self._bottleneck())}"

    def _bottleneck(self) -> list[str]:
        return [f"bottleneck {self.bottleneck}"] if self.bottleneck else []


class Writer(Protocol):
    """Where a display writes; called by one thread at a time."""

    interval_s: float

    def line(self, text: str) -> None:
        """A line that stays."""

    def update(self, phase: Phase) -> None:
        """How far the phase is now."""

    def close(self) -> None:
        """Give the terminal back."""


class PlainLines:
    """Lines for logs and pipes."""

    interval_s = LINE_INTERVAL_S

    def __init__(self, stream: TextIO):
        self._stream = stream

    def line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def update(self, phase: Phase) -> None:
        self.line(f"{phase.name}: {', '.join(phase.facts())}")

    def close(self) -> None:
        pass


class LiveBar:
    """A bar at the foot of the terminal; lines that stay scroll above it."""

    interval_s = BAR_INTERVAL_S

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._bar: Progress | None = None  # from the first progress on: rich takes 0.1 s to import

    def line(self, text: str) -> None:
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, phase: Phase) -> None:
        if self._bar is None:
            self._bar = self._start()
        total = phase.total_rows if phase.total_rows > 0 else None
        facts = ", ".join(phase.facts())
        self._bar.update(
            self._bar.task_ids[0], description=phase.name, completed=phase.done_rows, total=total, facts=facts
        )
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        # No refresh thread and no redirection: this display alone says when something is written.
        bar = Progress(
            *columns,
            console=Console(file=self._stream),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        bar.add_task("", facts="")
        bar.start()
        return bar


class ConsoleDisplay:
    """Shows messages and progress by a writer and keeps the warnings; see ``training.display.Display``.

    Parameters
    ----------
    writer : Writer or None
        None shows nothing, but warnings are kept all the same.

    Attributes
    ----------
    warnings : list of str
        Every warning so far, in order, each once.
    """

    def __init__(self, writer: Writer | None):
        self.warnings: list[str] = []
        self._writer = writer
        self._lock = threading.RLock()
        self._next_update_s = time.monotonic() + (writer.interval_s if writer else 0.0)
        self._name: str | None = None  # the phase that is under way or the last one that ended
        self._ended = True
        self._started_s = 0.0
        self._first_rows = 0
        self._latest: tuple[str, int, int, float | None, float, str | None] = ("", 0, 0, None, 0.0, None)
        self._phases_ended = 0
        self._next_last_line_s = 0.0
        self._held_line: str | None = None

    def message(self, text: str) -> None:
        self._line(text)

    def warn(self, text: str) -> None:
        with self._lock:
            if text in self.warnings:
                return
            self.warnings.append(text)
        self._line(f"warning: {text}")

    def progress(
        self, phase: str, done_rows: int, total_rows: int, loss: float | None, bottleneck: str | None = None
    ) -> None:
        if self._writer is None:
            return
        now_s = time.monotonic()
        # Without the lock, so that most calls cost next to nothing: at worst a number is shown a moment later.
        begins = phase != self._name
        if not begins:
            self._latest = (phase, done_rows, total_rows, loss, now_s, bottleneck)
        ends = 0 < total_rows <= done_rows
        if now_s < self._next_update_s and not begins and not ends:
            return
        with self._lock:
            if phase != self._name:
                self._end_phase()
                self._name, self._ended, self._started_s, self._first_rows = phase, False, now_s, done_rows
                self._latest = (phase, done_rows, total_rows, loss, now_s, bottleneck)
            if ends:
                self._end_phase()
            elif now_s >= self._next_update_s and not self._ended:
                self._next_update_s = now_s + self._writer.interval_s
                self._write(lambda writer: writer.update(self._now()))

    def close(self) -> None:
        with self._lock:
            self._end_phase()
            if self._held_line is not None:
                self._line(self._held_line)
                self._held_line = None
            self._write(lambda writer: writer.close())

    def _now(self) -> Phase:
        """The latest report of the phase that is under way."""
        name, done_rows, total_rows, loss, now_s, bottleneck = self._latest
        return Phase(name, done_rows, total_rows, loss, self._first_rows, now_s - self._started_s, bottleneck)

    def _end_phase(self) -> None:
        """Write the last line of the phase that is under way; hold it back when there are too many."""
        if self._ended:
            return
        self._ended = True
        if self._latest[1] == 0:
            return  # nothing was counted
        now_s = time.monotonic()
        self._phases_ended += 1
        if self._phases_ended <= MANY_PHASES or now_s >= self._next_last_line_s:
            self._line(self._now().last_line())
            self._held_line = None
            self._next_last_line_s = now_s + LINE_INTERVAL_S
        else:
            self._held_line = self._now().last_line()

    def _line(self, text: str) -> None:
        self._write(lambda writer: writer.line(" ".join(text.splitlines())))

    def _write(self, write: Callable[[Writer], None]) -> None:
        with self._lock:
            if self._writer is not None:
                try:
                    write(self._writer)
                except (OSError, ValueError):  # ValueError: the stream was closed
                    self._writer = None


def make_display(quiet: bool) -> ConsoleDisplay:
    """The display for where standard error leads: a live bar on a terminal, plain lines elsewhere.

    Parameters
    ----------
    quiet : bool
        Show nothing, but keep the warnings.
    """
    if quiet or sys.stderr is None:
        return ConsoleDisplay(None)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return ConsoleDisplay(LiveBar(sys.stderr))
    return ConsoleDisplay(PlainLines(sys.stderr))


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one blank.

    >>> one_line("cut\\n  short")
    'cut short'
    """
    return " ".join(text.split())


def format_duration(seconds: float) -> str:
    """A duration for people.

    >>> format_duration(0.042), format_duration(75), format_duration(7380)
    ('0.04 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_rate(rows_per_s: float) -> str:
    """A speed for people.

    >>> format_rate(19_974_298), format_rate(5_300)
    ('19.97 M rows/s', '5,300 rows/s')
    """
    return f"{rows_per_s / 1e6:.2f} M rows/s" if rows_per_s >= 1e6 else f"{rows_per_s:,.0f} rows/s"


def format_value(value: Any) -> str:
    """One value for people: numbers with separators, lists joined by commas.

    >>> format_value(1234567), format_value(0.45601561), format_value(["a", "b"])
    ('1,234,567', '0.4560156', 'a, b')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.7g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    return str(value)


def format_facts(facts: dict[str, Any], indent: str = "") -> str:
    """Aligned lines of name and value, without empty ones; a dictionary becomes indented lines below its name.

    >>> print(format_facts({"rows": 1000, "block_rows": 16, "left_out": {"id": "differs in every row"}}))
    rows        1,000
    block rows  16
    left out
      id        differs in every row
    """
    rows = list(_fact_rows(facts, indent))
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def _fact_rows(facts: dict[str, Any], indent: str) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        # Keys of the program are field names; keys below them are the user's columns and stay as they are.
        label = indent + (name if indent else name.replace("_", " "))
        if isinstance(value, dict | list) and not value:
            continue
        if isinstance(value, dict):
            yield label, ""
            yield from _fact_rows(value, indent + "  ")
        elif isinstance(value, list) and len(format_value(value)) > LONGEST_LIST:
            yield label, format_value(value[0])
            yield from (("", format_value(item)) for item in value[1:])
        else:
            yield label, format_value(value)


_ESCAPED = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})


def format_table(header: list[str], rows: list[list[Any]]) -> str:
    """A table with aligned columns; numbers are right-aligned. Line breaks and tabs are shown as in Python.

    >>> print(format_table(["name", "rows"], [["a", 1000], ["b\\nc", 5]]))
    name   rows
    a     1,000
    b\\nc      5
    """
    cells = [[format_value(value).translate(_ESCAPED) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]
    to_the_right = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(header))]

    def aligned(line: list[str]) -> str:
        columns = zip(line, widths, to_the_right, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in columns).rstrip()

    return "\n".join(map(aligned, [header, *cells]))
