"""What a loop needs of its surroundings: checkpoints when they are due, the history, the display, the row log."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from streamgd.errors import ConfigError, storage_errors
from streamgd.kernels.compile import Listener, listening
from streamgd.stopwatch import Stopwatch
from streamgd.training.checkpoint import best_holdout_loss
from streamgd.training.display import Display
from streamgd.training.interrupt import Interrupt
from streamgd.training.rundir import RunDirectory


class HasHistory(Protocol):
    """A state that remembers how long its history is."""

    history_bytes: int
    epoch: int
    learning_rate: float

    @property
    def steps(self) -> int: ...


@dataclass
class RunContext:
    """The surroundings of a training loop. Nothing in it decides a bit of the result."""

    run: RunDirectory
    display: Display
    interrupt: Interrupt
    checkpoint_every_s: float
    row_log: Path | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    _saved_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.row_log is not None and self.row_log.exists() and not self.row_log.is_file():
            raise ConfigError(f"--row-log {self.row_log} is no regular file. Name another.")

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint now, and wait for it."""
        self.run.checkpoints.save(state)
        self._saved_s = time.monotonic()

    def begin_save(self, state: dict[str, Any]) -> None:
        """Copy the state for a checkpoint; it is written while the loop goes on."""
        self.run.checkpoints.begin(state)
        self._saved_s = time.monotonic()

    def after_epoch(self, state: dict[str, Any]) -> None:
        """Begin a checkpoint unless one is being written: epochs may be shorter than a write.

        The best epoch by holdout loss is always kept.
        """
        if not self.run.checkpoints.busy or best_holdout_loss(state) is not None:
            self.begin_save(state)

    def after_step(self, state: Callable[[], dict[str, Any]]) -> None:
        """Begin a checkpoint if one is due; write one and stop if the run is asked to."""
        self.run.checkpoints.poll()
        self.interrupt.progressed = True
        error = self.interrupt.requested()
        if error is not None:
            self.save(state())
            raise error
        if time.monotonic() - self._saved_s >= self.checkpoint_every_s:
            self.begin_save(state())

    def append_history(self, state: HasHistory, line: dict[str, Any]) -> None:
        """Add a line to the history; what a killed run wrote after its last checkpoint is cut off."""
        state.history_bytes = self.run.append_history(line, state.history_bytes)

    def event(self, state: HasHistory, event: str, text: str) -> None:
        """Record and tell something that happened."""
        self.append_history(
            state,
            {
                "event": event,
                "epoch": state.epoch,
                "steps": state.steps,
                "learning_rate": state.learning_rate,
                "text": text,
            },
        )
        self.display.warn(text)

    def log_rows(self, row_numbers: np.ndarray, rows_before: int) -> None:
        """Write the numbers of the rows just used after the ``rows_before`` used earlier."""
        if self.row_log is None:
            return
        with storage_errors(f"write {self.row_log}"), self.row_log.open("ab") as file:
            file.truncate(8 * rows_before)
            file.write(np.ascontiguousarray(row_numbers, "<u8").tobytes())


class RowCounter:
    """Adds up the rows that threads have done in each phase, for the display."""

    def __init__(self, display: Display, total_rows: int, stopwatch: Stopwatch):
        self._display = display
        self._total_rows: defaultdict[str, int] = defaultdict(lambda: total_rows)
        self._stopwatch = stopwatch
        self._rows: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, phase: str, rows: int, total_rows: int | None = None) -> None:
        """Tell that ``rows`` more are done; 0 begins a phase, which may have another number of rows than there are."""
        with self._lock:
            if total_rows is not None:
                self._total_rows[phase] = total_rows
            self._rows[phase] = self._rows.get(phase, 0) + rows
            # Finalise is a stage of its own.
            bottleneck = self._stopwatch.bottleneck if phase == "prepare" else None
            self._display.progress(phase, self._rows[phase], self._total_rows[phase], None, bottleneck)


def waiting_for_loops(display: Display, interrupt: Interrupt) -> AbstractContextManager[None]:
    """Inside, ``display`` is told that loops are compiled, and ``interrupt`` asked before each."""

    def tell(folder: str | None) -> None:
        if folder is None:
            kept = "so will each run, as no folder for compiled loops can be written: set NUMBA_CACHE_DIR to one"
        else:
            kept = f"later runs find the loops in {folder}"
        display.message(f"compiling, which may take half a minute; {kept}")

    return listening(Listener(tell, interrupt.check_unless_noticed))
