"""What the program tells while it works: the interface between the loops and the face that shows it."""

from __future__ import annotations

from typing import Protocol


class Display(Protocol):
    """Takes what is to be told. Every method may be called from several threads."""

    def message(self, text: str) -> None:
        """One line of what was resolved or what happened."""

    def warn(self, text: str) -> None:
        """One line of what the user should look at."""

    def progress(
        self, phase: str, done_rows: int, total_rows: int, loss: float | None, bottleneck: str | None = None
    ) -> None:
        """How far a phase is; called often, so an implementation must be cheap.

        Parameters
        ----------
        phase : str
            ``prepare``, ``finalise``, ``epoch 1/5``, ``pass 3``, ``evaluate`` or ``predict``. A new name ends the
            phase before it.
        done_rows, total_rows : int
            Rows of this phase; a ``total_rows`` of 0 says that it is not known.
        loss : float or None
            The progressive loss, where there is one.
        bottleneck : str or None
            The stage that takes most of the time, see ``streamgd.stopwatch``; None where nothing is known.
        """

    def close(self) -> None:
        """End the last phase. May be called twice."""


class Silent:
    """Tells nothing."""

    def message(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def progress(
        self, phase: str, done_rows: int, total_rows: int, loss: float | None, bottleneck: str | None = None
    ) -> None:
        pass

    def close(self) -> None:
        pass
