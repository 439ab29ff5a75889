"""A display for tests: keeps what it is told, and does something once when a phase is told of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Stands for the first message: everything is resolved, and nothing is read yet.
RESOLVED = "resolved"


class Listener:
    """Takes what ``training.display.Display`` is told.

    Parameters
    ----------
    phase : str
        What the name of the phase begins with, or ``RESOLVED``.
    act : callable, optional
        Called once, when that phase is told of for the first time.

    Attributes
    ----------
    told, warnings, phases : list of str
        Messages and warnings in one list, warnings alone, and phases in the order they began.
    """

    def __init__(self, phase: str = "", act: Callable[[], Any] | None = None):
        self.told: list[str] = []
        self.warnings: list[str] = []
        self.phases: list[str] = []
        self._phase = phase
        self._act = act

    def message(self, text: str) -> None:
        self.told.append(text)
        self._reached(RESOLVED)

    def warn(self, text: str) -> None:
        self.told.append(text)
        self.warnings.append(text)

    def progress(
        self, phase: str, done_rows: int, total_rows: int, loss: float | None, bottleneck: str | None = None
    ) -> None:
        if phase not in self.phases[-1:]:
            self.phases.append(phase)
        self._reached(phase)

    def close(self) -> None: ...

    def then(self, act: Callable[[], Any]) -> None:
        """Do this when the phase is told of again."""
        self._act = act

    def _reached(self, phase: str) -> None:
        if self._act is not None and phase.startswith(self._phase):
            act, self._act = self._act, None
            act()
