"""What stops a run from outside: signals, ``--pause-after`` and ``--max-time``.

Handlers only set a flag; the loops ask between blocks. A second signal ends the process at once.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from streamgd.data.asking import stop_asking
from streamgd.errors import InterruptedRunError, PausedError, StreamgdError


class Interrupt:
    """Context in which SIGINT and SIGTERM are turned into a question that the loops ask.

    Parameters
    ----------
    pause_after_s, max_time_s : float or None
        Seconds from now.

    Attributes
    ----------
    progressed : bool
        Whether this start did something that the next one need not do again; the loops set it.
    """

    def __init__(self, pause_after_s: float | None = None, max_time_s: float | None = None):
        self._started_s = time.monotonic()
        self._pause_after_s = pause_after_s
        self._max_time_s = max_time_s
        self.progressed = False
        self._signal: int | None = None
        self._noticed = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        stop_asking.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signal = number
        stop_asking.set()
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def requested(self) -> StreamgdError | None:
        """The error to end with, if a signal came or the time to pause has come."""
        error = self._found()
        self._noticed |= error is not None
        return error

    def _found(self) -> StreamgdError | None:
        if self._signal == signal.SIGINT:
            return InterruptedRunError("interrupted. The same command goes on from the last checkpoint.")
        if self._signal is not None:
            return PausedError("stopped by a signal. The same command goes on from the last checkpoint.")
        if self._pause_after_s is not None and self.elapsed_s > self._pause_after_s:
            return PausedError("--pause-after is over. The same command goes on from the last checkpoint.")
        return None

    def check(self) -> None:
        """Raise what :meth:`requested` gives; for phases that keep their own note of how far they are."""
        error = self.requested()
        if error is not None:
            raise error

    def check_repeated(self) -> None:
        """As :meth:`check`, for what a stop means doing all over again: a pause waits until there was progress.

        Else starts that are paused before its end would never get past it.
        """
        error = self.requested()
        if error is not None and (self._signal is not None or self.progressed):
            raise error

    def check_unless_noticed(self) -> None:
        """As :meth:`check_repeated`, but not when a stop is under way: what ends a run shall come to its end."""
        if not self._noticed:
            self.check_repeated()

    @property
    def time_is_over(self) -> bool:
        """Whether ``--max-time`` has passed."""
        return self._max_time_s is not None and self.elapsed_s > self._max_time_s
